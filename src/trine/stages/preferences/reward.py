"""Step 3: a reward model from preferences (Christiano et al. 2017; Stiennon et al. 2020).

The score is read at the end token of prompt and answer. Training minimises -log sigmoid(chosen - rejected); then
scores are scaled to mean 0 and variance 1 over fresh samples of the reference policy (`normalization.py`), so that a
difference of 1 is one standard deviation of what the policy writes before PPO.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trine.algorithms.text_ranking import pair_accuracy, pair_wins, pairwise_ranking_loss
from trine.config.preferences import RewardConfig
from trine.data.files import read_preferences
from trine.model.folder import save_score_model
from trine.model.heads import ScoreModel
from trine.model.lora import merge_lora
from trine.model.transformer import Transformer
from trine.records import PreferencePair, Term
from trine.rewards.closing import closing_of
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import generator_for
from trine.stages.preferences.normalization import Normalization, normalize
from trine.stages.preferences.pair_scores import Pair, render, score_all, score_pairs
from trine.stages.preferences.reward_report import report_on
from trine.tokenizer.chat_format import chat_format
from trine.training.objective import StepObjective
from trine.training.stage_run import StageRun, stage_run

BATCHES_SORTED_TOGETHER = 8


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
        right = pair_wins(chosen, rejected).sum()
        loss = pairwise_ranking_loss(chosen, rejected, self.config.margin)
        return {"ranking": Term(loss), "accuracy": Term(right, weight=0.0)}

    def evaluate(self, final: bool) -> dict[str, Any]:
        if not self.held_out:
            return {}
        chosen, rejected = score_all(self.model, self.held_out)
        return {"held_out_accuracy": pair_accuracy(chosen, rejected)}


@stage_run("model", "adapter", "preferences", "held_out", "reference")
def run(config: RewardConfig, stage: StageRun) -> dict[str, Any]:
    """Train a reward model; write `model/` as a one-label classifier, LoRA adapters merged in."""
    trunk, tokenizer = stage.open_trainable(config)
    preferences, held_out_preferences = _read(config)
    chat, context = chat_format(tokenizer), trunk.config.context
    pairs = render(preferences, chat, context, _places(config)[0])
    held_out = render(held_out_preferences, chat, context, _places(config)[1] or config.preferences)
    model = _with_head(trunk, config.seed).to(stage.hardware.device)
    model.closed = config.closed or closing_of([preference.chosen for preference in preferences])
    objective = RewardObjective(model, pairs, held_out, config)
    steps = max(1, round(config.epochs * objective.steps_per_epoch))
    say(f"reward: {len(pairs)} pairs, {steps} steps")
    stage.train(config, objective, model, trunk.config, steps)
    merge_lora(model)
    scale = Normalization()
    if config.normalize:
        scale = normalize(model, tokenizer, [preference.prompt for preference in preferences], config, stage)
    results = report_on(model, pairs, held_out, tokenizer.vocab_size, scale.gain)
    stage.write_model("model", tokenizer, lambda folder: save_score_model(model, folder, pad_token_id=tokenizer.pad))
    return results | {"training_pairs": len(pairs), "closed": model.closed, "normalization": asdict(scale)}


def _with_head(trunk: Transformer, seed: int) -> ScoreModel:
    """A score head on `trunk`, whose own output table, if it has one, a score never uses."""
    if not trunk.config.tied_embeddings:
        trunk.head.requires_grad_(False)
    model = ScoreModel(trunk)
    model.initialize_head(seed)
    return model


def _places(config: RewardConfig) -> tuple[Path, Path | None]:
    """The files of training and held-out pairs."""
    if config.preferences.is_dir():
        return config.preferences / "train.jsonl", config.preferences / "held_out.jsonl"
    return config.preferences, config.held_out


def _read(config: RewardConfig) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """The training and the held-out pairs."""
    train, held_out = _places(config)
    preferences = read_preferences(train)
    if not preferences:
        raise TrineError(f"{train} holds no preferences")
    return preferences, read_preferences(held_out) if held_out else []
