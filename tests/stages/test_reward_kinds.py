"""One reward model from labels, scores, pairs and rankings, in one process and in two."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU, QUIET_LOOP, Command
from tests.judged_texts import KINDS, Texts
from tests.several_processes import in_processes
from tests.tiny import random_ids, tiny_score_model
from trine.algorithms.text_judgements import MAX_TIED
from trine.catalog.loading import open_hardware, open_score_model
from trine.catalog.rewards import open_reward
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.preferences import CutsConfig, KindWeights, RewardConfig
from trine.data.cuts import run_of_words, with_cuts
from trine.data.judgement_texts import Reading
from trine.data.judgements import judgements_of
from trine.model.heads import ScoreModel
from trine.records import Answer, Judgement, Message
from trine.rewards.closing import shortened
from trine.rewards.model import ModelReward
from trine.runtime.distributed import World, open_world
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.preferences.judged import Judged, held_out_figures
from trine.stages.preferences.reward import prepare, run
from trine.stages.preferences.reward_batches import AnswerScores, pack_items, score_items
from trine.stages.preferences.reward_items import Item, batch_elements, pair_item
from trine.stages.preferences.reward_losses import counts_of, terms_of
from trine.stages.preferences.reward_objective import RewardObjective
from trine.stages.preferences.reward_records import RewardRecords
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.parallel import parallelise
from trine.training.run_folder import RunFolder, SilentRunFolder

TEXTS = 150
FIGURES = {
    "labels": "held_out_label_accuracy", "scores": "held_out_score_spearman", "pairs": "held_out_accuracy",
    "rankings": "held_out_ranking_accuracy",
}  # fmt: skip


def reward_of(out: Path, model: Path, **changes: Any) -> RewardConfig:
    values: dict[str, Any] = {
        "out": out, "model": model, "batch_size": 32, "micro_batch_size": 32, "epochs": 4.0, "loop": QUIET_LOOP,
        "optimizer": OptimizerConfig(learning_rate=0.01, learning_rate_rest=0.003), "hardware": PLAIN_CPU,
    }  # fmt: skip
    return RewardConfig(**values | changes)


@pytest.fixture(scope="module")
def files(shared: Path, pretrain_run: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Records to train on and records held out, a file of each kind."""
    texts = Texts(Tokenizer.load(pretrain_run / "model"), seed=0)
    return texts.write(shared / "judged", TEXTS), texts.write(shared / "judged held out", TEXTS)


@pytest.fixture(scope="module")
def mixed_run(shared: Path, pretrain_run: Path, files: tuple[dict[str, Path], dict[str, Path]]) -> Path:
    train, held_out = files
    return run(reward_of(shared / "mixed", pretrain_run, **train, held_out=tuple(held_out.values())))


def test_one_model_learns_all_kinds_and_tells_how_well(mixed_run: Path) -> None:
    results = read_json(mixed_run / "done.json")
    assert results["records"] == {
        part: {"label": TEXTS, "score": TEXTS, "pair": TEXTS, "ranking": TEXTS} for part in ("train", "held_out")
    }
    assert all(results[figure] > 0.9 for figure in FIGURES.values()), results
    assert (results["form"], results["normalization"]["gain"], results["closed"]) == ("text", 1.0, "end")
    rows = [row for row in read_jsonl(mixed_run / "metrics.jsonl") if "loss" in row]
    for kind in ("label", "score", "pair", "ranking"):
        losses = [row[f"{kind}_loss"] for row in rows if f"{kind}_loss" in row]
        assert sum(losses[:3]) > 1.5 * sum(losses[-3:]), kind


def leave_out(kind: str, out: Path, model: Path, files: tuple[dict[str, Path], dict[str, Path]]) -> dict[str, Any]:
    train, held_out = files
    rest = {name: path for name, path in train.items() if name != kind}
    return read_json(run(reward_of(out, model, **rest, held_out=tuple(held_out.values()))) / "done.json")


def check_noise(kind: str, whole: dict[str, Any], without: dict[str, Any]) -> None:
    """A share's deviation is at most sqrt(1/4 n), a correlation's about 1 / sqrt(n): of both together, three times."""
    noise = 3 * (2 * (1 if kind == "scores" else 0.25) / TEXTS) ** 0.5
    assert whole[FIGURES[kind]] - without[FIGURES[kind]] > noise, (kind, whole[FIGURES[kind]], without[FIGURES[kind]])


