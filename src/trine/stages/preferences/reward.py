"""Step 3: a reward model from labels, scores, pairs and rankings (Christiano et al. 2017; Stiennon et al. 2020).

The score is read at the end token of prompt and answer, or of a text; `reward_losses.py` has the losses. Learned from
pairs and rankings alone, scores are scaled to mean 0 and variance 1 over fresh samples of the reference policy
(`normalization.py`), so that a difference of 1 is one standard deviation of what the policy writes before PPO. Learned
from labels, a score is the log-odds; from scores, their standardised value.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from trine.config.preferences import RewardConfig
from trine.data.cuts import first_unit, run_of_words, with_cuts
from trine.data.judgements import asked_of, counted
from trine.model.folder import save_score_model
from trine.model.heads import ScoreModel
from trine.model.lora import merge_lora
from trine.model.training_library import training_library
from trine.model.transformer import Transformer
from trine.records import Answer, Form, Judgement
from trine.rewards.closing import closing_of
from trine.rewards.model import ModelReward
from trine.runtime.distributed import World
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.stages.preferences.encoder_reward import train_encoder
from trine.stages.preferences.normalization import Normalization, normalize
from trine.stages.preferences.reward_batches import AnswerScores
from trine.stages.preferences.reward_items import Item, Renderer, Standard, batch_elements, standard_of
from trine.stages.preferences.reward_objective import RewardObjective
from trine.stages.preferences.reward_records import RewardRecords, good_texts, read_reward_records
from trine.stages.preferences.reward_report import report_on
from trine.stages.preferences.words_reward import counting_words, train_words
from trine.stages.preferences.worth_of_run import Trained, worth_of
from trine.tokenizer.text_format import answer_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.parallel import parallelise
from trine.training.stage_run import StageRun, stage_run


@dataclass(frozen=True)
class Prepared:
    """Records as token ids: `train` and `held_out` with their items, and how many were cut or dropped."""

    train: list[Judgement]
    items: list[Item]
    held_out: list[tuple[Judgement, Item]]
    standard: Standard
    account: dict[str, dict[str, int]]


@stage_run(
    "model", "adapter", "labels", "scores", "pairs", "rankings", "judgements", "preferences", "held_out", "reference",
    "other",
    several_processes=True,
)  # fmt: skip
def run(config: RewardConfig, stage: StageRun) -> dict[str, Any]:
    """Train a reward model of any kind; write `model/`, of Trine's own a one-label classifier, adapters merged in."""
    world = stage.world
    _check_processes(config, world)
    with world.main_first(f"records of {stage.path}"):  # the main process downloads, the others find it there
        records = read_reward_records(config)
    if config.kind != "model":
        return (train_words if config.kind == "words" else train_encoder)(config, stage, records)
    with world.main_first(f"opening of {stage.path}"):
        trunk, tokenizer = stage.open_trainable(config)
        if stage.hardware.device.type == "cpu":
            training_library()
    model = _with_head(trunk, config.seed).to(stage.hardware.device)
    _set_reading(model, tokenizer, records, config)
    prepared = prepare(records, model, tokenizer, config)
    parallel = parallelise(AnswerScores(model), list(trunk.blocks), world, "ddp")
    elements = batch_elements(prepared.items, prepared.train, records.alone)
    objective = RewardObjective(
        model, prepared.items, prepared.held_out, config, elements=elements, parallel=parallel
    )  # fmt: skip
    steps = max(1, round(config.epochs * objective.steps_per_epoch))
    say(f"reward: {in_words(prepared)}, {steps} steps")
    results = stage.train(config, objective, model, trunk.config, steps, parallel)
    with world.main_first(f"model of {stage.path}"):
        if world.is_main:
            scale = _finish(config, stage, model, tokenizer, records)
            results |= report_on(prepared.items, objective.judged, tokenizer.vocab_size, scale)
            trained = Trained(ModelReward(model, tokenizer), objective.judged, scale.gain, scale.offset)
            results |= worth_of(config, stage, trained, records.train, counting_words(trained.held_out, records.train))
            results |= {"normalization": asdict(scale)}
    return results | described(prepared, model)


def _check_processes(config: RewardConfig, world: World) -> None:
    """Raise `TrineError` for what several processes cannot do."""
    world.share(config.batch_size, "batch_size")
    if world.size > 1 and config.kind != "model":
        raise TrineError(f"kind={config.kind} trains in one process: start it without torchrun")


def _with_head(trunk: Transformer, seed: int) -> ScoreModel:
    """A score head on `trunk`, whose own output table, if it has one, a score never uses."""
    if not trunk.config.tied_embeddings:
        trunk.head.requires_grad_(False)
    model = ScoreModel(trunk)
    model.initialize_head(seed)
    return model


