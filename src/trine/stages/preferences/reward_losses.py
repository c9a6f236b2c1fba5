"""The loss of a batch of items, and what is logged of it, as sums with counts (`algorithms/text_judgements.py`).

Every record weighs its own weight times its kind's, so that what a step minimises is a mean over its records, whatever
kinds are in it. The loss and accuracy of each kind are logged as means over that kind's records. A pair's accuracy
leaves out ties. Shapes: A answers of all items, P pairs.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from trine.algorithms.text_judgements import (
    centring_losses,
    label_losses,
    pair_losses,
    plackett_luce_loss,
    score_losses,
)
from trine.algorithms.text_ranking import pair_wins
from trine.config.preferences import RewardConfig
from trine.records import JudgementKind, Term
from trine.stages.preferences.reward_items import Item, with_places

ACCURACIES: dict[JudgementKind, str] = {
    "label": "label_accuracy", "pair": "accuracy", "ranking": "ranking_accuracy",
}  # fmt: skip


def counts_of(items: Sequence[Item], kinds: Collection[JudgementKind], config: RewardConfig) -> dict[str, float]:
    """What the terms of `items` are divided by, summed over a step."""
    weights = {kind: sum(item.weight for item in items if item.kind == kind) for kind in kinds}
    told = {kind: sum(item.weight for item in items if item.kind == kind and _tells(item)) for kind in ACCURACIES}
    found = {"judgements": float(sum(weights.values()))}
    found |= {f"{kind}_loss": float(weight) for kind, weight in weights.items()}
    found |= {ACCURACIES[kind]: float(told[kind]) for kind in kinds if kind in ACCURACIES}
    if config.centring:
        found["centring"] = float(weights.get("pair", 0.0) + weights.get("ranking", 0.0))
    return found


def _tells(item: Item) -> bool:
    """Whether it says which of two is better, or whether one is good: a tie does not."""
    return item.kind == "label" or any(probability != 0.5 for _, _, probability in item.pairs)


def terms_of(
    items: Sequence[Item], scores: Tensor, kinds: Collection[JudgementKind], config: RewardConfig
) -> dict[str, Term]:
    """The sums over `items`, whose answers have the `scores` [A]."""
    losses, right = dict.fromkeys(kinds, scores.new_zeros(())), dict.fromkeys(kinds, scores.new_zeros(()))
    centring = scores.new_zeros(())
    for kind in kinds:
        placed = [(item, first) for item, first in with_places(items) if item.kind == kind]
        if placed and kind in ("label", "score"):
            losses[kind], right[kind] = _of_texts(kind, placed, scores, config)
        elif placed:
            losses[kind], right[kind], squares = _of_pairs(placed, scores, config)
            centring = centring + squares
            if kind == "ranking" and config.ranking_loss == "plackett_luce":
                losses[kind] = _plackett_luce(placed, scores)
    total = sum((getattr(config.weights, kind) * losses[kind] for kind in kinds), scores.new_zeros(()))
    terms = {"judgements": Term(total + config.centring * centring if config.centring else total)}
    terms |= {f"{kind}_loss": Term(losses[kind], weight=0.0) for kind in kinds}
    terms |= {ACCURACIES[kind]: Term(right[kind], weight=0.0) for kind in kinds if kind in ACCURACIES}
    return terms | ({"centring": Term(centring, weight=0.0)} if config.centring else {})


def _of_texts(
    kind: JudgementKind, placed: list[tuple[Item, int]], scores: Tensor, config: RewardConfig
) -> tuple[Tensor, Tensor]:
    """(loss, weight of those right) of labels or scores."""
    found = scores[[first for _, first in placed]]
    target = scores.new_tensor([item.target for item, _ in placed])
    weight = scores.new_tensor([item.weight for item, _ in placed])
    if kind == "score":
        return (weight * score_losses(found, target)).sum(), scores.new_zeros(())
    losses = label_losses(found, target, config.label_smoothing)
    return (weight * losses).sum(), (weight * ((found > 0) == (target > 0.5))).sum().detach()


def _of_pairs(placed: list[tuple[Item, int]], scores: Tensor, config: RewardConfig) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, weight of those right, centring) of pairs, and of rankings as all their pairs."""
    rows = [row for item, first in placed for row in _pair_rows(item, first, config.margin)]
    better, worse = (scores[[row[side] for row in rows]] for side in (0, 1))
    likely, margin, weight, told = (scores.new_tensor([row[column] for row in rows]) for column in (2, 3, 4, 5))
    losses = pair_losses(better, worse, likely, margin, config.label_smoothing)
    wins = pair_wins(better, worse)
    right = (torch.where(likely < 0.5, 1 - wins, wins) * told).sum().detach()
    centring = weight * centring_losses(better, worse) if config.centring else weight.new_zeros(1)
    return (weight * losses).sum(), right, centring.sum()


def _pair_rows(item: Item, first: int, margin: float) -> list[tuple[int, int, float, float, float, float]]:
    """(better, worse, probability, margin, weight in the loss, weight in the accuracy) of each pair."""
    telling = sum(probability != 0.5 for _, _, probability in item.pairs)
    return [
        (
            first + better, first + worse, probability, item.margin + margin if probability == 1.0 else 0.0,
            item.weight / len(item.pairs), item.weight / telling if probability != 0.5 else 0.0,
        )
        for better, worse, probability in item.pairs
    ]  # fmt: skip


def _plackett_luce(placed: list[tuple[Item, int]], scores: Tensor) -> Tensor:
    parts = [
        item.weight * plackett_luce_loss(scores[first : first + len(item.answers)], item.ranking)
        for item, first in placed
    ]
    return torch.stack(parts).sum()