def test_leaving_a_kind_out_lowers_its_own_figure_by_more_than_the_noise(
    tmp_path: Path, pretrain_run: Path, mixed_run: Path, files: tuple[dict[str, Path], dict[str, Path]]
) -> None:
    without = leave_out("labels", tmp_path / "labels", pretrain_run, files)
    check_noise("labels", read_json(mixed_run / "done.json"), without)
    assert "label" not in without["records"]["train"] and without["records"]["held_out"]["label"] == TEXTS


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[1:])
def test_so_does_each_of_the_others(
    kind: str, tmp_path: Path, pretrain_run: Path, mixed_run: Path, files: tuple[dict[str, Path], dict[str, Path]]
) -> None:
    check_noise(kind, read_json(mixed_run / "done.json"), leave_out(kind, tmp_path / kind, pretrain_run, files))


def test_the_command_line_trains_on_labels_held_out_by_a_column(
    tmp_path: Path, pretrain_run: Path, command: Command
) -> None:
    rows = [{"review": f"number {n % 2} is", "sentiment": "yes" if n % 2 else "no", "film": n // 4} for n in range(80)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, told = command(
        "reward", "--model", pretrain_run, "--labels", tmp_path / "reviews.jsonl", "--held_out_share", "0.25",
        "--held_out_by", "film", "--out", tmp_path / "out", "--hardware.device", "cpu", "--cuts.count", "1",
        "--cuts.low", "1", "--cuts.high", "2", "--lora.rank", "2",
    )  # fmt: skip
    assert code == 0, told
    results = read_json(tmp_path / "out" / "done.json")
    train, held_out = results["records"]["train"]["label"], results["records"]["held_out"]["label"]
    assert held_out % 4 == 0 and train == 2 * (80 - held_out)
    assert results["held_out_label_accuracy"] >= 0.5
    model, _ = open_score_model(tmp_path / "out", open_hardware(PLAIN_CPU))
    assert model.form == "text" and model.end_token == results["end_token"] == "<|endoftext|>"
    code, _, told = command("reward", "--model", pretrain_run, "--out", tmp_path / "nothing")
    assert code == 2 and "nothing to learn from: give one or more of labels, scores, pairs, rankings" in told


ITEMS = [
    *(Item("label", [], (random_ids(5 + n, seed=n).tolist(),), target=n % 2, record=n) for n in range(8)),
    *(Item("score", [3], (random_ids(4 + n, seed=20 + n).tolist(),), target=n - 3.5, record=8 + n) for n in range(8)),
    *(pair_item([5, 6], random_ids(3 + n, seed=n).tolist(), random_ids(6, seed=60 + n).tolist()) for n in range(8)),
    *(
        Item("ranking", [7], tuple(random_ids(4, seed=80 + 4 * n + k).tolist() for k in range(4)),
             pairs=((0, 1, 1.0), (1, 2, 0.5), (0, 3, 1.0)), ranking=((0,), (1, 2), (3,)), weight=0.5 + n)
        for n in range(8)
    ),
]  # fmt: skip


def train_items(folder: Path) -> None:
    with open_world(torch.device("cpu")) as world:
        train_in(world, folder)  # all of it is gone when the process group goes, as in a stage


def train_in(world: World, folder: Path) -> None:
    """Eight steps on all kinds."""
    config = reward_of(folder, folder, labels=("x",), batch_size=8, micro_batch_size=2, centring=0.01)
    settings = LoopConfig(save_every=0), OptimizerConfig(kind="adamw", learning_rate=0.003)
    said = Judgement((), (Answer((), "x"),), label=True)
    model = tiny_score_model("qwen3")
    parallel = parallelise(AnswerScores(model), list(model.trunk.blocks), world, "ddp")
    optimizers = make_optimizers(model.named_parameters(), settings[1], model.trunk.config, torch.float32, world)
    objective = RewardObjective(model, ITEMS, [(said, ITEMS[1])], config, parallel=parallel)
    folder.mkdir(exist_ok=True)
    place = RunFolder(folder) if world.is_main else SilentRunFolder(folder)
    Loop(objective, model, optimizers, 8, settings, place, parallel=parallel).train()


def test_two_processes_train_a_reward_model_as_one_does(tmp_path: Path) -> None:
    train_items(tmp_path / "alone")
    assert in_processes(2, train_items, tmp_path / "together") == [None, None]
    rows, others = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("alone", "together"))
    assert len(rows) == 9
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"seconds", "gradient_seconds"}:
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name


