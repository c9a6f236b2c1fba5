"""`algorithms/` serves two worlds: what only text uses says so in its module's name, and all else is used by both."""

import ast
from pathlib import Path

import trine

ROOT = Path(trine.__file__).parent
SHARED = sorted(path for path in (ROOT / "algorithms").glob("*.py") if not path.stem.startswith(("text_", "__")))
BOTH = ROOT / "stages" / "policy_gradient.py"
CONTROL = [BOTH, *sorted((ROOT / "agents").glob("*.py")), *sorted((ROOT / "stages" / "control").glob("*.py"))]
TEXT = [path for path in sorted((ROOT / "stages").rglob("*.py")) if path not in CONTROL or path == BOTH]


def imported(files: list[Path]) -> set[tuple[str, str]]:
    """(module of algorithms, name) of everything that files import from there."""
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    return {
        (node.module.rpartition(".")[2], alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trine.algorithms.")
        for alias in node.names
    }  # fmt: skip


def test_both_worlds_use_every_shared_module_and_control_no_other() -> None:
    shared = {path.stem for path in SHARED}
    assert shared == {"advantages", "masked", "ppo"}
    assert {module for module, _ in imported(CONTROL)} == shared
    assert shared < {module for module, _ in imported(TEXT)}


def test_every_function_of_a_shared_module_is_reached_from_both_worlds() -> None:
    """Directly, or from one that is."""
    for world in (CONTROL, TEXT):
        reached = {name for _, name in imported(world)} | {name for _, name in imported(SHARED)}
        for path in SHARED:
            tree = ast.parse(path.read_text("utf-8"))
            called = {
                node.func.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert defined - reached - called == set(), path.name
