"""Step 3: a reward model from preferences (Christiano et al. 2017; Stiennon et al. 2020).

The score is read at the end token of prompt and answer. Training minimises -log sigmoid(chosen - rejected); then
scores are scaled to mean 0 and variance 1 over the sampled answers, so that "one better" means one
standard deviation of what the policy writes today.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.text_ranking import normalization, pair_accuracy, pairwise_ranking_loss, reliability
from trine.config.preferences import RewardConfig
from trine.data.files import read_preferences
from trine.data.packing import PairRows, pack_pairs
from trine.data.pair_baselines import bag_of_tokens_accuracy, length_accuracy
from trine.model.folder import save_score_model
from trine.model.heads import ScoreModel
from trine.model.lora import merge_lora
from trine.model.transformer import Transformer
from trine.records import PreferencePair, Term
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.loop import StepObjective
from trine.training.stage_run import StageRun, stage_run

LENGTHS_AGREE_WITHIN = 2
BATCHES_SORTED_TOGETHER = 8
PAIRS_SCORED_AT_ONCE = 32
NORMALIZATION_PAIRS = 512


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


class RewardObjective(StepObjective):
    """Pairwise ranking loss in nats per pair; evaluation by the share of pairs ranked right."""

    name = "reward"

    def __init__(self, model: ScoreModel, pairs: list[Pair], held_out: list[Pair], config: RewardConfig) -> None:
        self.model, self.pairs, self.held_out, self.config = model, pairs, held_out, config
        self._epoch, self._order = -1, [[0]]

    def batches(self, step: int) -> Sequence[list[Pair]]:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_batches(epoch)
        pairs = [self.pairs[index] for index in self._order[place]]
        micro = self.config.micro_batch_size
        return [pairs[start : start + micro] for start in range(0, len(pairs), micro)]

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.pairs) // self.config.batch_size)

    def _epoch_batches(self, epoch: int) -> list[list[int]]:
        """Batches of pairs of like length: shuffled, sorted within a few batches' worth, batches shuffled again."""
        size = self.config.batch_size
        order = generator_for(self.config.seed, "epoch", epoch).permutation(len(self.pairs)).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), size * BATCHES_SORTED_TOGETHER):
            near = sorted(order[start : start + size * BATCHES_SORTED_TOGETHER], key=lambda i: self.pairs[i].tokens)
            batches += [near[at : at + size] for at in range(0, len(near), size)]
        whole = [batch for batch in batches if len(batch) == size] or batches
        return [whole[index] for index in generator_for(self.config.seed, "batches", epoch).permutation(len(whole))]

    def counts(self, batch: list[Pair]) -> dict[str, float]:
        return {"ranking": float(len(batch)), "accuracy": float(len(batch))}

    def terms(self, batch: list[Pair]) -> dict[str, Term]:
        chosen, rejected = score_pairs(self.model, batch)
        right = (chosen > rejected).float().sum()
        loss = pairwise_ranking_loss(chosen, rejected, self.config.margin)
        return {"ranking": Term(loss), "accuracy": Term(right, weight=0.0)}

    def evaluate(self, final: bool) -> dict[str, Any]:
        if not self.held_out:
            return {}
        chosen, rejected = score_all(self.model, self.held_out)
        return {"held_out_accuracy": pair_accuracy(chosen, rejected)}


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


def report_on(
    model: ScoreModel, train: list[Pair], held_out: list[Pair], vocab_size: int, gain: float
) -> dict[str, Any]:
    """How well the model ranks held-out pairs, beside what length or mere words would achieve.

    Scores are the normalised ones; the reliability is of the probabilities the model was trained to give,
    sigmoid of the margin before the scores were multiplied by `gain`.
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


@stage_run("model", "preferences", "held_out")
def run(config: RewardConfig, stage: StageRun) -> dict[str, Any]:
    """Train a reward model; write `model/` as a one-label classifier, LoRA adapters merged in."""
    trunk, tokenizer = stage.open_trainable(config)
    pairs, held_out = _read_pairs(config, chat_format(tokenizer), trunk.config.context)
    model = _with_head(trunk, config.seed).to(stage.hardware.device)
    objective = RewardObjective(model, pairs, held_out, config)
    steps = max(1, round(config.epochs * objective.steps_per_epoch))
    say(f"reward: {len(pairs)} pairs, {steps} steps")
    stage.train(config, objective, model, trunk.config, steps)
    merge_lora(model)
    gain = _normalize(model, pairs) if config.normalize else 1.0
    results = report_on(model, pairs, held_out, tokenizer.vocab_size, gain)
    stage.write_model("model", tokenizer, lambda folder: save_score_model(model, folder, pad_token_id=tokenizer.pad))
    return results | {"training_pairs": len(pairs)}


def _with_head(trunk: Transformer, seed: int) -> ScoreModel:
    """A score head on `trunk`, whose own output table, if it has one, a score never uses."""
    if not trunk.config.tied_embeddings:
        trunk.head.requires_grad_(False)
    model = ScoreModel(trunk)
    model.initialize_head(seed)
    return model


def _normalize(model: ScoreModel, pairs: list[Pair]) -> float:
    """Scale the scores to mean 0 and variance 1 over sampled answers; returns the gain."""
    sampled = score_all(model, pairs[:: max(1, len(pairs) // NORMALIZATION_PAIRS)])[1]
    gain, offset = normalization(sampled)
    model.normalize(gain, offset)
    return gain


def _read_pairs(config: RewardConfig, chat: Chat, context: int) -> tuple[list[Pair], list[Pair]]:
    train_path, held_out_path = config.preferences, config.held_out
    if config.preferences.is_dir():
        train_path, held_out_path = config.preferences / "train.jsonl", config.preferences / "held_out.jsonl"
    pairs = render(read_preferences(train_path), chat, context, train_path)
    if not pairs:
        raise TrineError(f"{train_path} holds no preferences")
    held_out = render(read_preferences(held_out_path), chat, context, held_out_path) if held_out_path else []
    return pairs, held_out