def test_every_record_weighs_its_weight_times_its_kinds_whatever_else_is_in_the_batch() -> None:
    model, kinds = tiny_score_model("qwen3"), ("label", "score", "pair", "ranking")
    config = reward_of(Path("x"), Path("x"), labels=("x",), weights=KindWeights(label=2, ranking=0), margin=0.25)
    with torch.no_grad():
        together = terms_of(ITEMS, AnswerScores(model)(pack_items(ITEMS, 64)), kinds, config)
        alone = [terms_of([item], AnswerScores(model)(pack_items([item], 64)), kinds, config) for item in ITEMS]
    for name, term in together.items():
        summed = sum(float(each[name].value) for each in alone)
        assert float(term.value) == pytest.approx(summed, rel=1e-5), name
    sums = {kind: float(together[f"{kind}_loss"].value) for kind in kinds}
    assert float(together["judgements"].value) == pytest.approx(2 * sums["label"] + sums["score"] + sums["pair"])
    counts = counts_of(ITEMS, kinds, config)
    assert counts["judgements"] == 24 + sum(0.5 + n for n in range(8)) and counts["accuracy"] == 8


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce"])
def test_the_two_losses_of_a_ranking(loss: Any) -> None:
    """Over the pairs it weighs 1 in all; by choice it is as likely as its orders."""
    config = reward_of(Path("x"), Path("x"), labels=("x",), ranking_loss=loss)
    pairs = tuple((a, b, 1.0) for a in range(4) for b in range(a + 1, 4))
    item = Item("ranking", [1], ([1],) * 4, pairs=pairs, ranking=((0,), (1,), (2,), (3,)))
    terms = terms_of([item], torch.tensor([2.0, 1.0, 0.5, -1.0]), ["ranking"], config)
    expected = {"pairs": 0.227613, "plackett_luce": 1.251552}[loss]
    assert float(terms["ranking_loss"].value) == pytest.approx(expected, abs=1e-6)
    assert float(terms["ranking_accuracy"].value) == pytest.approx(1.0)


def test_answers_to_one_prompt_never_straddle_batches() -> None:
    said = [
        {"prompt": f"p{n % 5}", "chosen": f"c{n}", "rejected": "r"} if n % 2 else
        {"prompt": f"p{n % 5}", "answers": ["a", "b", f"c{n}"], "ranks": [1, 2, 2]}
        for n in range(30)
    ]  # fmt: skip
    bad = {"prompt": "p0", "answers": ["u", "v"], "ranking": "all bad"}
    records = [(f"f:{number}", record) for number, record in enumerate([*said, bad])]
    judgements = judgements_of(records, ["pair", "ranking"], Reading())
    items = [Item(each.kind, [1], ([1],), pairs=((0, 1, 1.0),) if each.ranking else (), record=n)
             for n, each in enumerate(judgements)]  # fmt: skip
    elements = batch_elements(items, judgements)
    assert sorted(len(element) for element in elements) == [2, 6, 6, 6, 6, 6]
    assert batch_elements(items[:30], judgements, alone=30) == [[n] for n in range(30)]


def prepared(judgements: list[Judgement], tokenizer_run: Path, **changes: Any) -> tuple[Any, ScoreModel]:
    tokenizer = Tokenizer.load(tokenizer_run)
    model = tiny_score_model("qwen3", vocab_size=tokenizer.vocab_size)
    model.form = "text"
    config = reward_of(Path("x"), Path("x"), labels=("x",), **changes)
    return prepare(RewardRecords(judgements, [], "text"), model, tokenizer, config), model


def text(words: str, *, ended: bool = True, label: bool = True) -> Judgement:
    return Judgement((), (Answer((), words, ended, query=""),), label=label, name="f:1")


def test_a_model_that_would_never_see_the_end_token_is_refused(tokenizer_run: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_run)
    cut = [text("return", ended=False), text("number", ended=False)]
    for closed in ("end", "line"):
        model = tiny_score_model("qwen3", vocab_size=tokenizer.vocab_size)
        model.form, model.closed = "text", closed
        config = reward_of(Path("x"), Path("x"), labels=("x",))
        items = prepare(RewardRecords(cut, [], "text"), model, tokenizer, config).items
        assert {item.answers[0][-1] for item in items} == {tokenizer.end_of_text}
    model.closed = "as_is"
    with pytest.raises(TrineError, match=r"no text to train on ends with the end token .*the records say ended=false"):
        prepare(RewardRecords(cut, [], "text"), model, tokenizer, config)
    mixed = prepare(RewardRecords([*cut, text("return")], [], "text"), model, tokenizer, config)
    assert [item.answers[0][-1] == tokenizer.end_of_text for item in mixed.items] == [False, False, True]


