"""What the documentation says of the code is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest

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
