"""Texts of a few tokens in which each kind of judgement is about words of its own, so that no kind teaches another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trine.tokenizer.tokenizer import Tokenizer

Record = dict[str, Any]
KINDS = ("labels", "scores", "pairs", "rankings")
ASPECT = {kind: place for place, kind in enumerate(KINDS)}


class Texts:
    """Random texts of 8 tokens, of a good and a bad word of their kind's own and others that say nothing."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        words = [tokenizer.token_bytes[place].decode("latin1") for place in range(len(tokenizer.token_bytes))]
        found = [word for word in words if word[:1] == " " and word[1:].isalpha() and len(tokenizer.encode(word)) == 1]
        # Fragments and whole words lie apart in a pretrained model: each kind finds good what the one before finds bad.
        self.good = [found[0], found[4], found[2], found[6]]
        self.bad = [found[5], found[1], found[7], found[3]]
        self.others = found[8:12]
        self.random = np.random.default_rng(seed)

    def text(self, kind: str) -> str:
        place = ASPECT[kind]
        return "".join(self.random.choice([self.good[place], self.bad[place], *self.others], size=8).tolist())

    def level(self, text: str, kind: str) -> int:
        """How many good words more than bad ones."""
        words, place = text.split(), ASPECT[kind]
        return words.count(self.good[place].strip()) - words.count(self.bad[place].strip())

    def labels(self, number: int) -> Record:
        text = self.text("labels")
        while not self.level(text, "labels"):
            text = self.text("labels")
        return {"text": text, "label": int(self.level(text, "labels") > 0)}

    def scores(self, number: int) -> Record:
        text = self.text("scores")
        return {"text": text, "score": 50 + 10 * self.level(text, "scores")}

    def pairs(self, number: int) -> Record:
        first, second = self.text("pairs"), self.text("pairs")
        levels = self.level(first, "pairs"), self.level(second, "pairs")
        chosen, rejected = (first, second) if levels[0] >= levels[1] else (second, first)
        return {"prompt": f"p{number}", "chosen": chosen, "rejected": rejected, "tie": levels[0] == levels[1]}

    def rankings(self, number: int) -> Record:
        """Of four answers, tied where they have the same level."""
        answers = [self.text("rankings") for _ in range(4)]
        return {
            "prompt": f"r{number}",
            "answers": answers,
            "scores": [self.level(each, "rankings") for each in answers],
        }

    def write(self, folder: Path, count: int, kinds: Sequence[str] = KINDS) -> dict[str, Path]:
        folder.mkdir(exist_ok=True)
        for kind in kinds:
            rows = [json.dumps(getattr(self, kind)(number)) + "\n" for number in range(count)]
            (folder / f"{kind}.jsonl").write_text("".join(rows))
        return {kind: folder / f"{kind}.jsonl" for kind in kinds}
