"""Judgements as what an encoder reads: its own tokenizer's ids of whole texts, and their scores in one forward pass.

An item of `reward_items.py` with no prompt of its own: an encoder looks both ways, so nothing can be read once for
several answers. Shapes: A answers of all items, T time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trine.algorithms.text_judgements import ranked_pairs
from trine.data.packing import pad
from trine.records import Judgement
from trine.rewards.encoder import EncoderSettings, encoded, logits_of, unit_of
from trine.runtime.progress import progress_bar
from trine.stages.preferences.reward_items import Item, Standard


def encoder_items(
    judgements: Sequence[Judgement], tokenizer: Any, settings: EncoderSettings, standard: Standard
) -> list[Item]:
    """An item for each judgement; texts longer than the encoder reads lose their end, as they do when it scores."""
    found = []
    with progress_bar("encoding", len(judgements)) as bar:
        for record, judgement in enumerate(judgements):
            answers = tuple(encoded(tokenizer, answer, settings) for answer in judgement.answers)
            found.append(_item(judgement, answers, standard, record))
            bar.advance_or_stop()
    return found


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


class EncoderScores(nn.Module):
    """The scores of the answers of items, in the items' order: what is trained."""

    def __init__(self, model: nn.Module, settings: EncoderSettings, pad_id: int, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.settings, self.pad_id, self.compute_dtype = model, settings, pad_id, compute_dtype

    def forward(self, items: Sequence[Item]) -> Tensor:
        """[A], fp32."""
        device = next(self.model.parameters()).device
        ids, lengths = (each.to(device) for each in pad([ids for item in items for ids in item.answers], self.pad_id))
        return unit_of(logits_of(self.model, ids, lengths, self.compute_dtype), self.settings)
