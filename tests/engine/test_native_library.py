"""Building the compiled step: once, kept, and never a reason to fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import tiny_model
from trine.engine.engine import Engine
from trine.engine.native.library import native_library
from trine.engine.sampling import Sampling
from trine.model.training_kernels import training_library

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


@pytest.mark.slow
def test_the_users_own_compiler_builds_it(built: Path, anew: None, tmp_path: Path) -> None:
    assert native_library() is not None
    assert [path.name for path in kept(tmp_path)] == [built.name]
