"""Preference pairs as token ids, and a reward model's scores of both answers. Shapes: P pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trine.data.packing import PairRows, pack_pairs
from trine.model.heads import ScoreModel
from trine.records import PreferencePair
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import Chat

PAIRS_SCORED_AT_ONCE = 32


@dataclass(frozen=True)
class Pair:
    """A preference pair as token ids: prompt, and each answer with its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


def render(preferences: Sequence[PreferencePair], chat: Chat, context: int, place: Path) -> list[Pair]:
    """Preference pairs as token ids; raises `TrineError` naming the first that exceeds the model's context."""
    pairs = []
    for number, preference in enumerate(preferences, 1):
        pair = Pair(
            chat.prompt_ids(preference.prompt),
            chat.response_ids(preference.chosen, ended=preference.chosen_ended),
            chat.response_ids(preference.rejected, ended=preference.rejected_ended),
        )
        if pair.longest > context:
            raise TrineError(
                f"{place}:{number}: the pair has {pair.longest} tokens, more than the context of {context}"
            )
        pairs.append(pair)
    return pairs


def score_pairs(model: ScoreModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Scores [P] of the chosen and of the rejected answers, both read in one row behind the one prompt."""
    rows = pack_pairs([(pair.prompt, pair.chosen, pair.rejected) for pair in pairs])
    device = model.head.weight.device
    rows = PairRows(*(tensor.to(device) for tensor in (rows.ids, rows.positions, rows.segments, rows.ends)))
    bias = rows.bias(model.trunk.compute_dtype)
    scores = model(rows.ids, rows.ends, positions=rows.positions, bias=bias)
    return scores[:, 0], scores[:, 1]


@torch.no_grad()
def score_all(model: ScoreModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """`score_pairs` of many pairs, those of like length together; fp32 on the CPU, in the order given."""
    order = sorted(range(len(pairs)), key=lambda index: pairs[index].tokens)
    chosen, rejected = torch.empty(len(pairs)), torch.empty(len(pairs))
    for start in range(0, len(order), PAIRS_SCORED_AT_ONCE):
        batch = order[start : start + PAIRS_SCORED_AT_ONCE]
        scores = score_pairs(model, [pairs[index] for index in batch])
        chosen[batch], rejected[batch] = (score.cpu() for score in scores)
    return chosen, rejected
