"""How well a reward model ranks held-out pairs, beside the accuracy of answer length or a bag of tokens alone."""

from collections.abc import Sequence
from typing import Any

import torch

from trine.algorithms.text_ranking import pair_accuracy, reliability
from trine.data.pair_baselines import bag_of_tokens_accuracy, length_accuracy
from trine.stages.preferences.judged import Judged, told_pairs
from trine.stages.preferences.normalization import Normalization
from trine.stages.preferences.reward_items import Item

LENGTHS_AGREE_WITHIN = 2


def report_on(
    train: Sequence[Item], held_out: Sequence[Judged], vocab_size: int, scale: Normalization
) -> dict[str, Any]:
    """The figures of a trained model on held-out pairs, ties left out; none without them.

    `reliability` is that of the probabilities the model was trained to give: sigmoid of the score difference before
    normalisation scaled it.
    """
    pairs = [each for each in held_out if each.kind == "pair" and told_pairs(each)]
    if not pairs:
        return {}
    chosen, rejected = (torch.tensor([told_pairs(each)[0][side] for each in pairs]) for side in (0, 1))
    sides = [_sides(each) for each in pairs]
    alike = torch.tensor([abs(len(first) - len(second)) <= LENGTHS_AGREE_WITHIN for first, second in sides])
    told = [(item.answers, item.pairs[0]) for item in train if item.kind == "pair"]
    trained = [(answers[better], answers[worse]) for answers, (better, worse, _) in told]
    return {
        "accuracy": pair_accuracy(chosen, rejected),
        "accuracy_alike_lengths": pair_accuracy(chosen[alike], rejected[alike]),
        "pairs": len(pairs),
        "pairs_alike_lengths": int(alike.sum()),
        **(_baselines(trained, sides, vocab_size) if trained else {}),
        "reliability": reliability(chosen - rejected),
        "chosen_scores": (scale.gain * chosen + scale.offset).tolist(),
        "rejected_scores": (scale.gain * rejected + scale.offset).tolist(),
    }


def _sides(judged: Judged) -> tuple[Sequence[int], Sequence[int]]:
    """The better and the worse answer's ids."""
    better = judged.scores.index(told_pairs(judged)[0][0])
    return judged.ids[better], judged.ids[1 - better]


def _baselines(trained: Sequence[tuple[Any, Any]], sides: Sequence[tuple[Any, Any]], vocab_size: int) -> dict[str, Any]:
    return {
        "accuracy_length_only": length_accuracy(trained, sides),
        "accuracy_bag_of_tokens": bag_of_tokens_accuracy(trained, sides, vocab_size),
    }
