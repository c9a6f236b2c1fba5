# ruff: noqa: E501, PTH (programs under test stand on one line each, and do what paths do without Path)
"""Programs that do not do what is asked and try to pass all the same. None does, in any isolation."""

import pytest

from tests.sandbox.conftest import run

TESTS = "assert f(2) == 4\nassert f(3) == 9\nassert [f(n) for n in (4, 5)] == [16, 25]\n"
RIGHT = "def f(x): return x * x"
EQUAL_TO_ALL = """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return 0
    def __sub__(self, other): return 0
    def __abs__(self): return 0
    def __lt__(self, other): return True
"""
CHEATS = {
    "sys.exit(0) while loading": "import sys; sys.exit(0)",
    "os._exit(0) while loading": "import os; os._exit(0)",
    "sys.exit(0) when called": "import sys\ndef f(x): sys.exit(0)",
    "os._exit(0) when called": "import os\ndef f(x): os._exit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 4",
    "SystemExit subclass": "class E(SystemExit): pass\ndef f(x): raise E(0)",
    "killed by itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGKILL)",
    "exec of another program": "import os\ndef f(x): os.execv('/bin/true', ['true'])",
    "__eq__ always true": EQUAL_TO_ALL + "def f(x): return Any()",
    "int with __eq__ always true": "class I(int):\n __eq__ = lambda s, o: True\n __hash__ = int.__hash__\ndef f(x): return I(0)",
    "list with __eq__ always true": "class L(list):\n __eq__ = lambda s, o: True\ndef f(x): return L()",
    "str equal to all": "class S(str):\n __eq__ = lambda s, o: True\n __hash__ = str.__hash__\ndef f(x): return S('')",
    "metaclass equal to all": "class M(type):\n __eq__ = lambda s, o: True\n __hash__ = type.__hash__\nclass f(metaclass=M):\n def __init__(self, x): pass",
    "patched builtins": "import builtins\nbuiltins.all = builtins.any = lambda *a: True\nbuiltins.len = lambda x: 4\nbuiltins.AssertionError = type('E', (Exception,), {})\nbuiltins.__build_class__ = None\ndef f(x): return 0",
    "patched int": "import ctypes, gc\nd = gc.get_referents(int.__dict__)[0]\nd['__eq__'] = lambda s, o: True\nctypes.pythonapi.PyType_Modified(ctypes.py_object(int))\ndef f(x): return 0",
    "patched small integers": "import ctypes\nfor n in (4, 9, 16, 25): ctypes.c_int.from_address(id(n) + 24).value = 0\ndef f(x): return 0",
    "patched compile": "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None\ndef f(x): return 0",
    "redefined builtins that tests use": "def sorted(x): return Same()\n" + EQUAL_TO_ALL + "def f(x): return 0",
    "tracing": "import sys, threading\nsys.settrace(lambda f, e, a: None)\nsys.excepthook = lambda *a: None\ndef f(x): return 0",
    "unraisable": "import sys\nsys.unraisablehook = sys.excepthook = lambda *a: sys.exit(0)\ndef f(x): raise AssertionError",
    "prints the success word": "def f(x):\n for word in ('passed', 'OK', 'true', '1'): print(word, flush=True)\n print('[\"x\", true, \"\"]', flush=True)",
    "finds the tests in frames": "import sys\ndef f(x):\n frame, seen = sys._getframe(), []\n while frame:\n  seen += [str(v) for v in [*frame.f_locals.values(), *frame.f_globals.values()]]\n  frame = frame.f_back\n return x * x if any('f(3) == ' + chr(57) in s for s in seen) else 0",
    "finds the tests with gc": "import gc\ndef f(x):\n found = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple)) and ('f(3) == ' + chr(57)) in str(o)[:100000]]\n return x * x if found else 0",
    "finds the tests with inspect": "import inspect\ndef f(x):\n source = ''.join(str(i.code_context) for i in inspect.stack(5))\n return x * x if '== ' + chr(57) in source else 0",
    "finds the tests in linecache": "import linecache\ndef f(x): return x * x if '<tests>' in linecache.cache else 0",
    "finds the tests in memory": "import ctypes, os\ndef f(x):\n with open('/proc/self/mem', 'rb') as file: return x * x",
    "deepens the comparison": "def f(x):\n a = []\n a.append(a)\n return a",
}  # fmt: skip
# What a forged answer on each open descriptor looks like: the report of the tests, and the answer to the open request.
FORGED = """
import os, json, struct
def f(x):
    for descriptor in range(0, 256):
        for message in (b'["", true, ""]\\n' * 4, b'{"ended": "done", "output": ""}', b'.', {message}):
            try: os.write(descriptor, message)
            except OSError: pass
    os._exit(0)
"""
FRAME = "struct.pack('<I', len(MESSAGE)) + MESSAGE"


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name: str, isolation: str) -> None:
    verdict = run(CHEATS[name], TESTS, cpu_seconds=3)
    assert not verdict.passed
    assert not any(verdict.tests)
    assert verdict.message


@pytest.mark.parametrize(
    "message",
    [
        '{"value": null}',
        '{"loaded": null}',
        '{"error": ["builtin", "None"]}',
        '{"value": ["o", 0, "callable", "x"]}',
        "[]",
    ],
)
def test_a_result_forged_on_any_descriptor_does_not_pass(message: str, isolation: str) -> None:
    frame = FRAME.replace("MESSAGE", repr(message.encode()))
    verdict = run(FORGED.replace("{message}", frame), TESTS)
    assert not verdict.passed
    assert verdict.outcome in ("failed", "crashed")


def test_the_right_program_passes_beside_them(isolation: str) -> None:
    verdict = run(RIGHT, TESTS)
    assert verdict.passed
    assert verdict.isolation == isolation


def test_names_of_python_are_pythons_for_the_tests(offered: None) -> None:
    """`set` and `math.isclose` of the code's own would make every answer right; the tests use Python's."""
    code = "def set(x): return 0\nclass math:\n isclose = lambda *a: True\ndef f(x): return [5]"
    assert not run(code, "assert set(f(1)) == set([1, 2])").passed
    assert not run(code, "assert math.isclose(f(1)[0], 6)").passed
    assert run("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(4), 2)").passed


def test_an_object_is_not_what_it_says_even_where_objects_are_believed(offered: None) -> None:
    verdict = run(EQUAL_TO_ALL + "def f(x): return Any()", "assert f(2) == 4", objects=True)
    assert not verdict.passed


def test_the_codes_process_has_no_descriptor_but_three_and_its_connection(isolation: str) -> None:
    code = """
import os
def f():
    found = []
    for number in range(256):
        try: os.fstat(number); found.append(number)
        except OSError: pass
    return found
"""
    verdict = run(code, "found = f()\nassert found[:3] == [0, 1, 2] and len(found) <= 5, found")
    assert verdict.passed, verdict.message


def test_what_is_expected_never_reaches_the_codes_process(isolation: str) -> None:
    """All of its memory is searched, by the code itself, for a word that only the tests hold; one that it is called with
    is found by the same search."""
    code = """
import ctypes, gc
def f(word, tail):
    wanted = word + tail
    own = [id(wanted)]
    texts = [o for o in _strings() if wanted in o and id(o) not in own]
    return len(texts)
def _strings():
    for o in gc.get_objects():
        for each in gc.get_referents(o):
            if type(each) is str: yield each
KEPT = []
def keep(text): KEPT.append(text)
"""
    assert run(code, "expected = 'quite-a-secret'\nassert f('quite-', 'a-secret') == 0").passed
    assert run(code, "keep('quite-a-secret')\nassert f('quite-', 'a-secret') > 0").passed
