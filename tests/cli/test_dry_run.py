"""A dry run tells what would be done and writes nothing."""

import re
from pathlib import Path

import pytest

from tests.conftest import Command
from trine.config import extras
from trine.pipeline.speeds import Speeds
from trine.runtime.durations import spoken


def test_pretraining_is_described_with_its_size(command: Command, tmp_path: Path, tokenizer_run: Path) -> None:
    arguments = ("pretrain", "--out", tmp_path / "run", "--tokenizer", tokenizer_run, *STANDARD, "--model.layers", 2,
                 "--model.width", 32, "--model.heads", 2, "--tokens", 100_000, "--row_tokens", 64,
                 "--batch_size", 4, "--hardware.threads", 1, "--hardware.precision", "fp32")  # fmt: skip
    code, out, _ = command(*arguments, "--dry-run")
    assert code == 0
    assert "width: 32" in out and "learning_rate: 0.02" in out
    assert "# parameters: 0.0M" in out and "# tokens: 99,840 in 390 steps" in out
    assert "# memory: about" in out and "# time: about" in out
    assert not (tmp_path / "run").exists()


STANDARD = ("--corpus.standard_library", "--corpus.held_out_share", "0.1")
# Of every kind of input one that will not do: the command without it, and what is said of it.
MISTAKES = [
    (("pretrain", "--tokenizer", "{tmp}/later", *STANDARD), "tokenizer={tmp}/later does not exist"),
    (("pretrain", "--tokenizer", "{tokenizer}", "--corpus.folders", "{tmp}/nowhere"), "corpus {tmp}/nowhere does not"),
    (("pretrain", "--tokenizer", "{tokenizer}", "--corpus.folders", "{tmp}/empty"), "{tmp}/empty has no text"),
    (("pretrain", "--tokenizer", "{tokenizer}"), "the corpus is empty"),
    (("pretrain", "--tokenizer", "{tmp}/empty", *STANDARD), "{tmp}/empty"),
    (("pretrain", "--tokenizer", "{tokenizer}", "--shards", "{tmp}/nowhere"), "shards={tmp}/nowhere does not exist"),
    (("tokenizer", "--corpus.distributions", "no-such-package=1"), "no-such-package"),
    (("finetune", "--model", "{tmp}/nowhere", "--examples", "{file}"), "{tmp}/nowhere does not exist"),
    (("finetune", "--model", "{tmp}/empty", "--examples", "{file}"), "{tmp}/empty holds no model"),
    (("finetune", "--model", "smollm2", "--examples", "{tmp}/none.jsonl"), "examples={tmp}/none.jsonl does not exist"),
    (("ppo", "--model", "a/b", "--prompts", "{file}", "--reward", "no_such_module:f"), "no_such_module"),
    (("ppo", "--model", "a/b", "--prompts", "{file}", "--reward", "json:no_such"), "'json:no_such' cannot be imported"),
    (("evaluate", *(f"--{each}=a/b" for each in ("before", "after", "base", "reward", "held_out_reward")), "--prompts",
      "{tmp}/none.jsonl"), "prompts={tmp}/none.jsonl does not exist"),
    (("control", "NoSuchTask-v0"), "NoSuchTask"),
    (("control", "no_such_module:Task-v0"), "no_such_module"),
    (("tokenizer", *STANDARD, "--hardware.device", "cuda:77"), "cuda"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, words", MISTAKES, ids=[f"{each[0][0]}-{each[1][:30]}" for each in MISTAKES])
def test_an_input_that_will_not_do_is_named(
    command: Command, tmp_path: Path, tokenizer_run: Path, arguments: tuple[str, ...], words: str
) -> None:
    """5.4: a dry run checks every input, and says what the run itself would have said."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "examples.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    places = {"tmp": tmp_path, "tokenizer": tokenizer_run, "file": tmp_path / "examples.jsonl"}
    given = [each.format(**places) for each in arguments]
    code, out, message = command(*given, "--out", tmp_path / "run", "--dry-run")
    assert (code, out) == (2, ""), message
    assert words.format(**places) in message.replace("\n", " ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "package, arguments, extra",
    [
        ("datasketch", ("tokenizer", *STANDARD, "--corpus.filters.near_duplicates"), "trine[clean]"),
        ("datasets", ("tokenizer", "--corpus.sources", "{dataset: owner/name}"), "trine[hub]"),
        ("wandb", ("finetune", "--model", "a/b", "--examples", "{file}", "--loop.trackers", "wandb"), "trine[wandb]"),
        ("llguidance", ("generate", "a/b", "hello", "--regex", "[0-9]+"), "trine[serve]"),
    ],
)
def test_a_missing_extra_is_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, arguments: tuple[str, ...],
    extra: str,
) -> None:  # fmt: skip
    """5.4, 3.9: what is not installed is found before the work."""
    monkeypatch.setattr(extras, "_is_installed", lambda name: name != package)
    (tmp_path / "examples.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    given = [each.replace("{file}", str(tmp_path / "examples.jsonl")) for each in arguments]
    out = () if arguments[0] == "generate" else ("--out", tmp_path / "run")
    code, _, message = command(*given, *out, "--dry-run")
    assert code == 2 and package in message and extra in message.replace("\n", "")


def test_every_mistake_is_named_at_once_and_with_its_step(command: Command, tmp_path: Path) -> None:
    """5.4: a recipe's steps are all checked; what an earlier step writes counts as there."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"stages:\n- {{stage: tokenizer, config: {{corpus: {{folders: {tmp_path}/a}}}}}}\n"
        f"- {{stage: pretrain, config: {{tokenizer: '@tokenizer', corpus: {{folders: {tmp_path}/b}}}}}}\n"
        "- {stage: finetune, config: {model: '@pretrain', examples: none.jsonl}}\n"
    )
    code, out, message = command("run", recipe, "--out", tmp_path / "run", "--dry-run")
    assert (code, out) == (2, "")
    lines = message.splitlines()
    assert [line.split(":")[-2].split()[-1] for line in lines] == ["tokenizer", "pretrain", "finetune"], message
    assert "none.jsonl does not exist" in lines[2]


def test_a_hub_name_is_noted_and_not_looked_up(command: Command, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    code, out, message = command(
        "finetune", "--model", "owner/name", "--examples", tmp_path / "examples.jsonl", "--out", tmp_path, "--dry-run"
    )
    assert code == 0, message
    assert "# owner/name: on the Hugging Face hub, not looked up" in out


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.2, "1 second"), (40, "40 seconds"), (99, "99 seconds"), (100, "2 minutes"), (3600, "60 minutes"),
        (12_000, "3 hours 20 minutes"), (86_400, "24 hours"), (190_000, "2 days 5 hours"), (9e6, "104 days"),
    ],
)  # fmt: skip
def test_durations_are_in_units_of_their_size(seconds: float, words: str) -> None:
    """5.4: not days in tenths of a minute."""
    assert spoken(seconds) == words


