"""`algorithms/` serves two worlds: what only text uses says so in its module's name, and all else is used by both."""

import ast
from collections.abc import Iterable
from pathlib import Path

import trine

ROOT = Path(trine.__file__).parent
BOTH = ROOT / "stages" / "policy_gradient.py"
CONTROL = [*(ROOT / "agents").rglob("*.py"), *(ROOT / "stages" / "control").rglob("*.py"), BOTH]
TEXT = [path for path in (ROOT / "stages").rglob("*.py") if path not in CONTROL or path == BOTH]
EVALUATIONS = ("statistics", "resampling")
"""Modules for answers to tasks, of whichever world; so far only text is asked any."""
Function = tuple[str, str]
"""Module of `algorithms` and name."""


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> dict[str, Function]:
    """What a module calls the functions it takes from `algorithms`."""
    return {
        alias.asname or alias.name: (node.module.rpartition(".")[2], alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trine.algorithms.")
        for alias in node.names
    }


def functions() -> dict[Function, set[Function]]:
    """Every function of `algorithms`, with those it names itself."""
    found: dict[Function, set[Function]] = {}
    for path in (ROOT / "algorithms").glob("*.py"):
        tree = tree_of(path)
        own = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        known = imported(tree) | {node.name: (path.stem, node.name) for node in own}
        for node in own:
            names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            found[path.stem, node.name] = {known[name] for name in names & known.keys()}
    return found


def reached(files: Iterable[Path]) -> set[Function]:
    """What a world uses, directly or from a function that it uses."""
    calls, seen = functions(), set[Function]()
    coming = [function for path in files for function in imported(tree_of(path)).values()]
    while coming:
        function = coming.pop()
        if function not in seen:
            seen.add(function)
            coming += calls.get(function, ())
    return seen


def test_every_function_outside_the_text_modules_is_used_by_both_worlds() -> None:
    shared = {
        function for function in functions() if not function[0].startswith("text_") and function[0] not in EVALUATIONS
    }
    assert shared
    for world in (CONTROL, TEXT):
        assert shared - reached(world) == set()


def test_control_uses_no_text_module() -> None:
    assert {module for module, _ in reached(CONTROL) if module.startswith("text_")} == set()