def _set_reading(model: ScoreModel, tokenizer: Tokenizer, records: RewardRecords, config: RewardConfig) -> None:
    """Decide what the model is shown, in training and whenever it scores: its folder keeps it."""
    model.form = records.form
    model.closed = config.closed or closing_of(good_texts(records.train))
    context = model.trunk.config.context
    if (config.max_tokens or 0) > context:
        raise TrineError(f"max_tokens={config.max_tokens} is longer than the model's context, {context}")
    if config.too_long == "cut":
        model.max_tokens, model.truncation_side = config.max_tokens or context, config.truncation_side
    model.end_token = tokenizer.name_of(answer_format(tokenizer, model.form).end_id)


def prepare(records: RewardRecords, model: ScoreModel, tokenizer: Tokenizer, config: RewardConfig) -> Prepared:
    """The records as `model` reads them. Raises `TrineError` where none of them has an end token to be scored at."""
    standard = standard_of(records.train)
    train = records.train
    if config.cuts.count:
        cut = run_of_words if config.cuts.unit == "words" else partial(run_of_tokens, tokenizer, model.form)
        train = with_cuts(train, config.cuts, cut, config.seed)
    renderers = [Renderer(model, tokenizer, config, standard) for _ in range(2)]
    items, tests = renderers[0].items(train), renderers[1].items(records.held_out)
    if not items:
        raise TrineError(f"every record is longer than {renderers[0].limit} tokens and was dropped; raise max_tokens")
    end = renderers[0].format.end_id
    if not any(answer[-1] == end for item in items for answer in item.answers):
        raise TrineError(
            f"no text to train on ends with the end token {model.end_token!r}, at whose place texts that end will be "
            "scored: the records say ended=false of all of them, and closed=as_is leaves them unended. Leave out "
            "`ended`, or say closed=end"
        )
    account = {name: dict(each.account) for name, each in zip(("train", "held_out"), renderers, strict=True)}
    return Prepared(train, items, [(records.held_out[item.record], item) for item in tests], standard, account)


def run_of_tokens(tokenizer: Tokenizer, form: Form, answer: Answer, count: int, place: float) -> Answer | None:
    """`count` tokens of an answer, ended where it is; None where it has no more."""
    spelled = answer_format(tokenizer, form)
    ids = spelled.response_ids(answer.response, ended=False)
    if len(ids) <= count:
        return None
    first = first_unit(place, count, len(ids))
    kept, ended = tuple(ids[first : first + count]), answer.ended and first + count == len(ids)
    text, sampled = tokenizer.decode(kept, skip=""), (*kept, spelled.end_id) if ended else kept
    return replace(answer, response=text, ended=ended, response_ids=sampled, tokenizer=tokenizer.fingerprint)


def in_words(prepared: Prepared) -> str:
    """How many records of each kind there are, and what became of the long ones."""
    plurals = {"label": "labels", "score": "scores", "pair": "pairs", "ranking": "rankings"}
    counts = ", ".join(f"{count} {plurals[kind]}" for kind, count in counted(prepared.train).items())
    account = ", ".join(f"{count} {what}" for what, count in prepared.account["train"].items() if count)
    return f"{counts}{f' ({account})' if account else ''}, {len(prepared.held_out)} held out"


def _finish(
    config: RewardConfig, stage: StageRun, model: ScoreModel, tokenizer: Tokenizer, records: RewardRecords
) -> Normalization:
    """Normalize the scores where that is asked for, and write the model."""
    merge_lora(model)
    scale = Normalization()
    prompts = [judgement.answers[0] for judgement in records.train]
    free = all(judgement.ranking is not None and asked_of(judgement) for judgement in records.train)
    if config.normalize == "on" or (config.normalize == "auto" and free):
        scale = normalize(model, tokenizer, prompts, config, stage)
    stage.write_model("model", tokenizer, lambda folder: save_score_model(model, folder, pad_token_id=tokenizer.pad))
    return scale


def described(prepared: Prepared, model: ScoreModel) -> dict[str, Any]:
    """What done.json says of the records and of how the model reads."""
    train, held_out = counted(prepared.train), counted(judgement for judgement, _ in prepared.held_out)
    return {
        "training_pairs": train.get("pair", 0),
        "records": {"train": train, "held_out": held_out},
        "account": prepared.account,
        "form": model.form,
        "closed": model.closed,
        "max_tokens": model.max_tokens,
        "end_token": model.end_token,
        "scores_were": asdict(prepared.standard),
    }
