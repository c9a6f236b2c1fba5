# ruff: noqa: E501, PTH (programs under test stand on one line each, and do what paths do without Path)
"""`trine.run_tests`: what tests may say, what is reported, and when nothing is run."""

import math
import os
import signal
import threading
from typing import Any

import pytest

import trine
from tests.sandbox.conftest import run
from trine.sandbox import running
from trine.sandbox.inside import filters
from trine.sandbox.inside.values import decode, encode
from trine.sandbox.zygote_process import zygote

pytestmark = pytest.mark.usefixtures("offered")


def test_a_right_program_passes_and_a_wrong_one_says_why_not() -> None:
    code = "def double(x):\n    return 2 * x\n"
    assert trine.run_tests(code, "assert double(4) == 8")
    verdict = trine.run_tests(code, "x = 4\nassert double(x) == 9, 'nine'")
    assert (verdict.passed, verdict.outcome, verdict.tests) == (False, "failed", (False,))
    assert verdict.message == "AssertionError: nine (line 2 of tests): assert double(x) == 9, 'nine'"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(x:\n", "the code does not load: SyntaxError: '(' was never closed (line 1)"),
        ("import no_such_module", "the code does not load: ModuleNotFoundError: No module named 'no_such_module' (line 1 of code)"),
        ("def f(x): return g(x)", "NameError: name 'g' is not defined (line 1 of tests)"),
        ("def g(x): return x", "NameError: name 'f' is not defined (line 1 of tests)"),
        ("\x00", "the code does not load: "),
        ("import sys; sys.exit(3)", "the code does not load: SystemExit: 3 (line 1 of code)"),
        ("def f(x): raise ValueError('no ' + str(x))", "ValueError: no 2 (line 1 of tests)"),
        ("def f(x): return f(x)", "RecursionError: maximum recursion depth exceeded"),
        ("import os\ndef f(x): os.abort()", "its process ended with SIG"),
        ("def f(x): return 'y' * 20_000_000", "a value of more than 16 MiB"),
        ("def f(x): return object()", "AssertionError (line 1 of tests): assert f(2) == 4"),
    ],
)  # fmt: skip
def test_what_went_wrong_is_said_in_one_line(code: str, said: str) -> None:
    message = run(code).message
    assert said in message, message
    assert "\n" not in message


def test_several_tests_are_counted_each_by_itself() -> None:
    code = "def f(x):\n if x == 3: import os; os._exit(0)\n return x * x"
    verdict = trine.run_tests(
        code, ["assert f(2) == 4", "assert f(4) == 1", "y = f(1)", "assert y == 1", "f(3)", "assert f(2) == 4"]
    )
    assert verdict.tests == (True, False, True, True, False, False)
    assert "assert f(4) == 1" in verdict.message


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**53 + 1, -(10**5000), 0.1, -0.0, math.inf, 1e300, 2 + 3j, "", "é\ud800\0\n了", b"\x00\xff", bytearray(b"a"),
    [], [1, [2, (3,)]], (), (1,), {1, "a"}, frozenset({(1, 2)}), {}, {"a": {1: [2]}, (1, 2): None}, range(3, 9, 2),
)  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_plain_values_cross_and_keep_type_and_value(value: Any) -> None:
    sent = decode(encode(value, lambda other: pytest.fail("no handle")), lambda other: pytest.fail("no handle"))
    assert (
        (type(sent), repr(sent)[:6000]) == (type(value), repr(value)[:6000])
        if not isinstance(value, int)
        else sent == value
    )


