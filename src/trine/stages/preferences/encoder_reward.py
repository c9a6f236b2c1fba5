"""kind: encoder: any encoder or classifier of Hugging Face's form, with its own tokenizer, trained as a reward model.

The model is opened, trained and written through `transformers`, so that what comes out is a classifier of one label
that `AutoModelForSequenceClassification` opens; loop, losses, batches and checkpoints are those of every reward model.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trine.catalog.encoders import load_encoder, quiet, settings_of
from trine.catalog.locating import find_model
from trine.config.preferences import RewardConfig
from trine.data.cuts import Cut, first_unit, run_of_words, with_cuts
from trine.data.judgements import counted
from trine.records import Answer, Judgement
from trine.rewards.batches import score_in_batches
from trine.rewards.closing import closing_of
from trine.rewards.encoder import EncoderReward, EncoderSettings, logits_of, unit_of, use_own_products
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say
from trine.stages.preferences.encoder_rows import (
    EncoderBatch,
    EncoderRenderer,
    EncoderScores,
    encoder_batch,
)
from trine.stages.preferences.normalization import Normalization
from trine.stages.preferences.reward_items import Item, batch_elements, standard_of
from trine.stages.preferences.reward_objective import RewardObjective
from trine.stages.preferences.reward_records import RewardRecords, good_texts
from trine.stages.preferences.reward_report import report_on
from trine.stages.preferences.words_reward import counting_words
from trine.stages.preferences.worth_of_run import Trained, worth_of
from trine.training.loop import Loop
from trine.training.parallel import Parallel
from trine.training.stage_run import StageRun

SCORED_AT_ONCE = 32


class EncoderObjective(RewardObjective):
    """The objective of every reward model, over texts that an encoder reads padded."""

    def __init__(
        self,
        module: EncoderScores,
        items: list[Item],
        held_out: list[tuple[Judgement, Item]],
        config: RewardConfig,
        elements: list[list[int]],
        pad_id: int,
    ) -> None:
        super().__init__(module, items, held_out, config, elements=elements, parallel=Parallel(module=module))
        self.module, self.pad_id = module, pad_id
        self.device = next(module.parameters()).device

    def rows(self, items: Sequence[Item]) -> EncoderBatch:
        return encoder_batch(items, self.pad_id, self.device)

    def scores(self, items: Sequence[Item]) -> list[tuple[float, ...]]:
        module = self.module
        found = iter(
            score_in_batches(
                [ids for item in items for ids in item.answers],
                lambda ids, lengths: unit_of(
                    logits_of(module.model, ids, lengths, module.compute_dtype), module.settings
                ),
                self.pad_id,
                self.device,
                SCORED_AT_ONCE,
            ).tolist()
        )
        return [tuple(next(found) for _ in item.answers) for item in items]


def train_encoder(config: RewardConfig, stage: StageRun, records: RewardRecords) -> dict[str, Any]:
    """Train the encoder `config.model`; write `model/`, a classifier of one label with its tokenizer."""
    folder = find_model(config.model)
    model, tokenizer = load_encoder(folder, labels=1)
    tokenizer.truncation_side = config.truncation_side
    settings = _settings(config, folder, model, tokenizer, records)
    model = model.to(stage.hardware.device)
    use_own_products(model, stage.hardware.compute_dtype, labels=1)
    standard = standard_of(records.train)
    train = with_cuts(records.train, config.cuts, _cut(config, tokenizer), config.seed)
    renderers = [EncoderRenderer(tokenizer, settings, standard, config.too_long) for _ in range(2)]
    items, tests = renderers[0].items(train), renderers[1].items(records.held_out)
    if not items:
        raise TrineError(f"every record is longer than {settings.max_tokens} tokens and was dropped; raise max_tokens")
    module = EncoderScores(model, settings, stage.hardware.compute_dtype)
    held_out = [(records.held_out[item.record], item) for item in tests]
    elements = batch_elements(items, train, records.alone)
    objective = EncoderObjective(module, items, held_out, config, elements, tokenizer.pad_token_id)
    steps = max(1, round(config.epochs * objective.steps_per_epoch))
    counts = ", ".join(f"{count} {kind}s" for kind, count in counted(train).items())
    say(f"reward: {counts}, {len(held_out)} held out, {steps} steps of {config.model}")
    settings_of_loop = (config.loop, config.optimizer)
    results = Loop(objective, module, [_optimizer(module, config)], steps, settings_of_loop, stage.folder).train()
    _write(stage.path / "model", model, tokenizer, settings)
    results |= report_on(items, objective.judged, len(tokenizer), Normalization())
    reward = EncoderReward(model, tokenizer, settings, stage.hardware.compute_dtype)
    trained = Trained(reward, objective.judged)
    results |= worth_of(config, stage, trained, records.train, counting_words(trained.held_out, records.train))
    account = {name: dict(each.account) for name, each in zip(("train", "held_out"), renderers, strict=True)}
    return results | {
        "kind": "encoder",
        "records": {"train": counted(train), "held_out": counted(records.held_out)},
        "account": account,
        "form": settings.form,
        "closed": settings.closed,
        "max_tokens": settings.max_tokens,
    }


def _settings(
    config: RewardConfig, folder: Path, model: Any, tokenizer: Any, records: RewardRecords
) -> EncoderSettings:
    """How the model reads, in training and whenever it scores: its folder keeps it."""
    closed = config.closed or closing_of(good_texts(records.train))
    found = replace(settings_of(folder, model, tokenizer, closed=closed), form=records.form)
    context = model.config.max_position_embeddings
    if (config.max_tokens or 0) > context:
        raise TrineError(f"max_tokens={config.max_tokens} is more than the {context} that {folder} reads")
    return replace(found, max_tokens=config.max_tokens or found.max_tokens)


def _cut(config: RewardConfig, tokenizer: Any) -> Cut:
    """A run of words or tokens of an answer."""
    if config.cuts.unit == "words":
        return run_of_words

    def run_of_tokens(answer: Answer, count: int, place: float) -> Answer | None:
        ids = tokenizer(answer.response, add_special_tokens=False)["input_ids"]
        if len(ids) <= count:
            return None
        first = first_unit(place, count, len(ids))
        text = tokenizer.decode(ids[first : first + count], skip_special_tokens=True)
        return replace(answer, response=text, ended=answer.ended and first + count == len(ids))

    return run_of_tokens


def _optimizer(module: nn.Module, config: RewardConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters; matrices decay, norms and biases do not."""
    settings = config.optimizer
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in trained if each.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in trained if each.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group | {"peak": settings.learning_rate} for group in groups]
    return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.epsilon, fused=True)


def _write(folder: Path, model: Any, tokenizer: Any, settings: EncoderSettings) -> None:
    """The classifier in Hugging Face form; `trine` in config.json says how it reads."""
    model.config.trine = {"form": settings.form, "closed": settings.closed, "max_tokens": settings.max_tokens}

    def fill(aside: Path) -> None:
        with quiet():
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)

    write_folder(folder, fill)
