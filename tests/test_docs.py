"""What the documentation says of the code is there."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from trine.config.registry import COMMANDS, STAGES, command_config_class

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(path.name for path in DOCS.glob("policy-gradients*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_every_function_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`(trine[\w.]+):([\w.]+)`", (DOCS / page).read_text("utf-8"))
    assert len(named) > 10
    for module, path in named:
        found = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found)


@pytest.mark.parametrize("page", PAGES)
def test_every_test_file_that_a_page_names_exists(page: str) -> None:
    for path in re.findall(r"`(tests/[\w/]+\.py)`", (DOCS / page).read_text("utf-8")):
        assert (DOCS.parent / path).is_file(), path


def config_keys(cls: type[BaseModel]) -> Iterator[str]:
    """Names and dotted names of all fields, of nested configs too."""
    for name, field in cls.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (each for key in config_keys(field.annotation) for each in (key, f"{name}.{key}"))


def test_the_glossary_names_keys_and_commands_that_exist() -> None:
    commands = [*STAGES, *COMMANDS]
    known = {key for command in commands for key in config_keys(command_config_class(command))}
    known |= {f"trine {command}" for command in commands} | set(STAGES) | {"done.json", "--depth"}
    named = re.findall(r"`([^`]+)`", (DOCS / "glossary.md").read_text("utf-8"))
    assert [name for name in named if name.split(":")[0] not in known] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readmes_link_files_that_exist(page: str) -> None:
    links = re.findall(r"\]\(([^):#]+)\)", (DOCS.parent / page).read_text("utf-8"))
    assert "docs/glossary.md" in links
    assert [link for link in links if not (DOCS.parent / link).exists()] == []
