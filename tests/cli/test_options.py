"""The manners of options: lists, switches, texts, numbers, and what is given twice."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command
from trine.cli.arguments import parse
from trine.config.control import ControlConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.text import PretrainConfig, TokenizerConfig
from trine.config.use import ChatConfig, GenerateConfig, RunConfig
from trine.runtime.errors import TrineError


def pretrain(*arguments: str) -> PretrainConfig:
    return parse("pretrain", PretrainConfig, ["--out", "x", "--tokenizer", "t", *arguments])[0]


def generate(*arguments: str) -> GenerateConfig:
    return parse("generate", GenerateConfig, ["m", "p", *arguments])[0]


A_B = (Path("A"), Path("B"))
FOLDERS = [
    (("--corpus.folders", "A", "--corpus.folders", "B"), A_B),
    (("--corpus.folders", "A", "B"), A_B),
    (("--corpus.folders", "A,B"), A_B),
    (("--corpus.folders=A,B",), A_B),
    (("--corpus.folders", "A, B"), A_B),
    (("--corpus.folders", "[A, B]"), A_B),
    (("--corpus.folders=A", "--tokens", "5", "--corpus.folders=B"), A_B),
    (("--corpus.folders", "A", "--tokens", "5", "--corpus.folders", "B"), A_B),
    (("--corpus.folders", '"A,B"'), (Path("A,B"),)),
    (("--corpus.folders", '"A,B",C'), (Path("A,B"), Path("C"))),
    (("--corpus.folders", '"say ""A"""'), (Path('say "A"'),)),
    (("--corpus.folders", "a b"), (Path("a b"),)),
]


@pytest.mark.parametrize("arguments, folders", FOLDERS, ids=[" ".join(each[0]) for each in FOLDERS])
def test_a_list_is_repeated_listed_or_separated_by_commas(
    arguments: tuple[str, ...], folders: tuple[Path, ...]
) -> None:
    """1.9: every item counts, however the list is given."""
    assert pretrain(*arguments).corpus.folders == folders