def test_values_of_the_standard_library_cross() -> None:
    code = """
from collections import *; from decimal import Decimal; from fractions import Fraction; import datetime, enum
Point = namedtuple("Point", "x y")
class Color(enum.IntEnum): RED = 3
def f(): return [Counter("aab"), OrderedDict(a=1), defaultdict(int, b=2), deque([1, 2]), Decimal("0.10"), Fraction(1, 3),
                 datetime.date(2026, 2, 3), datetime.datetime(2026, 2, 3, 4), datetime.timedelta(1, 2), Point(1, 2), Color.RED]
"""
    tests = """
import datetime; from collections import *; from decimal import Decimal; from fractions import Fraction
assert f() == [Counter("aab"), {"a": 1}, {"b": 2}, deque([1, 2]), Decimal("0.1"), Fraction(1, 3), datetime.date(2026, 2, 3),
               datetime.datetime(2026, 2, 3, 4), datetime.timedelta(1, 2), (1, 2), 3]
assert f()[0].most_common(1) == [("a", 2)]
"""
    verdict = run(code, tests)
    assert verdict.passed, verdict.message


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("def f(g, x): return g(g(x))", "assert f(lambda x: x + 1, 2) == 4\nassert f(abs, -3) == 3"),
        ("def f(g): return [x * 2 for x in g]", "assert f(iter([1, 2])) == [2, 4]\nassert f(x for x in (1,)) == [2]"),
        ("def f():\n n = 0\n while True: yield n; n += 1", "from itertools import islice\nassert list(islice(f(), 3)) == [0, 1, 2]"),
        ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5"),
        ("def f(x): raise KeyError(x)", "try: f(3)\nexcept KeyError as error: assert error.args == (3,)\nelse: assert False"),
        ("class Wrong(ValueError): pass\ndef f(): raise Wrong('a')", "try: f()\nexcept Wrong as error: assert isinstance(error, ValueError) and str(error) == 'a'"),
        ("import re\ndef f(s): return re.match('a', s)", "assert f('ab')\nassert not f('b')\nassert f('a') is not None and f('b') is None"),
        ("def f(xs): xs.append(1); return xs", "xs = []\nassert f(xs) == [1] and xs == []"),
        ("def sum(a, b): return a + b", "from solution import sum\nassert sum(2, 3) == 5"),
        ("import math, heapq as h\nN = [3]", "assert math.pi > 3 and h.nsmallest(1, [2, 1]) == [1] and N == [3]"),
        ("import solution", "import solution\nassert solution.__name__ == 'solution'"),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n x: int\ndef f(p): return p.x", "assert f(P(3)) == 3"),
        ("def f(**named): return named", "assert f(a=1, b=[2]) == {'a': 1, 'b': [2]}"),
        ("print('loaded')\nasync def f(): return 1\ndef g():\n import asyncio; return asyncio.run(f())", "assert g() == 1"),
        ("import threading\ndef f():\n found = []\n t = threading.Thread(target=lambda: found.append(1)); t.start(); t.join(); return found", "assert f() == [1]"),
    ],
)  # fmt: skip
def test_tests_may_call_pass_catch_and_iterate(code: str, tests: str) -> None:
    verdict = run(code, tests)
    assert verdict.passed, verdict.message


CLASSES = """
class Vector:
    def __init__(self, x, y): self.x, self.y, self._hidden = x, y, 1
    def __add__(self, other): return Vector(self.x + other.x, self.y + other.y)
    def __mul__(self, n): return Vector(self.x * n, self.y * n)
    def __rmul__(self, n): return self * n
    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
    def __lt__(self, other): return self.x < other.x
    def __len__(self): return 2
    def __getitem__(self, i): return (self.x, self.y)[i]
    def __contains__(self, v): return v in (self.x, self.y)
    def __repr__(self): return f"Vector({self.x}, {self.y})"
    def __enter__(self): return self
    def __exit__(self, *error): self.x = 0
    def scale(self, n): self.x *= n
    @property
    def size(self): return abs(self.x)
    @classmethod
    def zero(cls): return cls(0, 0)
def rotate(xs): xs[:] = xs[::-1]
"""
OF_CLASSES = """
v = Vector(1, 2)
assert (v + Vector(3, 4)).x == 4 and (v * 3).y == 6 and (3 * v).y == 6
assert v == Vector(1, 2) and v != Vector(0, 2) and v < Vector(2, 0)
assert len(v) == 2 and v[1] == 2 and 2 in v and 5 not in v and str(v) == "Vector(1, 2)" and list(v) == [1, 2]
v.scale(5); v.y = 7
assert (v.x, v.y, v._hidden, v.size) == (5, 7, 1, 5) and hasattr(v, "scale") and not hasattr(v, "none")
assert isinstance(v, Vector) and not isinstance(3, Vector) and Vector.zero().x == 0
with v as w: assert w == v
assert v.x == 0
xs = [1, 2, 3]
rotate(xs)
assert xs == [3, 2, 1]
"""


