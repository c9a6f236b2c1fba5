"""The usage examples at the beginning of docstrings, and the small things that they name without making them.

An example is the first block of a docstring: lines of a Python session (`>>>`), whose answers are compared, or a
block after a line that ends in `::`.
"""

import ast
import doctest
import itertools
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trine
from tests.tiny import (
    random_ids,
    tiny_chat,
    tiny_config,
    tiny_model,
    tiny_score_model,
    tiny_task_model,
    tiny_task_tokenizer,
    tiny_tokenizer,
)
from trine.records import Message

ROOT = Path(trine.__file__).parent


@dataclass(frozen=True)
class UsageExample:
    """Code from the docstring of `name` in `module`; `session`: with `>>>`."""

    module: str
    name: str
    code: str
    session: bool

    def run(self, names: dict[str, Any]) -> None:
        """Raise unless the code runs and answers what it says."""
        if not self.session:
            exec(compile(self.code, f"{self.module}:{self.name}", "exec"), names)
            return
        test = doctest.DocTestParser().get_doctest(self.code, names, self.name, self.module, 0)
        failures: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=failures.append, clear_globs=False)
        assert not failures, "".join(failures)

    @property
    def names(self) -> set[str]:
        """What the code names that it may not have made."""
        source = doctest.script_from_examples(self.code) if self.session else self.code
        return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def parsed() -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Every public class and function at the top of a module, with the module's name."""
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(("trine", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield module, node


def usage_examples() -> list[UsageExample]:
    """All there are."""
    found = []
    for module, node in parsed():
        block = _first_block(ast.get_docstring(node) or "")
        if block:
            found.append(UsageExample(module, node.name, block, block.startswith(">>>")))
    return found


def _first_block(docstring: str) -> str | None:
    paragraphs = docstring.split("\n\n")
    for place, paragraph in enumerate(paragraphs):
        if paragraph.lstrip().startswith(">>>"):
            return textwrap.dedent(paragraph)
        if paragraph.endswith("::"):
            following = paragraphs[place + 1 :]
            indented = list(itertools.takewhile(lambda text: text.startswith(" "), following))
            return textwrap.dedent("\n\n".join(indented or following[:1])) + "\n"
    return None


def _answers() -> list[Any]:
    from trine.records import Answer

    return [Answer((Message("user", "2 + 2?"),), text) for text in ("4", "It is five.")]


def _words(count: int) -> list[str]:
    """Texts of words hardly two of which are alike."""
    letters = np.random.default_rng(0).integers(97, 123, (count, 6), np.uint8)
    return [" ".join(row.tobytes().decode() for row in part) for part in np.array_split(letters, 100)]


PUBLIC = {node.name: module for module, node in parsed()}
GIVEN: dict[str, Callable[[], Any]] = {
    "model": lambda: tiny_model(vocab_size=320),
    "config": lambda: tiny_config(vocab_size=320),
    "score_model": lambda: tiny_score_model(vocab_size=320),
    "tokenizer": tiny_tokenizer,
    "task_model": tiny_task_model,
    "task_tokenizer": tiny_task_tokenizer,
    "chat": tiny_chat,
    "ids": lambda: random_ids(2, 10),
    "batches_of_ids": lambda: [tiny_tokenizer().encode("The cat "), tiny_tokenizer().encode("sat.")],
    "answers": _answers,
    "texts": lambda: _words(30_000),
    "make_batch": lambda: float,
    "train_on": lambda: print,
    "trine": lambda: trine,
    "torch": lambda: torch,
    "np": lambda: np,
    "Path": lambda: Path,
}
"""What examples name without making or importing it."""


def namespace(example: UsageExample, given: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """What the example may name: the things `given`, then what its module has, then any public name of Trine."""
    own = vars(import_module(example.module))
    names = {name: given[name]() for name in example.names & given.keys()}
    for name in example.names - names.keys():
        if name in own:
            names[name] = own[name]
        elif name in PUBLIC:
            names[name] = getattr(import_module(PUBLIC[name]), name)
    return names
