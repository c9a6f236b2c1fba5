"""Optional packages are checked before the work: for every stage, and for a recipe before its first one."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from trine.config import extras
from trine.config.base import Config
from trine.config.corpus import CorpusConfig, FilterConfig, SourceConfig
from trine.config.extras import check_extras, extras_of
from trine.config.registry import STAGES
from trine.config.text import PretrainConfig, TokenizerConfig
from trine.config.use import GenerateConfig
from trine.runtime.errors import TrineError

CORPUS = CorpusConfig(
    sources=(SourceConfig(folder=Path("a")), SourceConfig(dataset="b")), filters=FilterConfig(near_duplicates=True)
)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)


def settings_of(config: Config) -> set[str]:
    return {extra.setting for extra in extras_of(config)}


def test_a_config_is_searched_to_its_depths() -> None:
    """3.9: filters, sources in a list, trackers, and how an answer is constrained."""
    loop: Any = {"trackers": ("tensorboard", "wandb")}
    pretrain = PretrainConfig(out=Path("o"), tokenizer=Path("t"), corpus=CORPUS, loop=loop)
    assert settings_of(pretrain) == {
        "corpus.filters.near_duplicates", "corpus.sources[1].dataset", "loop.trackers tensorboard",
        "loop.trackers wandb",
    }  # fmt: skip
    assert settings_of(GenerateConfig(model="m", prompt="p", regex="a+")) == {"regex"}
    assert not settings_of(TokenizerConfig(out=Path("o")))


@pytest.mark.usefixtures("nothing_installed")
def test_all_that_is_missing_is_said_at_once() -> None:
    """3.9: one command installs it."""
    with pytest.raises(TrineError) as caught:
        check_extras(TokenizerConfig(out=Path("o"), corpus=CORPUS))
    for word in (
        "sources[1].dataset needs datasets",
        "filters.near_duplicates needs datasketch",
        "pip install 'trine[",
    ):
        assert word in str(caught.value)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_needs_an_extra_by_default(stage: str) -> None:
    """3.9: defaults run on what the package itself installs."""
    for field in STAGES[stage].config_class().model_fields.values():
        if not field.is_required():
            assert not list(extras_of(field.default))


def test_every_extra_is_one_of_the_package(tmp_path: Path) -> None:
    """3.9: what the message tells to install exists."""
    declared = Path("pyproject.toml").read_text("utf-8").split("[project.optional-dependencies]")[1].split("\n[")[0]
    loop: Any = {"trackers": ("tensorboard", "wandb", "trackio")}
    configs = (
        PretrainConfig(out=tmp_path, tokenizer=tmp_path, corpus=CORPUS, loop=loop),
        GenerateConfig(model="m", prompt="p", json_schema="{}", regex="a"),
    )
    for extra in (extra for config in configs for extra in extras_of(config)):
        line = next(line for line in declared.splitlines() if line.startswith(f"{extra.name} ="))
        assert extra.module in line


def test_a_folder_of_the_same_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.9: people keep data in `datasets/`."""
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("no_such_package") is not None
    assert not extras._is_installed("no_such_package")
