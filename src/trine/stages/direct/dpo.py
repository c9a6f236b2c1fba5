"""Preferences without rollouts: a policy learns from pairs or labels, without a reward model (Rafailov et al. 2023).

Which loss is what, with its source: `algorithms/text_preferences.py`. The reference is what the run starts from; its
log-probabilities are taken once (`reference.py`), so that one model is held in memory. One process or several train the
same (DDP, FSDP2).
"""

from pathlib import Path
from typing import Any

from trine.algorithms.text_preferences import kto_weights, kto_weights_fit
from trine.catalog.adapters import begin_lora, finish_lora
from trine.catalog.locating import is_hub_data_set
from trine.config.dpo import DpoConfig
from trine.data.data_sets import data_set_records
from trine.data.judgement_texts import Reading
from trine.data.judgements import divided, judgement_records, judgements_of
from trine.model.folder import save_model
from trine.model.training_library import training_library
from trine.model.transformer import Transformer
from trine.records import Judgement
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.stages.direct.items import Item, Items, ItemWriter, Kind
from trine.stages.direct.log_probs import AnswerLogProbs, shares_prompt
from trine.stages.direct.objective import DirectObjective, LabelObjective, PairObjective, Part
from trine.stages.direct.plan import Plan
from trine.stages.direct.reference import ReferenceModel
from trine.stages.language_modelling import whole_model
from trine.tokenizer.chat_format import Chat, format_to_learn
from trine.tokenizer.text_format import TextFormat
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.parallel import Parallel, parallelise
from trine.training.stage_run import StageRun, stage_run


@stage_run("model", "adapter", "preferences", "held_out", several_processes=True)
def run(config: DpoConfig, stage: StageRun) -> dict[str, Any]:
    """Train; write `model/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`."""
    world = stage.world
    with world.main_first(f"opening of {stage.path}"):  # the main process downloads, the others find it there
        model, tokenizer = stage.open_model(config.model, config.adapter)
        if stage.hardware.device.type == "cpu":
            training_library()
    form = TextFormat(tokenizer) if config.form == "text" else format_to_learn(tokenizer)
    found = read_parts(config, form, model.config.context)
    parts = _with_reference(config, stage, model, found)
    begin_lora(model, config.lora, config.seed)
    parallel = parallelise(AnswerLogProbs(model), list(model.blocks), world, config.parallel)
    objective = _objective(config, parallel, parts, model)
    steps = max(1, round(config.epochs * len(objective.train.plan.steps)))
    say(f"dpo: {len(objective.train.plan.items)} {'answers' if config.loss == 'kto' else 'pairs'}, {steps} steps")
    results = stage.train(config, objective, model, model.config, steps, parallel)
    whole = whole_model(model)
    with world.main_first(f"model of {stage.path}"):
        if world.is_main:
            _write(config, stage, whole, form.tokenizer, form.end_ids)
    weights = objective.class_weights if isinstance(objective, LabelObjective) else None
    return results | {
        "items": len(objective.train.plan.items), "account": {name: items.account for name, items in found.items()},
        "chosen_change": objective.watch.change, **({"class_weights": weights} if weights else {}),
    }  # fmt: skip


def read_parts(config: DpoConfig, form: Chat | TextFormat, context: int) -> dict[str, Items]:
    """The items to train on, and those held out, if any."""
    limit = min(config.max_tokens or context, context)
    kind: Kind = "labels" if config.loss == "kto" else "pairs"
    writer = ItemWriter(form, limit, config.too_long, kind, soft=config.loss == "dpo")
    judgements = {name: _read(place, name, config) for name, place in places(config).items()}
    if config.held_out_share:
        judgements["train"], judgements["held_out"] = divided(judgements["train"], config.held_out_share)
    found = {}
    for name, each in judgements.items():
        found[name] = writer.items(each, places(config).get(name, config.preferences))
        say(f"dpo: {name.replace('_', '-')}: {found[name].words}")
    return found