def test_the_total_is_never_below_one_of_its_parts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5.4: pretraining for days in a recipe that says ten minutes takes days."""
    monkeypatch.setattr("trine.stages.pretraining.estimate.product_flops", lambda hardware: 1e12)
    monkeypatch.setattr("trine.pipeline.plans.measured_speeds", lambda *shape: Speeds(1e9, 1e9, 1e9))
    code, out, _ = command("run", "quickstart", "--set", "pretrain.tokens=2G", "--out", tmp_path / "run", "--dry-run")
    assert code == 0
    part = re.search(r"# time: about (.*?): ", out)
    total = re.search(r"# all together: about (.*?) on ", out)
    assert part is not None and total is not None
    assert "day" in part[1] or "hour" in part[1]
    assert total[1] == part[1]


@pytest.mark.parametrize("arguments", [("quickstart",), ("run", "quickstart")])
def test_a_recipe_is_described_stage_by_stage(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("trine.pipeline.plans.measured_speeds", lambda *shape: Speeds(6e3, 4e3, 60))
    code, out, _ = command(*arguments, "--out", tmp_path / "run", "--dry-run")
    assert code == 0
    for name in (
        "tokenizer",
        "functions",
        "pretrain",
        "finetune",
        "preferences",
        "reward",
        "held_out_reward",
        "ppo",
        "evaluate",
    ):
        assert f"## {name} (stage " in out
    assert "responses of up to 64 tokens" in out and "# all together: about" in out
    assert "# → plan " in out and "# a larger one starts from nothing" in out
    assert not (tmp_path / "run").exists()


def test_passes_are_said_where_tokens_are_not_known(command: Command, tmp_path: Path, tokenizer_run: Path) -> None:
    code, out, _ = command(
        "pretrain",
        "--out",
        tmp_path / "run",
        "--tokenizer",
        tokenizer_run,
        *STANDARD,
        "--depth",
        4,
        "--epochs",
        0.5,
        "--dry-run",
    )
    assert code == 0 and "width: 256" in out
    assert "# tokens: 0.5 passes over the rows" in out and "tokens a second on" in out


def test_a_recipe_says_the_size_of_a_model_whose_tokenizer_it_makes(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("run", "codeparrot-124m", "--out", tmp_path / "run", "--dry-run")
    assert code == 0 and "# parameters: 124.2M" in out and "all together" not in out


def test_the_dial_of_a_recipe_moves_its_shape(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("run", "codeparrot-124m", "--out", tmp_path / "run", "--depth", 6, "--dry-run")
    assert code == 0 and "width: 384" in out and "epochs: 0.125" in out


def test_a_corpus_that_an_earlier_step_makes_is_not_looked_for(command: Command, tmp_path: Path) -> None:
    """The recipe sentiment pretrains on parts of the reviews, which its first stage writes."""
    (tmp_path / "reviews.jsonl").write_text('{"text": "A fine film.", "label": 1}\n', encoding="utf-8")
    given = f"reviews={tmp_path / 'reviews.jsonl'}"
    code, printed, errors = command("run", "sentiment", "--dry_run", "--out", str(tmp_path / "run"), "--set", given)
    assert (code, "does not exist" in errors) == (0, False)
    assert "kind: words" in printed
