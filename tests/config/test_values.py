"""Values are read by the type of their field, from whatever people write."""

import random
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from trine.config.base import Config, ModelName, PositiveBytes
from trine.config.loading import validated
from trine.config.text import PretrainConfig, TokenizerConfig
from trine.config.use import GenerateConfig
from trine.config.values import UNITS, Plain, number, resolved
from trine.runtime.errors import TrineError


class Sample(Config):
    """One field of every kind."""

    count: int = 0
    """a whole number"""
    size: PositiveBytes = 1
    """bytes"""
    rate: float | None = 0.0
    """a number"""
    text: str = ""
    """a text"""
    maybe: str | None = None
    """a text or nothing"""
    path: Path = Path()
    """a path"""
    model: ModelName = "m"
    """a model"""
    on: bool = False
    """on or off"""
    choice: Literal["on", "off", "1e5"] = "off"
    """one of three"""
    texts: tuple[str, ...] = ()
    """texts"""
    numbers: tuple[int, ...] = ()
    """whole numbers"""
    shares: dict[str, float] = {}  # noqa: RUF012
    """numbers by name"""
    anything: dict[str, Any] = {}  # noqa: RUF012
    """anything by name"""


NUMBERS = [
    ("1e6", 1_000_000), ("100k", 100_000), ("100K", 100_000), ("2M", 2_000_000), ("1_000_000", 1_000_000),
    ("1.5k", 1500), ("3G", 3 * 10**9), ("2B", 2 * 10**9), ("1.5e3", 1500), ("+7", 7), ("-3", -3), ("010", 10),
    (" 8 ", 8), ("2.0", 2), ("1E3", 1000), ("123456789012345678901", 123456789012345678901), ("0.5M", 500_000),
]  # fmt: skip


@pytest.mark.parametrize("text, value", NUMBERS)
@pytest.mark.parametrize("kind", [str, Plain])
def test_whole_numbers_are_read_as_people_write_them(text: str, value: int, kind: type[str]) -> None:
    """5.1: with or without quotes, exactly."""
    assert Sample(count=kind(text)).count == value  # type: ignore[arg-type]


def test_numbers_of_every_spelling_are_the_number() -> None:
    """5.1: digits, underscores, exponents and units, in any mixture."""
    random_ = random.Random(0)
    for _ in range(500):
        whole, places = random_.randrange(10**6), random_.randrange(4)
        unit, factor = random_.choice(list(UNITS.items()))
        exponent = random_.choice(["", "e2", "E+1", "e-1"])
        digits = f"{whole:_}" if random_.random() < 0.5 else str(whole)
        text = f"{digits}{'.' + '5' * places if places else ''}{exponent}{unit}"
        expected = float(text.removesuffix(unit).replace("_", "") if unit else text.replace("_", "")) * factor
        read = number(text)
        assert read is not None and float(read) == pytest.approx(expected, rel=1e-12), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        "1__0",
        "_1",
        "1_",
        "1,000",
        "0x10",
        "1:30",
        "1e9999",
        "٣",
        "1kk",
        "1m",
        "64KiB",
        "1/2",
        "nan",
        "inf",
        "--1",
        "1e",
        "9" * 5000,
    ],
)
def test_what_is_no_number_is_refused(text: str) -> None:
    """5.1: and never read as another number."""
    with pytest.raises(TrineError, match="count="):
        validated(Sample, {"count": text}, "here")


@pytest.mark.parametrize(
    "text, value",
    [("64KiB", 65536), ("2MB", 2 * 10**6), ("1GiB", 2**30), ("512", 512), ("1 kB", 1000), ("3B", 3), ("1e3", 1000)],
)
def test_bytes_have_units_of_their_own(text: str, value: int) -> None:
    """5.1: KiB and the like are for bytes only."""
    assert Sample(size=text).size == value  # type: ignore[arg-type]
    assert validated(TokenizerConfig, {"out": "x", "max_bytes": text}, "here").max_bytes == value


@pytest.mark.parametrize("value", [True, False, 2.5, None, [1], "true"])
def test_a_truth_value_and_a_fraction_are_no_whole_numbers(value: Any) -> None:
    with pytest.raises(TrineError, match="count="):
        validated(Sample, {"count": value}, "here")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), Plain(".inf"), "inf", "nan", "1e400"])
def test_numbers_are_finite(value: Any) -> None:
    with pytest.raises(TrineError, match="rate="):
        validated(Sample, {"rate": value}, "here")


