"""The plan of the modules: no circle of imports, wherever an import stands, and functions that fit on one screen."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import trine

SOURCE = Path(trine.__file__).parent
MAX_FUNCTION_LINES = 40

# To be emptied: functions that are still too long.
LONG_FUNCTIONS: set[str] = set()


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node` but those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            yield child
            yield from running_nodes(child)
        else:
            assert isinstance(child, ast.If)
            for otherwise in child.orelse:
                yield otherwise
                yield from running_nodes(otherwise)


def imports_of(path: Path) -> set[str]:
    """The modules of Trine that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in running_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` needs the module; any other name needs the module that it is from.
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & MODULES.keys()


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """(module.function, lines without the docstring) of every function and method."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node, clean=False) is not None:
                text = node.body[0]
                assert text.end_lineno is not None
                lines -= text.end_lineno - text.lineno + 1
            yield f"{module_name(path)}.{node.name}", lines


def test_modules_import_each_other_in_one_direction() -> None:
    graph = {name: imports_of(path) for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("a circle of imports: " + " -> ".join(error.args[1])) from None


def test_functions_fit_on_one_screen() -> None:
    long = {
        name: lines for path in MODULES.values() for name, lines in functions_of(path) if lines > MAX_FUNCTION_LINES
    }
    assert long.keys() <= LONG_FUNCTIONS, f"more than {MAX_FUNCTION_LINES} lines: {long}"
    assert long.keys() >= LONG_FUNCTIONS, f"no longer too long: {LONG_FUNCTIONS - long.keys()}"


def test_imports_inside_functions_count_and_those_of_type_checkers_do_not(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trine.records\n"
        "def f():\n    from trine.runtime import seeds\n    from trine.runtime.errors import TrineError\n"
    )
    assert imports_of(file) == {"trine.runtime.seeds", "trine.runtime.errors"}
