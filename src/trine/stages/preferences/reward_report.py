"""How well a reward model ranks held-out pairs, beside the accuracy of answer length or a bag of tokens alone."""

from typing import Any

import torch

from trine.algorithms.text_ranking import pair_accuracy, reliability
from trine.data.pair_baselines import bag_of_tokens_accuracy, length_accuracy
from trine.model.heads import ScoreModel
from trine.stages.preferences.pair_scores import Pair, score_all

LENGTHS_AGREE_WITHIN = 2


def report_on(
    model: ScoreModel, train: list[Pair], held_out: list[Pair], vocab_size: int, gain: float
) -> dict[str, Any]:
    """The figures of a trained and normalised model; none without held-out pairs.

    `reliability` is that of the probabilities the model was trained to give: sigmoid of the score difference before
    normalisation multiplied it by `gain`.
    """
    if not held_out:
        return {}
    chosen, rejected = score_all(model, held_out)
    alike = torch.tensor([abs(len(pair.chosen) - len(pair.rejected)) <= LENGTHS_AGREE_WITHIN for pair in held_out])
    train_sides = [(pair.chosen, pair.rejected) for pair in train]
    sides = [(pair.chosen, pair.rejected) for pair in held_out]
    return {
        "accuracy": pair_accuracy(chosen, rejected),
        "accuracy_alike_lengths": pair_accuracy(chosen[alike], rejected[alike]),
        "pairs": len(held_out),
        "pairs_alike_lengths": int(alike.sum()),
        "accuracy_length_only": length_accuracy(train_sides, sides),
        "accuracy_bag_of_tokens": bag_of_tokens_accuracy(train_sides, sides, vocab_size),
        "reliability": reliability((chosen - rejected) / gain),
        "chosen_scores": chosen.tolist(),
        "rejected_scores": rejected.tolist(),
    }
