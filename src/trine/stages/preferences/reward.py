"""Step 3: a reward model from preferences (Christiano et al. 2017; Stiennon et al. 2020).

The score is read at the end token of prompt and answer. Training minimises -log sigmoid(chosen - rejected); then
scores are scaled to mean 0 and variance 1 over the sampled (rejected) answers, so that a difference of 1 is one
standard deviation of what the policy writes before PPO.
"""

from collections.abc import Sequence
from typing import Any

from trine.algorithms.text_ranking import normalization, pair_accuracy, pairwise_ranking_loss
from trine.config.preferences import RewardConfig
from trine.data.files import read_preferences
from trine.model.folder import save_score_model
from trine.model.heads import ScoreModel
from trine.model.lora import merge_lora
from trine.model.transformer import Transformer
from trine.records import Term
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.stages.preferences.pair_scores import Pair, render, score_all, score_pairs
from trine.stages.preferences.reward_report import report_on
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.loop import StepObjective
from trine.training.stage_run import StageRun, stage_run

BATCHES_SORTED_TOGETHER = 8
NORMALIZATION_PAIRS = 512


class RewardObjective(StepObjective):
    """Pairwise ranking loss in nats per pair; evaluation by accuracy, the share of pairs ranked correctly."""

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


@stage_run("model", "adapter", "preferences", "held_out")
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