def test_a_path_that_exists_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.9: a comma in the name of a folder that is there separates nothing."""
    (tmp_path / "A,B").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pretrain("--corpus.folders", "A,B").corpus.folders == (Path("A,B"),)
    assert pretrain("--corpus.folders", f"{tmp_path}/A,B", "C,D").corpus.folders == (
        tmp_path / "A,B", Path("C"), Path("D"),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["A,", ",A", "A,,B", "", ","])
def test_an_empty_item_is_refused(text: str) -> None:
    with pytest.raises(TrineError, match=r"corpus.folders .*an item is empty"):
        pretrain("--corpus.folders", text)


def test_lists_of_other_kinds() -> None:
    """1.9: numbers, choices and names have commas between them; texts keep theirs."""
    control = parse("control", ControlConfig, ["CartPole-v1", "--hidden", "64,32", "1k"])[0]
    assert control.hidden == (64, 32, 1000)
    assert pretrain("--loop.trackers", "tensorboard,wandb").loop.trackers == ("tensorboard", "wandb")
    assert pretrain("--corpus.filters.licenses", "MIT, Apache-2.0").corpus.filters.licenses == ("MIT", "Apache-2.0")
    assert generate("--stop_strings", "a,b", "[c, d]", "--seed", "1").stop_strings == ("a,b", "[c, d]")
    assert pretrain("--sample_prompts", "x", "--sample_prompts", "y").sample_prompts == ("x", "y")
    sources = pretrain("--corpus.sources", "{folder: a}", "[{dataset: b}, {folder: c}]").corpus.sources
    assert [source.title for source in sources] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    ["User:", "\\n", "def ", " ", "null", "true", "1e5", "[INST]", "{a: 1}", '"x"', "-", "-1", "a: b", "#", "$HOME"],
)
def test_a_text_is_what_was_typed(text: str) -> None:
    """5.2: no option for text is read as YAML."""
    assert generate("--stop_strings", text).stop_strings == (text,)
    assert parse("generate", GenerateConfig, ["m", "--prompt", text])[0].prompt == text
    assert parse("generate", GenerateConfig, ["m", f"--prompt={text}"])[0].prompt == text
    assert parse("chat", ChatConfig, ["m", "--system", text])[0].system == text


def test_a_value_with_dashes() -> None:
    """5.2: a text that begins with dashes follows `=`, or `--` where it has no name."""
    assert parse("generate", GenerateConfig, ["m", "--prompt=--help"])[0].prompt == "--help"
    assert parse("generate", GenerateConfig, ["--chat", "--", "m", "--help"])[0].prompt == "--help"
    assert generate("--stop_strings=--", "--stop_strings", "-x").stop_strings == ("--", "-x")
    with pytest.raises(TrineError, match=r"--prompt needs a value; .* is written --prompt=VALUE"):
        parse("generate", GenerateConfig, ["m", "--prompt", "--chat"])
    with pytest.raises(TrineError, match="--prompt needs a value"):
        parse("generate", GenerateConfig, ["m", "--prompt"])
    with pytest.raises(TrineError, match="unknown option -o; options begin with two dashes"):
        parse("pretrain", PretrainConfig, ["-o", "x", "--tokenizer", "t"])


@pytest.mark.parametrize(
    "arguments, value",
    [
        (("--chat",), True),
        (("--chat", "true"), True),
        (("--chat=yes",), True),
        (("--chat", "--seed", "1"), True),
        (("--no-chat",), False),
        (("--no_chat",), False),
        (("--chat", "false"), False),
        (("--chat=0",), False),
        ((), False),
    ],
)
def test_a_switch_stands_alone(arguments: tuple[str, ...], value: bool) -> None:
    """5.1: --chat, --no-chat, --chat false."""
    assert generate(*arguments).chat is value
    assert parse("generate", GenerateConfig, [*arguments, "m", "p"])[0].chat is value


def test_what_can_be_off_null_or_empty_is_so_by_no() -> None:
    """5.1: --no-NAME of every kind."""
    config = parse("control", ControlConfig, ["CartPole-v1", "--no-film", "--no-clip_range"])[0]
    assert (config.film, config.clip_range) == (False, None)
    assert pretrain("--no-sample_prompts", "--no-corpus.filters.licenses").sample_prompts == ()
    with pytest.raises(TrineError, match="tokens always has a value"):
        pretrain("--no-tokens")
    with pytest.raises(TrineError, match="--chat and --no-chat contradict"):
        generate("--chat", "--no-chat")


@pytest.mark.parametrize(
    "text, value", [("1e6", 10**6), ("100k", 10**5), ("2M", 2 * 10**6), ("1_000_000", 10**6), ("2e6", 2 * 10**6)]
)
def test_numbers_as_people_write_them(text: str, value: int, tmp_path: Path) -> None:
    """5.1: on the command line, in YAML and in a recipe alike."""
    assert pretrain("--tokens", text).tokens == value
    (tmp_path / "config.yaml").write_text(f"tokens: {text}\n")
    assert pretrain("--config", str(tmp_path / "config.yaml")).tokens == value


def test_null_is_nothing_for_numbers_and_paths() -> None:
    assert pretrain("--optimizer.warmup_steps", "null").optimizer.warmup_steps is None
    config = parse("finetune", FinetuneConfig, ["--out", "x", "--model", "m", "--examples", "e", "--held_out", "null"])[
        0
    ]
    assert config.held_out is None


@pytest.mark.parametrize("option", ["--tokens", "--model.family", "--packing", "--recompute_blocks"])
def test_a_single_value_given_twice_is_an_error(option: str) -> None:
    """1.9: neither the first nor the last wins silently."""
    value = {"--tokens": "5", "--model.family": "gpt2", "--packing": "stream", "--recompute_blocks": "true"}[option]
    with pytest.raises(TrineError, match=f"{option} is given 2 times"):
        pretrain(option, value, option, value)
    with pytest.raises(TrineError, match="--out is given 2 times"):
        pretrain("--out", "y")


def test_mappings_are_yaml_or_keys_with_values() -> None:
    shares = {"numpy": 0.5, "markdown-it-py": 1.0}
    for arguments in (
        ("--corpus.distributions", "{numpy: 0.5, markdown-it-py: 1}"),
        ("--corpus.distributions", "numpy=0.5,markdown-it-py=1"),
        ("--corpus.distributions", "numpy=0.5", "markdown-it-py=1"),
        ("--corpus.distributions", "numpy=.5", "--corpus.distributions", "markdown-it-py=1"),
        ("--corpus.distributions.numpy", "0.5", "--corpus.distributions.markdown-it-py=1"),
    ):
        assert pretrain(*arguments).corpus.distributions == shares
    options = parse("control", ControlConfig, ["X-v0", "--environment_options", "continuous=true", "n=3", "s=a,b"])[0]
    assert options.environment_options == {"continuous": True, "n": 3, "s": "a,b"}
    for wrong, words in (
        (("numpy",), "key=value"),
        (("{numpy: 1, numpy: 2}",), "twice"),
        (("a=1", "a=2"), "'a' is given twice"),
    ):
        with pytest.raises(TrineError, match=words):
            pretrain("--corpus.distributions", *wrong)


def test_values_without_a_name_fill_what_is_required() -> None:
    for arguments in (["m", "p"], ["--seed", "1", "m", "p"], ["m", "--seed", "1", "p"], ["--prompt", "p", "m"]):
        config = parse("generate", GenerateConfig, arguments)[0]
        assert (config.model, config.prompt) == ("m", "p")
    with pytest.raises(TrineError, match="'three' is one value too many"):
        parse("generate", GenerateConfig, ["one", "two", "three"])
    with pytest.raises(TrineError, match="'stray' is one value too many"):
        pretrain("stray")


def test_names_are_never_shortened_and_dashes_are_underscores() -> None:
    assert pretrain("--batch-size", "4", "--loop.save-every=3").batch_size == 4
    for option in ("--toke", "--corpus", "--model.wid", "--dry"):
        with pytest.raises(TrineError, match=f"unknown option {option}"):
            pretrain(option, "5")


def test_a_mistake_names_the_file_or_the_command_that_it_is_in(tmp_path: Path) -> None:
    """1.10: with a file and options, the place is the one the value came from."""
    (tmp_path / "config.yaml").write_text("model: {layers: two}\n")
    with pytest.raises(TrineError) as caught:
        pretrain("--config", str(tmp_path / "config.yaml"), "--model.width", "wide", "--tokens", "3")
    assert f"{tmp_path / 'config.yaml'}: model.layers='two'" in str(caught.value)
    assert "trine pretrain: model.width='wide'" in str(caught.value)


def test_duplicate_keys_of_a_config_file_are_refused(command: Command, tmp_path: Path) -> None:
    """1.10: the key and both lines are named."""
    (tmp_path / "config.yaml").write_text("out: x\nvocab_size: 300\nseed: 1\nvocab_size: 400\n")
    code, _, message = command("tokenizer", "--config", tmp_path / "config.yaml")
    assert code == 2
    assert "config.yaml:4: not readable YAML: the key 'vocab_size' stands twice, on lines 2 and 4" in message.replace(
        "\n", " "
    )


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """5.1: `--out ~/runs` written with `=` or in YAML, where no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse("tokenizer", TokenizerConfig, ["--out=~/runs", "--corpus.folders=~/a,~/b"])[0]
    assert (config.out, config.corpus.folders) == (tmp_path / "runs", (tmp_path / "a", tmp_path / "b"))
    assert parse("run", RunConfig, ["quickstart", "--out", "~"])[0].out == tmp_path


def test_the_python_door_reads_values_alike(tmp_path: Path) -> None:
    """5.1: numbers, lists and paths in `trine.<stage>(...)` are those of the command line."""
    from trine.api.functions import config_of

    fields: dict[str, Any] = {"out": "~/x", "tokenizer": "t", "tokens": "2M", "corpus": {"folders": "a"}, "depth": 2.0}
    config = config_of("trine.pretrain", PretrainConfig, (), fields)
    assert (config.tokens, config.depth, config.corpus.folders) == (2_000_000, 2, (Path("a"),))
    assert config.out == Path("~/x").expanduser()
    with pytest.raises(TrineError, match=r"trine.pretrain: tokens='many': not a whole number"):
        config_of("trine.pretrain", PretrainConfig, (), fields | {"tokens": "many"})