def test_objects_of_the_code_are_used_only_where_that_is_asked_for() -> None:
    verdict = run(CLASSES, OF_CLASSES, objects=True)
    assert verdict.passed, verdict.message
    refused = run(CLASSES, "assert Vector(1, 2).x == 1")
    assert not refused.passed
    assert "set objects in the limits" in refused.message


def test_results_are_the_same_each_time() -> None:
    """Sets have one order and random numbers one state."""
    code = "import random\ndef f(): return [list({'a', 'b', 'c', 'd', 'e'}), random.random()]"
    seen = {run(code, "assert False, f()").message for _ in range(5)}
    assert len(seen) == 1


def test_a_batch_keeps_its_order() -> None:
    pairs = [(f"def f(x): return x + {n}", "assert f(2) == 4") for n in range(5)]
    assert [v.passed for v in trine.run_tests_batch(pairs, workers=3)] == [False, False, True, False, False]
    assert trine.run_tests_batch([]) == []


def test_runs_of_several_threads_do_not_disturb_each_other() -> None:
    found: dict[int, bool] = {}

    def one(n: int) -> None:
        found[n] = trine.run_tests(f"def f(): return {n}", f"assert f() == {n}").passed

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(6), True)


def test_a_zygote_that_was_killed_is_replaced() -> None:
    os.kill(zygote(running.STRONGEST).child.pid, signal.SIGKILL)
    assert run("def f(x): return 4").passed


def test_where_there_is_no_isolation_nothing_is_run_unless_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STRONGEST", "none")
    with pytest.raises(trine.TrineError, match=r"limits\.isolation is landlock, and this system offers none"):
        run("def f(x): return 4")
    verdict = run("def f(x): return 4", isolation="none")
    assert (verdict.passed, verdict.isolation) == (True, "none")


def test_landlock_does_not_do_where_namespaces_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "STRONGEST", "landlock")
    if zygote("landlock").isolation == "landlock":
        with pytest.raises(trine.TrineError, match="this system offers landlock"):
            run("def f(x): return 4", isolation="namespaces")
        with pytest.raises(trine.TrineError, match=r"limits\.processes is 2, which needs isolation namespaces"):
            run("def f(x): return 4", processes=2)


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"second": 1}, "limits: unknown key 'second'"), ({"seconds": 0}, "limits: seconds"), ({"memory": "lots"}, "limits: memory"),
     ({"isolation": "docker"}, "limits: isolation")],
)  # fmt: skip
def test_wrong_limits_are_named(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(trine.TrineError, match=said):
        trine.run_tests("", "pass", limits)


@pytest.mark.parametrize("given", [("", []), (3, "pass"), ("", [3]), (None, None)])
def test_what_is_no_code_and_no_test_is_refused(given: Any) -> None:
    with pytest.raises(trine.TrineError, match="code is a string, and tests a string or a list"):
        trine.run_tests(*given)


def test_the_numbers_of_both_architectures_refuse_the_same_calls() -> None:
    first, second = filters._NUMBERS["x86_64"], filters._NUMBERS["aarch64"]
    assert set(first) - set(second) == {"fork", "vfork"}  # older ones, which aarch64 never had
    assert set(second) <= set(first)
    for numbers in (first, second, filters._ATTRIBUTES["x86_64"], filters._ATTRIBUTES["aarch64"]):
        together = [*numbers.values(), *filters._EVERYWHERE.values()]
        assert len(set(together)) == len(together)
