"""Building the compiled step: once, kept, and never a reason to fail."""

import ctypes
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import tiny_model
from trine.engine.engine import Engine
from trine.engine.native.library import native_library
from trine.engine.sampling import Sampling
from trine.model.training_library import training_library

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then cat "{folder}/version"; exit 0; fi
echo built >> "{folder}/log"
while [ "$1" != -o ]; do shift; done
{act}
"""


@pytest.fixture
def built(needs_native: None) -> Path:
    """The real library, as some other test may have built it."""
    library = native_library()
    assert library is not None
    return Path(library._name)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is loaded, nothing is kept."""
    native_library.cache_clear()
    training_library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("TRINE_NATIVE_FOLDER", raising=False)
    monkeypatch.delenv("TRINE_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    yield
    native_library.cache_clear()
    training_library.cache_clear()


def use_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, act: str) -> None:
    """A compiler that notes each call, then does `act` with -o's argument as "$2"."""
    (folder / "version").write_text("1.0")
    (folder / "log").touch()
    script = folder / "compiler"
    script.write_text(COMPILER.format(folder=folder, act=act))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def times_built(folder: Path) -> int:
    return len((folder / "log").read_text().splitlines())


def kept(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache").rglob("*") if path.is_file()]


def test_what_was_built_is_kept_and_used_again(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    for _ in range(3):
        assert native_library() is not None
        native_library.cache_clear()
    assert times_built(tmp_path) == 1
    assert len(kept(tmp_path)) == 1


def test_another_compiler_builds_anew(built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    assert native_library() is not None
    native_library.cache_clear()
    (tmp_path / "version").write_text("2.0")
    assert native_library() is not None
    assert times_built(tmp_path) == 2


def test_what_is_kept_is_for_its_owner_alone(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    assert native_library() is not None
    assert kept(tmp_path)[0].parent.stat().st_mode & 0o077 == 0


def plain_engine_writes() -> None:
    engine = Engine(tiny_model())
    assert not engine.native
    assert len(engine.generate([[1, 2]], Sampling(4))[0].response_ids) == 4


def test_the_plain_runner_takes_over_where_there_is_no_compiler(
    anew: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    plain_engine_writes()
    said = "".join(capsys.readouterr())
    assert "no C++ compiler was found" in said
    assert "install g++" in said


def test_the_plain_runner_takes_over_where_the_compiler_fails_and_its_reason_is_told(
    anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_compiler(tmp_path, monkeypatch, 'echo half > "$2"; echo "omp.h is not here" >&2; exit 1')
    plain_engine_writes()
    assert "omp.h is not here" in "".join(capsys.readouterr())
    assert kept(tmp_path) == []


def test_the_plain_runner_takes_over_where_what_was_built_is_no_library(
    anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_compiler(tmp_path, monkeypatch, 'echo nonsense > "$2"')
    plain_engine_writes()
    assert "generation runs on PyTorch" in "".join(capsys.readouterr())


def test_the_plain_runner_takes_over_where_nothing_can_be_kept(
    anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    use_compiler(tmp_path, monkeypatch, "exit 0")
    plain_engine_writes()
    assert "generation runs on PyTorch" in "".join(capsys.readouterr())


def test_a_missing_compiler_named_by_cxx_is_told(
    anew: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    plain_engine_writes()
    assert "/nowhere/c++" in "".join(capsys.readouterr())


def test_the_compiled_step_can_be_switched_off_without_a_word(
    anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_compiler(tmp_path, monkeypatch, "exit 1")
    monkeypatch.setenv("TRINE_NATIVE", "0")
    plain_engine_writes()
    assert "".join(capsys.readouterr()) == ""
    assert times_built(tmp_path) == 0


def test_a_path_with_blanks_options_and_quotes_in_cxx_are_understood(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.10: CXX is a program, whose path may hold blanks, with or without options."""
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    spaced = tmp_path / "my tools" / "g++"
    spaced.parent.mkdir()
    (tmp_path / "compiler").rename(spaced)
    for number, named in enumerate((f"{spaced}", f"'{spaced}' -m64", f'"{spaced}" "-DA=1 2"'), 1):
        monkeypatch.setenv("CXX", named)
        native_library.cache_clear()
        assert native_library() is not None
        assert times_built(tmp_path) == number  # options make another library


@pytest.mark.parametrize("named", ["g++ 'x", 'g++ "', "'", "\\"])
def test_a_cxx_that_is_no_command_line_is_told(
    named: str, anew: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3.10: an unclosed quotation in CXX ended in a ValueError."""
    monkeypatch.setenv("CXX", named)
    plain_engine_writes()
    assert f"CXX={named} is no command line" in "".join(capsys.readouterr())


def test_where_the_cache_lets_nothing_run_the_library_is_built_once_and_kept_elsewhere(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3.10: on a cache folder mounted noexec it was built twice at every start."""
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')

    class Refusing(ctypes.CDLL):
        def __init__(self, path: str) -> None:
            if Path(path).is_relative_to(tmp_path / "cache"):
                raise OSError(f"{path}: failed to map segment from shared object")
            super().__init__(path)

    monkeypatch.setattr(ctypes, "CDLL", Refusing)
    for _ in range(3):
        assert native_library() is not None
        native_library.cache_clear()
    assert times_built(tmp_path) == 1
    said = "".join(capsys.readouterr())
    assert said.count("does not let libraries run (is it mounted noexec?)") == 1
    assert "TRINE_NATIVE_FOLDER names another folder" in said
    assert kept(tmp_path) == []


def test_where_the_cache_cannot_be_written_the_library_is_kept_elsewhere(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.10: a home that is read-only, as in many containers."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    for _ in range(2):
        assert native_library() is not None
        native_library.cache_clear()
    assert times_built(tmp_path) == 1


def test_a_built_library_is_used_where_no_compiler_is(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3.10: in an image without a compiler what was built is found, in the cache or in the folder that is named."""
    monkeypatch.setenv("TRINE_NATIVE_FOLDER", str(tmp_path / "shipped"))
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    assert native_library() is not None
    assert len(list((tmp_path / "shipped").iterdir())) == 1
    assert kept(tmp_path) == []
    capsys.readouterr()
    for change in ("no compiler", "a broken one"):
        native_library.cache_clear()
        if change == "no compiler":
            monkeypatch.delenv("CXX")
            monkeypatch.setenv("PATH", "")
        else:
            monkeypatch.setenv("CXX", "/nowhere/c++")
        assert native_library() is not None
    assert times_built(tmp_path) == 1
    assert "".join(capsys.readouterr()) == ""


def test_a_folder_that_others_can_write_to_is_not_trusted(
    built: Path, anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.10: code is loaded from these folders, wherever they are named."""
    shipped = tmp_path / "shipped"
    monkeypatch.setenv("TRINE_NATIVE_FOLDER", str(shipped))
    use_compiler(tmp_path, monkeypatch, f'cp "{built}" "$2"')
    assert native_library() is not None
    native_library.cache_clear()
    shipped.chmod(0o777)
    assert native_library() is not None
    assert (times_built(tmp_path), len(kept(tmp_path))) == (2, 1)


@pytest.mark.slow
def test_the_users_own_compiler_builds_it(built: Path, anew: None, tmp_path: Path) -> None:
    assert native_library() is not None
    assert [path.name for path in kept(tmp_path)] == [built.name]