@pytest.mark.parametrize(
    "text", ["null", "true", "1e5", "no", "User:", "\\n", "def ", " ", "1:30", "[a", "~/x", "a,b", "# x"]
)
def test_a_text_stays_as_it_stands(text: str) -> None:
    """5.2: quoted or not, in a list or alone."""
    sample = Sample(text=text, maybe=text, texts=[text])  # type: ignore[arg-type]
    assert (sample.text, sample.maybe, sample.texts) == (text, text, (text,))
    if text not in ("null", "~"):
        assert Sample(text=Plain(text), maybe=Plain(text), texts=[Plain(text)]) == sample  # type: ignore[arg-type]
    assert all(type(each) is str for each in (sample.text, sample.maybe, *sample.texts))


def test_null_without_quotes_is_nothing_where_nothing_may_stand() -> None:
    assert validated(Sample, {"maybe": Plain("null"), "rate": Plain("~")}, "here") == Sample(rate=None)
    with pytest.raises(TrineError, match=r"text=None: a value is needed here.*quotes"):
        validated(Sample, {"text": Plain("null")}, "here")


@pytest.mark.parametrize("field", ["path", "model"])
def test_paths_are_expanded_as_a_shell_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, field: str) -> None:
    """5.1: `~` makes no folder called `~`, nor `$HOME` one called `$HOME`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS_51", str(tmp_path / "runs"))
    monkeypatch.delenv("NOT_SET_51", raising=False)
    cases: list[tuple[str | Path, Path]] = [
        ("~", tmp_path),
        ("~/a/", tmp_path / "a"),
        ("$HOME/a", tmp_path / "a"),
        ("${RUNS_51}/b", tmp_path / "runs" / "b"),
        ("$RUNS_51", tmp_path / "runs"),
        ("a/~/b", Path("a/~/b")),
        ("a$HOME", Path("a$HOME")),
        (Path("~/x"), tmp_path / "x"),
    ]
    for written, expected in cases:
        assert str(getattr(Sample(**{field: written}), field)) == str(expected)  # type: ignore[arg-type]
    for refused, words in (
        ("$NOT_SET_51/x", "NOT_SET_51 is not set"),
        ("", "names no file"),
        ("a\0b", "names no file"),
    ):
        with pytest.raises(TrineError, match=words):
            validated(Sample, {field: refused}, "here")


def test_a_value_may_stand_where_a_list_may() -> None:
    """5.1: one item needs no brackets, in YAML and in Python."""
    assert Sample(texts="one", numbers=3) == Sample(texts=("one",), numbers=(3,))  # type: ignore[arg-type]
    config = validated(PretrainConfig, {"out": "x", "tokenizer": "t", "corpus": {"folders": "a,b"}}, "here")
    assert config.corpus.folders == (Path("a,b"),)
    assert GenerateConfig(model="m", prompt="p", stop_strings="User:").stop_strings == ("User:",)  # type: ignore[arg-type]


def test_what_no_type_describes_is_what_yaml_1_2_says() -> None:
    written = {"a": "1", "b": "1e5", "c": "true", "d": "no", "e": "null", "f": "1_000", "g": "010", "h": "1:30"}
    found = Sample(anything={key: Plain(value) for key, value in written.items()}).anything
    assert found == {"a": 1, "b": 1e5, "c": True, "d": "no", "e": None, "f": "1_000", "g": 10, "h": "1:30"}
    assert Sample(anything=written).anything == written
    assert resolved([Plain("1"), "1"]) == [1, "1"]


def test_choices_are_texts() -> None:
    """`on`, `off` and 1e5 in YAML are the choices of these names."""
    assert validated(Sample, {"choice": Plain("on")}, "here").choice == "on"
    assert validated(Sample, {"choice": Plain("1e5")}, "here").choice == "1e5"
    with pytest.raises(ValidationError):
        Sample(choice=Plain("onn"))  # type: ignore[arg-type]


def test_text_that_is_no_utf_8_is_named() -> None:
    """3.4: a lone surrogate, from a terminal of another encoding, never reaches a record."""
    with pytest.raises(TrineError, match=r"text=.*is not UTF-8 text"):
        validated(Sample, {"text": "caf\udce9"}, "here")


def test_nested_configs_are_read_before_any_rule_sees_them() -> None:
    """A depth, a budget and a width in words of their own give the same plan."""
    one = PretrainConfig(out="x", tokenizer="t", depth="4", tokens="2M", model={"width": "0.25k"})  # type: ignore[arg-type]
    two = PretrainConfig(out="x", tokenizer="t", depth=4, tokens=2_000_000, model={"width": 250})  # type: ignore[arg-type]
    assert one == two