def test_a_model_whose_tokenizer_lost_its_end_token_is_refused(tmp_path: Path, reward_run: Path) -> None:
    """Scores at another token mean nothing: a folder whose chat template was replaced is not opened as a reward."""
    hardware = open_hardware(PLAIN_CPU)
    shutil.copytree(reward_run / "model", tmp_path / "model")
    open_reward(str(tmp_path / "model"), hardware)
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ 'assistant: ' }}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    with pytest.raises(TrineError, match=r"read at the end token '<\|im_end\|>', and its tokenizer .* ends a message"):
        open_reward(str(tmp_path / "model"), hardware)


def test_a_long_answer_is_scored_as_it_was_learned(tokenizer_run: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_run)
    model = tiny_score_model("qwen3", vocab_size=tokenizer.vocab_size)
    messages = (Message("user", "number " * 20),)
    answers = [Answer(messages, "return number " * count) for count in (1, 40)]
    for side in ("left", "right"):
        changes = {"max_tokens": 50, "too_long": "cut", "truncation_side": side}
        config = reward_of(Path("x"), Path("x"), labels=("x",), **changes)
        model.max_tokens, model.truncation_side = 50, side
        said = [Judgement(messages, (answer,), label=True) for answer in answers]
        items = prepare(RewardRecords(said, [], "chat"), model, tokenizer, config).items
        scores = score_items(AnswerScores(model), items, 64, torch.device("cpu"))
        found = ModelReward(model, tokenizer).score(answers).tolist()
        assert found == pytest.approx([score for (score,) in scores], abs=1e-5)


def test_too_long_texts_are_refused_dropped_or_cut_and_counted(tokenizer_run: Path) -> None:
    long, short = text("number " * 40), text("number")
    with pytest.raises(TrineError, match=r"f:1: the label has \d+ tokens, more than max_tokens=20; shorten it"):
        prepared([long, short], tokenizer_run, max_tokens=20)
    dropped, _ = prepared([long, short], tokenizer_run, max_tokens=20, too_long="drop")
    assert len(dropped.items) == 1 and dropped.account["train"] == {"dropped": 1}
    cut, _ = prepared([long, short], tokenizer_run, max_tokens=20, too_long="cut", truncation_side="left")
    whole, _ = prepared([long], tokenizer_run, max_tokens=None, too_long="cut", truncation_side="left")
    assert cut.account["train"]["cut"] == 1
    assert cut.items[0].answers[0] == whole.items[0].answers[0][-20:] and len(cut.items[0].answers[0]) == 20
    with pytest.raises(TrineError, match="every record is longer than 20 tokens and was dropped"):
        prepared([long], tokenizer_run, max_tokens=20, too_long="drop")


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_is_shortened_keeps_its_prompts_end_and_its_own_last_token(side: Any) -> None:
    prompt, answer = list(range(30)), [*range(50, 70), 99]
    for length in (1, 5, 21):
        asked, kept = shortened(prompt, answer[-length:], 20, side)
        assert asked == prompt[-15:] and len(kept) == min(length, 5) and kept[-1] == 99
    assert shortened([1], [2, 3], 20, side) == ([1], [2, 3])


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_texts_are_learned_cut_at_random_places_too(unit: Any, tokenizer_run: Path) -> None:
    words = "  number return\nfor the  cat and self add print first second "
    pair = Judgement((), (Answer((), words, query=""),) * 2, ranking=((0,), (1,)))
    cuts = {"cuts": CutsConfig(count=3, low=2, high=9, unit=unit), "seed": 1}
    found, _ = prepared([text(words), pair, text("number")], tokenizer_run, **cuts)
    again, _ = prepared([text(words), pair, text("number")], tokenizer_run, **cuts)
    other, _ = prepared([text(words), pair, text("number")], tokenizer_run, **cuts | {"seed": 2})
    assert found.items == again.items != other.items
    assert [each.kind for each in found.train] == ["label"] * 4 + ["pair", "label"]
    whole, *beginnings = found.items[:4]
    for item, judgement in zip(beginnings, found.train[1:4], strict=True):
        ids = item.answers[0]
        assert ids[:-1] == whole.answers[0][: len(ids) - 1] and ids[-1] == whole.answers[0][-1]
        assert not judgement.answers[0].ended and words.startswith(judgement.answers[0].response)
        count = len(judgement.answers[0].response.split()) if unit == "words" else len(ids)
        assert 2 <= count <= 9


