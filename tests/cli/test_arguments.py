"""Every field is an option; YAML files come first and options go on top."""

from pathlib import Path

import pytest

from tests.config.test_base import NAMES, fields
from trine.cli.arguments import parse
from trine.config.base import OptimizerConfig
from trine.config.evaluation import EvaluateConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.registry import command_config_class
from trine.config.rl import PpoConfig
from trine.config.text import PretrainConfig, TokenizerConfig
from trine.config.use import GenerateConfig, RunConfig
from trine.runtime.errors import TrineError

REQUIRED = ["--out", "runs/x", "--tokenizer", "runs/t"]


def pretrain(*arguments: str) -> PretrainConfig:
    return parse("pretrain", PretrainConfig, [*REQUIRED, *arguments])[0]


@pytest.mark.parametrize("name", NAMES)
def test_help_lists_every_option_with_its_description(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(name, command_config_class(name), ["--help", "all"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for key, field in fields(command_config_class(name)):
        assert f"--{key} " in text
        assert " ".join(field.description.split()[:3]) in text


def test_help_shows_the_default_a_stage_gives_and_not_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("ppo", PpoConfig, ["--help", "all"])
    text = " ".join(capsys.readouterr().out.split())
    own, general = PpoConfig.model_fields["optimizer"].default, OptimizerConfig()
    assert own.learning_rate != general.learning_rate
    assert f"(or of everything, with adamw) (default: {own.learning_rate})" in text


def test_options_are_yaml() -> None:
    config = pretrain(
        "--model.width", "64", "--corpus.distributions", "{numpy: 0.5}", "--corpus.standard_library", "true",
        "--optimizer.learning_rate=1e-4",
    )  # fmt: skip
    assert config.model.width == 64
    assert config.corpus.distributions == {"numpy": 0.5}
    assert config.corpus.standard_library is True
    assert config.optimizer.learning_rate == 1e-4


def test_folders_are_given_one_or_several() -> None:
    assert pretrain("--corpus.folders", "a/b").corpus.folders == (Path("a/b"),)
    assert pretrain("--corpus.folders", "[a, b c]").corpus.folders == (Path("a"), Path("b c"))


def test_text_is_taken_as_it_stands() -> None:
    config, _ = parse("generate", GenerateConfig, ["model", "--prompt", "{a: 1} # yes"])
    assert (config.prompt, config.model) == ("{a: 1} # yes", "model")
    assert parse("run", RunConfig, ["quickstart", "--out", "1.0"])[0].out == Path("1.0")


def test_a_file_is_read_first_and_options_go_on_top(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("tokens: 5\nmodel: {width: 64, layers: 3}\nout: elsewhere\n")
    config = pretrain("--config", str(tmp_path / "config.yaml"), "--model.layers", "7")
    assert (config.tokens, config.model.width, config.model.layers, str(config.out)) == (5, 64, 7, "runs/x")


def test_the_config_of_a_run_can_be_given_back_as_a_file(tokenizer_run: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(tokenizer_run / "config.yaml"), "--out", str(tmp_path)]
    config, _ = parse("tokenizer", TokenizerConfig, arguments)
    assert config.vocab_size == 320


def test_dry_run_is_told_apart() -> None:
    assert parse("pretrain", PretrainConfig, [*REQUIRED, "--dry-run"])[1] is True
    assert parse("pretrain", PretrainConfig, REQUIRED)[1] is False


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--tokns", "5"], "trine pretrain: unknown option --tokns; did you mean 'tokens'?"),
        (["--model.widht=5"], "unknown option --model.widht=5; did you mean 'model.width'?"),
        (["--tokens", "many"], "trine pretrain: tokens='many'"),
        (["--tokens", "[1"], "trine pretrain: tokens='[1': not a whole number"),
        (["--model.family", "bert"], "model.family='bert'"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(TrineError) as caught:
        pretrain(*arguments)
    assert words in str(caught.value)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {widht: 64}\n")
    with pytest.raises(TrineError, match=r"config\.yaml: unknown key 'model\.widht'; did you mean 'width'\?"):
        pretrain("--config", str(tmp_path / "config.yaml"))


@pytest.mark.parametrize("cls", [FinetuneConfig, EvaluateConfig])
def test_every_required_option_is_asked_for(cls: type[FinetuneConfig]) -> None:
    with pytest.raises(TrineError) as caught:
        parse("stage", cls, [])
    for name, field in cls.model_fields.items():
        assert (f"{name!r} is required: " in str(caught.value)) == field.is_required()
