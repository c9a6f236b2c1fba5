"""5.6: what Trine says of a mistake is about the user's files and settings, never about this project."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trine
from trine.runtime.errors import TrineError
from trine.runtime.files import disk_errors

SOURCE = Path(trine.__file__).parent
# What only somebody who works on the project can follow, or what is no remedy for one's own data.
OF_THE_PROJECT = re.compile(
    r"constraints\.txt|install the project|\bour own\b|the maintainers|this repository"
    r"|test suite|docs/|src/|\.ci\b|not implemented|internal error"
)


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every text that a raised `TrineError` is made of."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TrineError":
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.lineno, inner.value


def test_no_message_speaks_of_the_project() -> None:
    """5.6: every message of every error in the tree."""
    found = [(path.relative_to(SOURCE).as_posix(), *each) for path in SOURCE.rglob("*.py") for each in messages(path)]
    assert len(found) > 500
    assert [each for each in found if OF_THE_PROJECT.search(each[2])] == []


def test_an_absent_installation_is_named_by_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    """5.6: what is not installed is installed by its own name."""
    from trine.config.corpus import CorpusConfig
    from trine.data.corpus import open_corpus

    with pytest.raises(TrineError, match=r"'no-such-thing'.*pip install no-such-thing"):
        open_corpus(CorpusConfig(distributions={"no-such-thing": 1.0}))


@pytest.mark.parametrize(
    "place, remedy",
    [("/proc/no-such-folder/x", "choose another place"), ("{tmp}/file/x", "a file is in the way"), ("{tmp}", "choose")],
)
def test_the_remedy_fits_the_place(tmp_path: Path, place: str, remedy: str) -> None:
    """5.6: no space is to be freed where space is not what is missing."""
    (tmp_path / "file").write_text("")
    path = Path(place.format(tmp=tmp_path))
    with pytest.raises(TrineError) as caught, disk_errors(path):
        path.write_bytes(b"x")
    assert remedy in str(caught.value) and "free some space" not in str(caught.value)
