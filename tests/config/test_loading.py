"""Every mistake in a config is named with its place, its key and the nearest known one."""

from pathlib import Path

import pytest

from trine.config.base import StageConfig
from trine.config.loading import nearest, read_yaml, validated, with_override
from trine.config.text import PretrainConfig
from trine.runtime.errors import TrineError

REQUIRED = {"out": "runs/x", "tokenizer": "runs/t"}


def test_good_values_become_a_config() -> None:
    config = validated(PretrainConfig, REQUIRED | {"model": {"width": 64}}, "here")
    assert (config.model.width, config.model.layers) == (64, PretrainConfig.model_fields["model"].default.layers)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"tokns": 5}, ["here: unknown key 'tokns'; did you mean 'tokens'?"]),
        ({"model": {"widht": 5}}, ["here: unknown key 'model.widht'; did you mean 'width'?"]),
        ({"tokens": "many"}, ["here: tokens='many'", "integer"]),
        ({"tokens": -1}, ["here: tokens=-1", "greater than 0"]),
        ({"model": {"family": "bert"}}, ["model.family='bert'", "'qwen3' or 'gpt2'"]),
        ({"optimizer": {"beta1": 2}}, ["optimizer.beta1=2", "less than or equal to 1"]),
        ({"corpus": {"distributions": {"numpy": 3}}}, ["corpus.distributions.numpy=3"]),
        ({"model": 3}, ["here: model=3"]),
    ],
)
def test_a_mistake_is_named_with_place_and_key(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(TrineError) as caught:
        validated(PretrainConfig, REQUIRED | values, "here")
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_missing_field_is_named_with_its_description() -> None:
    with pytest.raises(TrineError, match="here: 'tokenizer' is required: folder of a tokenizer stage"):
        validated(PretrainConfig, {"out": "x"}, "here")


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(TrineError) as caught:
        validated(StageConfig, {"sed": 1, "overwrite": "perhaps"}, "here")
    message = str(caught.value)
    assert "'sed'" in message and "overwrite='perhaps'" in message and "'out' is required" in message


def test_the_nearest_name_is_offered_or_else_all_of_them() -> None:
    assert nearest("pretrian", ["pretrain", "reward"]) == "; did you mean 'pretrain'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"


@pytest.mark.parametrize(
    "text, word", [("a: [1", "not readable YAML"), ("- 1\n- 2", "expected a mapping"), ("", "mapping")]
)
def test_broken_yaml_names_the_file(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(TrineError, match=f"{path}.*{word}"):
        read_yaml(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"none\.yaml does not exist"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(TrineError, match=f"{tmp_path}: not readable"):
        read_yaml(tmp_path)


def test_overrides_reach_nested_keys() -> None:
    values: dict[str, object] = {"model": {"width": 64}}
    with_override(values, "model.layers", 3)
    with_override(values, "loop.save_every", 7)
    assert values == {"model": {"width": 64, "layers": 3}, "loop": {"save_every": 7}}


def test_an_override_below_something_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(TrineError, match=r"model\.width cannot be set: model=3"):
        with_override({"model": 3}, "model.width", 5)
