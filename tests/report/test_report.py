"""The report of a miniature run: right numbers, nothing that a model wrote taken for HTML, nothing missing trips it."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from trine.data.account import Account, Files
from trine.report.report import write_report
from trine.report.tables import ABSENT, Table, percent, share_of
from trine.runtime.errors import TrineError

HOSTILE = "</pre><script>alert(1)</script> \x1b[31m \ud83d & 'quoted'"
Rows = Sequence[dict[str, Any]]


def finished(
    out: Path, name: str, config: dict[str, Any], done: dict[str, Any], metrics: Rows = (), samples: Rows = ()
) -> None:
    """A run folder as a stage leaves it."""
    folder = out / name
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps({"made_with": {"python": "3.11.7", "commit": "c0ffee" * 7}}))
    (folder / "done.json").write_text(json.dumps(done))
    for file, rows in (("metrics.jsonl", metrics), ("samples.jsonl", samples)):
        if rows:
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))


def described(out: Path, *stages: tuple[str, str]) -> None:
    entries = [{"name": name, "stage": stage, "seconds": 75.25} for name, stage in stages]
    (out / "recipe.json").write_text(json.dumps({"title": "Miniature", "seed": 7, "minutes": 2, "stages": entries}))


def reward_results(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy, "accuracy_alike_lengths": float("nan"), "pairs": 4, "pairs_alike_lengths": 0,
        "accuracy_length_only": 0.5, "accuracy_bag_of_tokens": 0.625, "training_pairs": 16,
        "reliability": [[0.6, 0.5, 2], [0.9, 1.0, 2]],
        "chosen_scores": [1.0, 2.0, 1.5, 0.0], "rejected_scores": [0.0, -1.0, 0.5, 0.5],
    }  # fmt: skip


def side(mean: float) -> dict[str, Any]:
    return {
        **{name: {"mean": mean, "median": mean - 0.125, "deviation": 1.0} for name in ("reward", "held_out_reward")},
        "parsing": {"share": 0.5, "ended": 2, "ended_share": 0.5, "cut": 0, "cut_share": 0.0},
        "distinct_2": 0.75, "length": 12.5, "ended_share": 1.0,
    }  # fmt: skip


def evaluation() -> dict[str, Any]:
    scores = {reward: {"before": [0.0, 0.5], "after": [1.0, 1.75]} for reward in ("reward", "held_out_reward")}
    gain = {"mean": 1.125, "median": 1.125}
    return {
        "prompts": 2, "scores": scores, "before": side(0.25), "after": side(1.375), "kl": 3.25,
        "reward_gain_in_deviations": gain, "held_out_reward_gain_in_deviations": gain,
        "completions": [{"prompt": "import", "pretrained": HOSTILE}, {"prompt": "def", "before": "", "after": HOSTILE}],
    }  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return miniature(tmp_path)


def miniature(tmp_path: Path) -> Path:
    """A run of every kind of stage, two of them reward models."""
    losses = [{"step": step, "loss": 5.0 - step / 50, "cross_entropy": 5.0 - step / 50} for step in range(1, 91)]
    held_out = {"bits_per_byte/packages": 1.594, "bits_per_byte/standard_library": 1.434}
    pretrained = held_out | {"xz_bits_per_byte/packages": 1.623, "verbatim_line_share/packages": 0.0737}
    corpus = {"corpus": "668 documents; fingerprint 461593c5df2e8509", "parameters": 5722112, "tokens": 1599488}
    tokens = [{**row, "tokens": 2048.0} for row in losses]
    finished(tmp_path, "pretrain", {"row_tokens": 256}, pretrained | corpus, [*tokens, {"step": 90, **held_out}])
    finished(tmp_path, "finetune", {}, {"examples": 6525, "held_out_cross_entropy": 2.9766}, losses)
    for number, name in enumerate(("reward", "held_out_reward")):
        finished(
            tmp_path, f"{name}_pairs", {"examples": f"/x/{name}.jsonl", "seed": number}, {"train": 16, "held_out": 4}
        )
        ranking = [{"step": step, "ranking": 0.6, "accuracy": 0.5} for step in range(1, 6)]
        config = {"preferences": f"/x/{name}_pairs", "seed": number}
        finished(tmp_path, name, config, reward_results(0.75 + number / 8), ranking)
    steps = [{"step": 1, "iteration": 0.0, "score": 0.1, "kl": 0.0, "entropy": 3.0}, {"step": 2, "entropy": 2.0}]
    steps += [{"step": 3, "iteration": 1.0, "score": 0.4, "kl": 1.5, "entropy": 1.0}]
    finished(tmp_path, "ppo", {"reward": "/x/reward", "kl": {"coefficient": 0.05}}, {"iterations": 2}, steps)
    answers = {
        name: {"text": HOSTILE, "reward": 0.5, "held_out_reward": -0.25} for name in ("before", "after", "person")
    }
    samples = [{"prompt": HOSTILE, **answers}]
    finished(
        tmp_path,
        "evaluate",
        {"reward": "/x/reward", "held_out_reward": "/x/held_out_reward"},
        evaluation(),
        samples=samples,
    )
    names = ["pretrain", "finetune", "reward_pairs", "reward", "held_out_pairs", "held_out_reward", "ppo", "evaluate"]
    kinds = ["pretrain", "finetune", "preferences", "reward", "preferences", "reward", "ppo", "evaluate"]
    described(tmp_path, *zip(names, kinds, strict=True))
    return tmp_path


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs


def test_the_page_holds_the_numbers(out: Path) -> None:
    path, text = write_report(out)
    page = path.read_text("utf-8")
    assert path == out / "report.html"
    for fact in ("461593c5df2e8509", "5,722,112", "1,599,488", "1.434", "1.594", "1.623", "7.4%", "2.977", "75.0%"):
        assert fact in page and fact in text
    for section in (
        "Rewards, before and after PPO: mean and median",
        "Reward model: held_out_reward",
        "87.5%",
        "c0ffeec0ffee",
    ):
        assert section in page and section in text
    assert page.count("<svg") == 1 + 1 + 1 + 2 * 4 + 3 + 2  # losses, bits per byte, rewards, PPO, scores


def test_the_headline_is_means_medians_and_gains(out: Path) -> None:
    text = write_report(out)[1]
    mean = next(line for line in text.splitlines() if line.startswith("held-out reward model, mean"))
    assert re.split(r"\s{2,}", mean) == ["held-out reward model, mean", "0.25", "1.38", "+1.12 ± 0.12", "+1.12"]
    assert text.rstrip().splitlines()[-1].startswith("held-out reward model, median")


SHARDS = {
    "parts": {"train": {"documents": 80, "tokens": 250_000}, "folders": {"documents": 10, "tokens": 30_000}},
    "outcomes": {
        "mine": {"seen": {"documents": 90, "bytes": 1_000_000}, "kept": {"documents": 85, "bytes": 900_000},
                 "exact_duplicates": {"documents": 5, "bytes": 100_000}},
        "theirs": {"seen": {"documents": 10, "bytes": 200_000}, "kept": {"documents": 5, "bytes": 100_000},
                   "mean_line_length": {"documents": 5, "bytes": 100_000}},
    },
    "records": {"mine": {"seen": 92, "broken": 2}}, "broken": ["a.jsonl:7: not JSON"],
    "bytes_per_token": 3.6, "seconds": 2.0, "megabytes_per_second": 8.25, "workers": 2,
}  # fmt: skip


def test_every_document_of_the_corpus_is_accounted_for(tmp_path: Path) -> None:
    finished(tmp_path, "shards", {}, SHARDS)
    described(tmp_path, ("shards", "shards"))
    path, text = write_report(tmp_path)
    for row in (r"seen +100 +1\.2 +100\.0%", r"kept +90 +1\.0 +90\.0%", r"left out: exact duplicates +5 +0\.1 +5\.0%",
                r"left out: mean line length +5", r"records that cannot be read +2", r"bytes per token +3\.60",
                r"MB a second, reading to writing, 2 processes +8\.2",
                r"tokens, held-out folders +30,000"):  # fmt: skip
        assert re.search(row, text), row
    assert "theirs" in path.read_text("utf-8")


def test_every_file_and_record_of_the_corpus_is_accounted_for(tmp_path: Path) -> None:
    """1.8: what was passed over, left out and broken stands in the report as in the record kept with the shards."""
    files = Files(seen=50, read=7, passed_over={".rst": 40, "linked folder": 1, ".TXT": 2})
    account = Account(files, 100, 90, {"empty": 3, "too_long": 5}, 2, ("a.jsonl:7: not JSON",))
    for name in ("shards", "functions"):
        finished(tmp_path, name, {}, {"account": account.as_json()})
    described(tmp_path, ("shards", "shards"), ("functions", "functions"))
    path, text = write_report(tmp_path)
    passed_over = (r"files and folders found +50", r"  read +7", r"  passed over: \.rst +40", r"linked folder +1")
    records = (r"records +100", r"  kept +90", r"  left out: too long +5", r"  broken +2")
    for row in (*passed_over, *records):
        assert len(re.findall(row, text)) == 2, row
    assert path.read_text("utf-8").count("a.jsonl:7: not JSON") == 2


def test_pretraining_shows_speed_and_samples_where_they_were_logged(tmp_path: Path) -> None:
    metrics: list[dict[str, Any]] = []
    for step in range(1, 9):
        speed = {"tokens_per_second": 1000.0 + step, "matmul_share": 0.5, "gradient_norm": 1.0, "learning_rate": 0.1}
        metrics.append({"step": step, "cross_entropy": 3.0, "tokens": 100.0, "seconds": 30.0, **speed, "skipped": 1.0})
        if step % 4 == 0:
            metrics.append({"step": step, "bits_per_byte/code": 2.0})
    samples = [{"step": step, "prompt": "import", "text": f"text {step} {HOSTILE}"} for step in range(1, 9)]
    done = {"bits_per_byte/code": 2.0, "padded_share": 0.02, "dropped_share": 0.0}
    finished(tmp_path, "pretrain", {"row_tokens": 256}, done, metrics, samples)
    described(tmp_path, ("pretrain", "pretrain"))
    page = write_report(tmp_path)[0].read_text("utf-8")
    assert page.count("<svg") == 1 + 2 + 4  # loss; bits per byte over tokens and time; speed, share, norm, rate
    assert "minutes of training" in page and "held-out code" in page
    for fact in ("1,004", "50.0%", "2.0%", "steps skipped"):
        assert fact in page
    assert [f"after {step} steps" in page for step in range(1, 9)] == [
        True,
        False,
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    assert "<script" not in page


def test_an_iteration_is_the_mean_of_its_steps(out: Path) -> None:
    text = write_report(out)[1]
    assert re.search(r"entropy, nats per token +2\.500 +1\.000", text)
    assert re.search(r"score, mean +0\.100 +0\.400", text)


def test_what_a_model_wrote_stays_text(out: Path) -> None:
    path, text = write_report(out)
    page = path.read_text("utf-8")
    assert "<script" not in page
    assert page.count("&lt;/pre&gt;&lt;script&gt;") == 4 + 2  # a sample's prompt and three texts, two completions
    assert "script" not in Tags(page).names
    assert "\x1b" not in text


def test_the_page_loads_nothing(out: Path) -> None:
    tags = Tags(write_report(out)[0].read_text("utf-8"))
    links = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href")]
    assert links and all(value is not None and value.startswith("#") for value in links)
    assert tags.names.isdisjoint({"script", "link", "img", "iframe", "object"})


def test_missing_and_unfinished_stages_are_left_out(out: Path) -> None:
    (out / "evaluate" / "done.json").unlink()
    (out / "ppo" / "done.json").unlink()
    described(out, ("pretrain", "pretrain"), ("never", "finetune"), ("ppo", "ppo"), ("evaluate", "evaluate"))
    path, text = write_report(out)
    page = path.read_text("utf-8")
    assert "Pretraining" in page and "1 stage in 75.2 s, seed 7" in text
    for absent in ("Fine-tuning", "never", "Rewards, before", "PPO"):
        assert absent not in page and absent not in text


def test_a_stage_may_have_made_very_little(tmp_path: Path) -> None:
    """No held-out data, no metrics, and a kind that the report knows nothing of."""
    kinds = ("pretrain", "finetune", "reward", "ppo", "unknown")
    for kind in kinds:
        finished(tmp_path, kind, {}, {})
    described(tmp_path, *((kind, kind) for kind in kinds))
    assert "unknown" in write_report(tmp_path)[1]


def test_text_fits_a_terminal_whatever_things_are_called(out: Path) -> None:
    long = "a_name_" * 20
    (out / "held_out_reward").rename(out / long)
    stages = [("pretrain", "pretrain"), ("reward", "reward"), (long, "reward"), ("evaluate", "evaluate")]
    described(out, *stages)
    config = {"reward": "/x/reward", "held_out_reward": f"/x/{long}"}
    (out / "evaluate" / "config.yaml").write_text(yaml.safe_dump(config))
    assert max(len(line) for line in write_report(out)[1].splitlines()) <= 100


def test_a_folder_without_a_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"recipe\.json"):
        write_report(tmp_path)


def test_tables_align() -> None:
    table = Table(("name", "value"), [("a", "1.0"), ("longer", "10.0")])
    assert table.text() == "name    value\n-------------\na         1.0\nlonger   10.0"
    prose = Table(("", ""), [("key", "many words " * 3)], prose=True)
    assert prose.text(width=20) == "key  many words many\n     words many\n     words"


def test_numbers_that_are_none_are_a_dash() -> None:
    assert percent(float("nan")) == percent(None) == share_of(0.5, 0) == ABSENT
    assert share_of(0.5, 100) == "50.0% ± 5.0"


def control_run(out: Path, name: str, environment: str, algorithm: str, seed: int, level: float, **more: Any) -> None:
    config = {"environment": environment, "algorithm": algorithm, "seed": seed, "out": name, **more}
    returns = {"return_mean": level, "return_deviation": 1.0, "length_mean": 3.0, "returns": [level] * 4}
    done = {"stage": "control", "environment_steps": 400, "sampled": returns, "deterministic": returns}
    metrics = [
        {"step": n, "environment_steps": 100.0 * n, "episode_return": level * n / 4, "episodes": 2.0, "entropy": 0.5,
         "seconds": 0.5}
        for n in range(1, 5)
    ]  # fmt: skip
    finished(out, name, config, done, metrics)


def test_runs_of_one_environment_stand_together_a_row_for_each_algorithm_over_its_seeds(tmp_path: Path) -> None:
    for seed, level in ((0, 10.0), (1, 14.0)):
        control_run(tmp_path, f"ppo-{seed}", "Pole-v1", "ppo", seed, level)
        control_run(tmp_path, f"reinforce-{seed}", "Pole-v1", "reinforce", seed, level / 2)
    control_run(tmp_path, "walk", "Walk-v1", "ppo", 0, 3.0)
    names = ("ppo-0", "reinforce-0", "ppo-1", "reinforce-1", "walk")
    described(tmp_path, *((name, "control") for name in names))
    path, text = write_report(tmp_path)
    pole = text[text.index("Pole-v1") : text.index("Walk-v1")].splitlines()
    rows = [re.split(r"  +", line.strip()) for line in pole if line.startswith(("REINFORCE", "PPO"))]
    assert rows == [
        ["REINFORCE", "2", "400", "6.0 ± 1.0", "6.0 ± 1.0", "200"],
        ["PPO", "2", "400", "12.0 ± 2.0", "12.0 ± 2.0", "200"],
    ]
    page = path.read_text()
    assert page.count("<h2>Pole-v1</h2>") == page.count("<h2>Walk-v1</h2>") == 1
    assert "thousand environment steps" in page and "Returns in training." in page


def test_runs_of_one_algorithm_with_other_settings_are_told_apart_by_their_names(tmp_path: Path) -> None:
    for name, gamma in (("near-0", 0.9), ("near-1", 0.9), ("far-0", 0.99)):
        control_run(tmp_path, name, "Pole-v1", "ppo", int(name[-1]), 5.0, gamma=gamma)
    described(tmp_path, *((name, "control") for name in ("near-0", "near-1", "far-0")))
    text = write_report(tmp_path)[1]
    assert re.search(r"^near +2 ", text, re.MULTILINE) and re.search(r"^far +1 ", text, re.MULTILINE)


def test_a_run_in_which_no_episode_ended_stands_beside_one_of_constant_returns(tmp_path: Path) -> None:
    control_run(tmp_path, "ppo-0", "Pole-v1", "ppo", 0, 5.0)
    control_run(tmp_path, "short", "Pole-v1", "actor_critic", 0, 5.0)
    for name, change in (("ppo-0", {"episode_return": -200.0}), ("short", {})):
        path = tmp_path / name / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{key: value for key, value in row.items() if key != "episode_return"} | change for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    described(tmp_path, ("ppo-0", "control"), ("short", "control"))
    assert "Returns in training." in write_report(tmp_path)[0].read_text()


def test_plots_are_written_as_files_when_asked_for(tmp_path: Path) -> None:
    control_run(tmp_path, "ppo-0", "Pole-v1", "ppo", 0, 5.0)
    described(tmp_path, ("ppo-0", "control"))
    write_report(tmp_path, plots=True)
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["pole-v1-1.svg", "pole-v1-2.svg"]
    root = ElementTree.parse(tmp_path / "plots" / "pole-v1-1.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_film_is_part_of_the_page(tmp_path: Path) -> None:
    control_run(tmp_path, "ppo-0", "Pole-v1", "ppo", 0, 5.0)
    (tmp_path / "ppo-0" / "film.gif").write_bytes(b"GIF89a")
    described(tmp_path, ("ppo-0", "control"))
    page = write_report(tmp_path)[0].read_text()
    assert 'src="data:image/gif;base64,R0lGODlh"' in page and "img-src data:" in page