def _read(place: Path, name: str, config: DpoConfig) -> list[Judgement]:
    if is_hub_data_set(place):
        split = config.dataset.split if name == "train" else config.dataset.held_out_split
        records: Any = data_set_records(str(place), config.dataset.configuration, split)
    else:
        records = judgement_records(place)
    return judgements_of(records, ("label", "pair", "ranking"), Reading(config.form, config.fields, config.positive))


def places(config: DpoConfig) -> dict[str, Path]:
    """Where the records to train on are, and those held out, if they are apart."""
    train, held_out = config.preferences, config.held_out
    if (train / "train.jsonl").exists():
        beside = train / "held_out.jsonl"
        wanted = not config.held_out_share and beside.exists() and beside.stat().st_size > 0
        train, held_out = train / "train.jsonl", held_out or (beside if wanted else None)
    return {"train": train} | ({} if held_out is None else {"held_out": held_out})


def _with_reference(config: DpoConfig, stage: StageRun, model: Transformer, found: dict[str, Items]) -> dict[str, Part]:
    """Each part with the steps it is read in, and the reference's log-probabilities in these."""
    labels = config.loss == "kto"
    sizes = (config.batch_size, config.micro_batch_size, config.seed)
    reference = None
    if config.has_reference:
        reference = ReferenceModel(model, stage.world, share_prompt=shares_prompt(config, model))
    parts = {}
    for name, items in found.items():
        source = places(config)["train"]
        place = places(config).get(name, source.with_name(f"{source.name}.{name}"))  # held out of the same file
        if labels:
            _check_labels(items.items, place)
        plan = Plan(items.items, *sizes, mismatched=labels)
        folders = [*([] if is_hub_data_set(source) else [place.parent]), stage.path / "reference"]
        parts[name] = Part(plan, None if reference is None else reference.log_probs(plan, place.name, folders))
    return parts


def _check_labels(items: list[Item], place: Path) -> None:
    """KTO compares answers to different prompts."""
    if len({item.prompt for item in items}) < 2:
        raise TrineError(f"{place}: loss=kto needs answers to two prompts or more, and all of them are to one")


def _objective(config: DpoConfig, parallel: Parallel, parts: dict[str, Part], model: Transformer) -> DirectObjective:
    given = parallel, parts["train"], parts.get("held_out"), config
    if config.loss != "kto":
        return PairObjective(*given, share_prompt=shares_prompt(config, model))
    return LabelObjective(*given, class_weights=class_weights(config, parts["train"].plan))


def class_weights(config: DpoConfig, plan: Plan) -> tuple[float, float]:
    """Weights of desirable and undesirable answers: as given, or proposed from their counts, which is said."""
    desirable = sum(item.desirable for item in plan.items)
    undesirable = len(plan.items) - desirable
    proposed = kto_weights(desirable, undesirable)
    good, bad = config.desirable_weight, config.undesirable_weight
    if good is None and bad is None:
        good, bad = proposed
    elif good is None or bad is None:  # the other one, so that their ratio is that of the proposal
        ratio = proposed[0] / proposed[1]
        good, bad = (bad * ratio, bad) if bad is not None else (good, (good or 1.0) / ratio)
    assert good is not None and bad is not None
    say(f"dpo: {desirable} good answers of weight {good:.4g}, {undesirable} bad ones of weight {bad:.4g}")
    if not kto_weights_fit(desirable * good, undesirable * bad):
        say(
            f"dpo: n_D w_D / (n_U w_U) is outside [1, 4/3]; from the counts: desirable_weight={proposed[0]:.4g}, "
            f"undesirable_weight={proposed[1]:.4g}",
            style="yellow",
        )
    return good, bad


def _write(
    config: DpoConfig, stage: StageRun, model: Transformer, tokenizer: Tokenizer, end_ids: tuple[int, ...]
) -> None:
    finish_lora(model, stage.path / "adapter", config.model, config.adapter)
    stage.write_model(
        "model",
        tokenizer,
        lambda folder: save_model(model, folder, eos_token_id=list(end_ids), pad_token_id=tokenizer.pad),
    )
