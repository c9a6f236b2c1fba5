"""YAML of configs and recipes: the right mapping, or an error that names the file and the line."""

from pathlib import Path

import pytest

from tests.mutations import mutations
from trine.config.loading import read_yaml, validated
from trine.config.text import PretrainConfig
from trine.config.yaml_text import MAX_DEPTH, read_mapping, written
from trine.pipeline.recipe_file import recipe_text
from trine.pipeline.recipes import load_recipe
from trine.runtime.errors import TrineError

CONFIG = written(PretrainConfig(out="runs/x", tokenizer="runs/t", depth=6).model_dump(mode="json"))  # type: ignore[arg-type]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text, words",
    [
        ("tokens: 1\nout: x\ntokens: 2\n", r":3: .*the key 'tokens' stands twice, on lines 1 and 3"),
        ("model:\n  width: 1\n  layers: 2\n  width: 3\n", r":4: .*'width' stands twice, on lines 2 and 4"),
        ("stages:\n- {stage: a, stage: b}\n", r":2: .*'stage' stands twice, on lines 2 and 2"),
        ("'a': 1\na: 2\n", r"'a' stands twice"),
        ("a: 1\n? [b, c]\n: 2\n", r":2: .*a key is a text"),
        ("a:\n\tb: 1\n", r":2: .*tab"),
        (BOMB, r"aliases \(\*name\) unfold to more than 100,000"),
        ("a: &a [*a]\n", r":1: .*"),
        ("a: " + "[" * 200 + "]" * 200, f"nested more than {MAX_DEPTH} levels"),
        ("a: " + "[" * 100_000, "not readable YAML"),
        ("a: 1\n---\nb: 2\n", r":2: .*"),
        ("a: [1\n", "not readable YAML"),
        ("- 1\n", "expected a mapping of keys .*found a list"),
        ("", "found nothing"),
        ("just words", "found the text 'just words'"),
        ("a: *nobody\n", r":1: .*undefined alias"),
        ("a: !!python/object/apply:os.system [id]\n", r":1: .*python"),
        ("a: !!binary aGk=\n", r":1: .*'binary' is no kind of value"),
        ("a: !mine 3\n", r":1: .*!mine"),
        ("a: \0\n", "not allowed"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, words: str) -> None:
    """1.10: a key that stands twice, and its like."""
    with pytest.raises(TrineError, match=f"^here{'' if words.startswith(':') else '.*'}{words}"):
        read_mapping(text, "here")


def test_merged_keys_may_be_replaced() -> None:
    """1.10: what `<<` brings in is a default, no second value; and an anchor may be used often."""
    text = "base: &base {a: 1, b: 2}\nx: {<<: *base, b: 3}\ny: {<<: *base}\nz: *base\n"
    values = read_mapping(text, "here")
    assert values["x"] == {"a": "1", "b": "3"} and values["y"] == values["z"] == values["base"]


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(CONFIG.encode("utf-16"))
    with pytest.raises(TrineError, match=r"config\.yaml: not readable as UTF-8: it is UTF-16"):
        read_yaml(path)
    path.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(TrineError, match=r"config\.yaml:2: not readable as UTF-8"):
        read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert read_yaml(path) == {"a": "1"}


def test_a_damaged_config_is_read_or_named(tmp_path: Path) -> None:
    """1.10: 160 damaged copies of a config.yaml; what is read has every key of the damaged file's own."""
    path = tmp_path / "config.yaml"
    read, named = 0, 0
    for name, damaged in mutations(CONFIG.encode(), seed=1, count=160):
        path.write_bytes(damaged)
        try:
            config = validated(PretrainConfig, read_yaml(path), str(path))
        except TrineError as error:
            assert str(path) in str(error), name
            named += 1
        else:
            assert isinstance(config, PretrainConfig)
            # Less than the whole file is read only where the file itself is short of whole lines.
            lines = [line for line in damaged.decode("utf-8-sig").splitlines() if line.strip()]
            assert len(written(config.model_dump(mode="json")).splitlines()) >= len(lines) - 2, name
            read += 1
    assert read > 5 and named > 50


def test_a_damaged_recipe_is_read_or_named(tmp_path: Path) -> None:
    """1.10: 160 damaged copies of a recipe: as many stages as the file names, or an error with the file's name."""
    path = tmp_path / "recipe.yaml"
    read, named = 0, 0
    for name, damaged in mutations(recipe_text("quickstart").encode(), seed=2, count=160):
        path.write_bytes(damaged)
        try:
            recipe = load_recipe(str(path), tmp_path / "out", 0, None)
        except TrineError as error:
            assert str(path) in str(error), name
            named += 1
        else:
            assert len(recipe.steps) == damaged.decode("utf-8-sig").count("\n    stage: "), name
            read += 1
    assert read > 5 and named > 50


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "1e5",
        "1:30",
        "null",
        "~",
        "",
        "<<",
        "0o7",
        "a: b",
        "- x",
        "é\n",
        "1_000",
        "2001-01-01",
        "\t",
        "=",
        "!x",
        "*x",
        "'",
        '"',
        "\u2028",
    ],
)
def test_written_yaml_reads_back_as_the_same_text(text: str) -> None:
    """And is no number, date or truth to other readers of YAML either."""
    import yaml

    assert read_mapping(written({"a": text, text: [text]}), "here") == {"a": text, text: [text]}
    assert yaml.safe_load(written({"a": text})) == {"a": text}
    assert type(read_mapping(written({"a": text}), "here")["a"]) is str or text not in ("null", "~", "")
