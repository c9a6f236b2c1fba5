"""Tasks asked of a stand-in that answers by rule, so that what is right is known without a model."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.tiny import tiny_tokenizer
from trine.engine.sampling import Sampling
from trine.records import Rollout
from trine.stages.evaluation.task import Prompt, Task
from trine.stages.evaluation.task_files import make_task, read_task

CONTEXT = 160


class Rule:
    """A subject whose prompts are kept, and whose answers a function of the prompt gives. Characters are its tokens."""

    name, asks_in_chat = "rule", False
    tokenizer = tiny_tokenizer()

    def __init__(self, answer: Callable[[str], str] = lambda prompt: "", context: int = 10_000, *, chat: bool = False):
        self.answer, self.context, self.asks_in_chat = answer, context, chat
        self.prompts: list[str] = []

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        turns = [f"<{each.role}>{each.content}" for each in prompt] if isinstance(prompt, tuple) else [prompt]
        return [ord(character) for character in "".join(turns)]

    def continuation_ids(self, prompt: Prompt, responses: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        return [(self.prompt_ids(prompt), [ord(each) for each in response]) for response in responses]

    def log_probs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """The answer's characters are likely, any other text's are not."""
        found = []
        for before, after in pairs:
            prompt, response = ("".join(map(chr, ids)) for ids in (before, after))
            self.prompts.append(prompt)
            found.append([-0.1 if response == self.answer(prompt) else -1.0] * len(after))
        return found

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, samples: int = 1, *, answering: bool = False
    ) -> list[Rollout]:
        self.prompts += ["".join(map(chr, ids)) for ids in prompts]
        answers = [tuple(ord(each) for each in self.answer("".join(map(chr, ids)))) for ids in prompts]
        return [
            Rollout(tuple(ids), answer, (0.0,) * len(answer), "stop")
            for ids, answer in zip(prompts, answers, strict=True)
            for _ in range(samples)
        ]

    def text(self, rollout: Rollout, stop_strings: Sequence[str] = (), *, answering: bool = False) -> str:
        text = "".join(map(chr, rollout.response_ids))
        return text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]


def task_of(folder: Path, rows: Sequence[Mapping[str, Any]], seed: int = 0, **settings: object) -> Task:
    """The task that a YAML file (JSON is YAML) of these settings makes of the records."""
    (folder / "records.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows))
    (folder / "task.yaml").write_text(json.dumps({"records": "records.jsonl", **settings}, ensure_ascii=False))
    return make_task(read_task(str(folder / "task.yaml"), {}), seed)


def parities(count: int) -> list[dict[str, Any]]:
    return [{"n": n, "parity": "odd" if n % 2 else "even"} for n in range(count)]


PARITY = {"template": "{{ n }} is", "answer": " {{ parity }}", "separator": "\n"}
CHOICE = {**PARITY, "kind": "choice", "choices": [" even", " odd"]}
ANSWER = {**PARITY, "kind": "answer", "max_new_tokens": 8}


def right(prompt: str) -> str:
    """What a model that knows says; of a question without content, always the same."""
    asked = prompt.split()[-2]
    return " odd" if asked.isdecimal() and int(asked) % 2 else " even"
