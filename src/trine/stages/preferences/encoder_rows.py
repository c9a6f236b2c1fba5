"""Judgements as what an encoder reads: its own tokenizer's ids of whole texts, and their scores in one forward pass.

An item of `reward_items.py` with no prompt of its own: an encoder looks both ways, so nothing can be read once for
several answers. Shapes: A answers of all items, T time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trine.algorithms.text_judgements import ranked_pairs
from trine.data.packing import pad
from trine.records import Judgement
from trine.rewards.encoder import EncoderSettings, encoded, logits_of, unit_of
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar
from trine.stages.preferences.reward_items import Item, Standard

UNLIMITED = 1 << 30


class EncoderRenderer:
    """Turns judgements into items; `account` counts those that were cut or dropped.

    A text longer than `settings.max_tokens` is cut as the model will cut it, dropped, or an error, as `too_long` says.
    """

    def __init__(self, tokenizer: Any, settings: EncoderSettings, standard: Standard, too_long: str) -> None:
        self.tokenizer, self.settings, self.standard, self.too_long = tokenizer, settings, standard, too_long
        self.account = Counter[str]()

    def items(self, judgements: Sequence[Judgement]) -> list[Item]:
        """An item for each judgement that is kept. Raises `TrineError` naming the first that is too long."""
        found = []
        with progress_bar("encoding", len(judgements)) as bar:
            for record, judgement in enumerate(judgements):
                answers = tuple(encoded(self.tokenizer, answer, self.settings) for answer in judgement.answers)
                if self._keeps(judgement, answers):
                    found.append(_item(judgement, answers, self.standard, record))
                bar.advance_or_stop()
        return found

    def _keeps(self, judgement: Judgement, answers: Sequence[Sequence[int]]) -> bool:
        """A text as long as the limit may have been cut: only then is it encoded again, whole."""
        limit = self.settings.max_tokens
        if max(map(len, answers)) < limit:
            return True
        whole = replace(self.settings, max_tokens=UNLIMITED)
        longest = max(len(encoded(self.tokenizer, answer, whole)) for answer in judgement.answers)
        if longest <= limit:
            return True
        if self.too_long == "stop":
            raise TrineError(
                f"{judgement.name}: the {judgement.kind} has {longest} tokens, more than max_tokens={limit}; say "
                "too_long=cut or too_long=drop"
            )
        self.account["cut" if self.too_long == "cut" else "dropped"] += 1
        return self.too_long == "cut"


def _item(judgement: Judgement, answers: tuple[list[int], ...], standard: Standard, record: int) -> Item:
    said: dict[str, Any] = {}
    if judgement.ranking is not None:
        sure = judgement.probability
        pairs = ranked_pairs(judgement.ranking)
        said = {"pairs": tuple((a, b, likely if sure is None else sure) for a, b, likely in pairs)}
        said["ranking"] = judgement.ranking
    else:
        score = judgement.score
        said = {"target": float(bool(judgement.label)) if score is None else standard(score)}
    return Item(judgement.kind, [], answers, margin=judgement.margin, weight=judgement.weight, record=record, **said)


@dataclass(frozen=True)
class EncoderBatch:
    """Items, and their answers right-padded: `ids` [A, T] and `lengths` [A]."""

    items: Sequence[Item]
    ids: Tensor
    lengths: Tensor


def encoder_batch(items: Sequence[Item], pad_id: int, device: torch.device) -> EncoderBatch:
    """The answers of `items` in their order."""
    ids, lengths = pad([ids for item in items for ids in item.answers], pad_id)
    return EncoderBatch(items, ids.to(device), lengths.to(device))


class EncoderScores(nn.Module):
    """The scores of a batch's answers in one forward pass: what is trained."""

    def __init__(self, model: nn.Module, settings: EncoderSettings, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.settings, self.compute_dtype = model, settings, compute_dtype

    def forward(self, batch: EncoderBatch) -> Tensor:
        """[A], fp32, in the order of the items' answers."""
        return unit_of(logits_of(self.model, batch.ids, batch.lengths, self.compute_dtype), self.settings)