def test_held_out_figures_by_hand() -> None:
    answers = tuple(Answer((), name) for name in "abc")

    def judged(scores: Sequence[float], **said: Any) -> Judged:
        item = Judgement((), answers[: len(scores)], **said)
        return Judged(item, item.kind, tuple(scores))

    figures = held_out_figures(
        [
            judged([0.5], label=True), judged([0.5], label=False), judged([-2], label=False), judged([3], label=True),
            judged([2, 1], ranking=((0,), (1,))), judged([1, 1], ranking=((0,), (1,))),
            judged([9, 1], ranking=((0, 1),)), judged([2, 1], ranking=((0,), (1,)), probability=0.2),
            judged([3, 2, 1], ranking=((0,), (1, 2))), judged([3, 2, 1], ranking=((1,), (0,), (2,))),
            judged([1], score=5), judged([2], score=7), judged([3], score=6),
        ]
    )  # fmt: skip
    assert figures == {
        "held_out_label_accuracy": 0.75,
        "held_out_accuracy": 0.5,  # right, equal, (a tie tells nothing), the likelier one scores less
        "held_out_ranking_accuracy": pytest.approx((1 + 2 / 3) / 2),
        "held_out_score_spearman": pytest.approx(0.5),
    }


def test_a_tie_too_large_for_plackett_luce_is_named(tokenizer_run: Path) -> None:
    many = MAX_TIED + 1
    tie = Judgement((), (Answer((), "return", query=""),) * many, ranking=(tuple(range(many)),), name="f:7")
    with pytest.raises(TrineError, match="f:7: a tie of 9 answers; ranking_loss=plackett_luce sums over the orders"):
        prepared([tie], tokenizer_run, ranking_loss="plackett_luce")
    assert prepared([tie], tokenizer_run)[0].items[0].kind == "ranking"


def test_scores_that_are_all_the_same_are_refused(tmp_path: Path, pretrain_run: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"text": "a", "score": 3}\n{"text": "b", "score": 3}\n')
    with pytest.raises(TrineError, match="every score is 3; there is nothing to learn from them"):
        run(reward_of(tmp_path / "out", pretrain_run, scores=tmp_path / "s.jsonl"))


def test_runs_of_words_are_cut_as_they_stand() -> None:
    answer = Answer((), "One\n two  three. Four")
    found = [run_of_words(answer, 2, place) for place in (0.0, 0.4, 1.0)]
    shown = [("One\n two", False), ("two  three.", False), ("three. Four", True)]
    assert [each and (each.response, each.ended) for each in found] == shown
    assert run_of_words(answer, 4, 0.0) is None
    assert with_cuts([text("a b")], CutsConfig(), run_of_words, 0) == [text("a b")]


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_runs_from_anywhere_start_at_every_place_and_end_only_with_the_text(unit: Any, tokenizer_run: Path) -> None:
    words = "number return for the cat and self add print first"
    cuts = CutsConfig(count=300, low=3, high=3, start="anywhere", unit=unit)
    found, _ = prepared([text(words), text("number")], tokenizer_run, cuts=cuts)
    whole, *runs = found.items[:-1]
    ids = whole.answers[0][:-1]
    assert len(runs) == 300
    starts = set()
    for item, judgement in zip(runs, found.train[1:-1], strict=True):
        answer, kept = judgement.answers[0], item.answers[0][:-1]
        starts.add(words.index(answer.response))
        assert answer.ended == words.endswith(answer.response)
        if unit == "tokens":
            shown = 2 + answer.ended  # the end stands in place of the last token of what was cut
            assert len(kept) == shown and any(ids[at : at + shown] == kept for at in range(len(ids) - 2))
    assert len(starts) == (8 if unit == "words" else len(ids) - 2)


def test_an_answer_is_cut_behind_its_prompt_only() -> None:
    asked = Judgement((), (Answer((), "a b c", query="What?"),), label=True, name="f:7")
    with pytest.raises(TrineError, match=r"f:7: cuts.start=anywhere is for whole texts, and this is an answer"):
        with_cuts([asked], CutsConfig(count=1, low=1, high=2, start="anywhere"), run_of_words, 0)
    assert len(with_cuts([asked], CutsConfig(count=1, low=1, high=2), run_of_words, 0)) == 2
