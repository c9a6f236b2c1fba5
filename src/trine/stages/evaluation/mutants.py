"""Wrong versions of a right program, to see what tests see: one operator changed, or a body that does nothing.

The mutants of mutation testing (DeMillo, Lipton & Sayward 1978). Some are right all the same (`<` for `<=` where both
never meet), so that not all of them can fail.
"""

import ast
from collections.abc import Iterator
from copy import deepcopy

_FLIPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip


def with_operator_flipped(code: str) -> Iterator[str]:
    """The code with one operator changed for its opposite, or another one, once for each operator in it::

    list(with_operator_flipped("x = a + b"))  # ["x = a - b"]
    """
    tree = ast.parse(code)
    for number, node in enumerate(ast.walk(tree)):
        for name, value in ast.iter_fields(node):
            several = value if isinstance(value, list) else [value]
            for index, each in enumerate(several):
                if type(each) in _FLIPPED and name in ("op", "ops"):
                    changed = deepcopy(tree)
                    _put(list(ast.walk(changed))[number], name, index, _FLIPPED[type(each)]())
                    yield ast.unparse(changed)


def _put(node: ast.AST, name: str, index: int, operator: ast.AST) -> None:
    before = getattr(node, name)
    if isinstance(before, list):
        before[index] = operator
    else:
        setattr(node, name, operator)


def with_body_passed(code: str) -> str:
    """The code with nothing but `pass` in its functions.

    with_body_passed("def f(x): return x")  # "def f(x):\\n    pass"
    """
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)
