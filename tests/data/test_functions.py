"""Tasks mined from a module written by hand: exactly what asks, exactly what answers, and the parsing checks."""

import pytest

from trine.data.functions import (
    check_parsing,
    cut_at_last_line,
    cut_at_last_statement,
    join_function,
    mine_functions,
    parses,
)
from trine.records import Document

MODULE = '''\
"""A module."""
import functools


def plain(first, second=2):
    """Add two numbers."""
    total = first + second
    return total


@functools.cache
@decorated(with_arguments=1)
def decorated(x):
    """Be decorated."""
    return x


def outer(value):
    """Hold a function.

    More about it that is not asked.
    """
    # a comment after the docstring

    def inner(x):
        """Be inside."""
        if x:
            return value
        return None

    return inner


class Holder:
    """Not a function."""

    def method(
        self,
        amount: int,  # how much
    ) -> int:
        """Multiply \\\\ by
        the amount."""

        return self.value * amount  # done

    def undocumented(self):
        return 1


def one_line(): """On the line of its signature."""; return 1


def also_one_line():
    """Followed by code.""" ; return 1


def only_documented():
    """Do nothing."""


async def waits():
    """Be asynchronous."""
    return 1


def quoted():
    \'\'\'Say "hello" to """all""" of them.\'\'\'
    return 'a"b'


def ends_with_a_quote():
    \'\'\'Say "hello"\'\'\'
    return 1


def tells_backslashes():
    r"""Match \\d+ and \\n."""
    return r"\\d+"


def holds_text():
    """Hold a text that starts at the margin."""
    text = """
at the margin
"""
    return text
'''


def mined(text: str) -> dict[str, tuple[str, str]]:
    """{function name: (prompt, body)}."""
    examples = list(mine_functions([Document(text, "module.py", "folder", "group")]))
    pairs = [(example.prompt[0].content, example.response) for example in examples]
    return {prompt.split("def ")[1].split("(")[0]: (prompt, body) for prompt, body in pairs}


FOUND = mined(MODULE)


def test_a_function_is_signature_and_docstring_against_body() -> None:
    assert FOUND["plain"] == (
        'def plain(first, second=2):\n    """Add two numbers."""',
        "total = first + second\nreturn total",
    )


def test_decorators_are_not_part_of_the_question() -> None:
    assert FOUND["decorated"] == ('def decorated(x):\n    """Be decorated."""', "return x")


def test_the_first_paragraph_asks_and_comments_and_nested_functions_answer() -> None:
    assert FOUND["outer"] == (
        'def outer(value):\n    """Hold a function."""',
        "# a comment after the docstring\n\n"
        'def inner(x):\n    """Be inside."""\n    if x:\n        return value\n    return None\n\nreturn inner',
    )


def test_nested_functions_are_tasks_of_their_own_at_the_margin() -> None:
    assert FOUND["inner"] == (
        'def inner(x):\n    """Be inside."""',
        "if x:\n    return value\nreturn None",
    )


def test_methods_keep_their_signature_over_several_lines() -> None:
    prompt, body = FOUND["method"]
    assert prompt == (
        'def method(\n    self,\n    amount: int,  # how much\n) -> int:\n    """Multiply \\\\ by\nthe amount."""'
    )
    assert body == "return self.value * amount  # done"


@pytest.mark.parametrize("name", ["one_line", "also_one_line", "only_documented", "undocumented", "Holder", "waits"])
def test_what_has_no_body_of_its_own_is_no_task(name: str) -> None:
    assert name not in FOUND


def test_quotes_in_docstrings_do_not_end_the_question_early() -> None:
    prompt, body = FOUND["quoted"]
    assert prompt == 'def quoted():\n    """Say "hello" to \'\'\'all\'\'\' of them."""'
    assert body == "return 'a\"b'"


def test_a_docstring_that_ends_with_a_quote_is_left_out() -> None:
    assert "ends_with_a_quote" not in FOUND


def test_backslashes_mean_what_they_meant() -> None:
    prompt, _ = FOUND["tells_backslashes"]
    assert prompt == 'def tells_backslashes():\n    """Match \\\\d+ and \\\\n."""'


def test_a_body_with_text_at_the_margin_is_left_out() -> None:
    assert "holds_text" not in FOUND


def test_every_mined_pair_joins_to_python() -> None:
    assert len(FOUND) == 7
    assert [name for name, pair in FOUND.items() if not parses(join_function(*pair))] == []


def test_a_form_feed_between_functions_shifts_no_line() -> None:
    functions = [f'def {name}():\n    """Be {name}."""\n    return {name[0]}\n' for name in ("first", "second")]
    assert mined("\n\x0c\n".join(["x = 1", *functions])) == {
        "first": ('def first():\n    """Be first."""', "return f"),
        "second": ('def second():\n    """Be second."""', "return s"),
    }


def test_line_ends_of_windows_are_read_as_python_reads_them() -> None:
    text = 'def first():\n    """Be first."""\n    x = 1\n    return x\n'.replace("\n", "\r\n")
    assert mined(text) == {"first": ('def first():\n    """Be first."""', "x = 1\nreturn x")}


def test_names_say_file_and_line_and_groups_are_the_documents() -> None:
    example = next(iter(mine_functions([Document(MODULE, "module.py", "folder", "group")])))
    assert (example.name, example.group) == ("module.py:5", "group")


@pytest.mark.parametrize("text", ["def f(:\n", "x = '\x00'", "def f():\n\t return 1\n        return"])
def test_a_document_that_is_not_python_gives_nothing(text: str) -> None:
    assert mined(text) == {}


@pytest.mark.parametrize(
    "body, kept",
    [
        ("x = 1\nreturn x", "x = 1\nreturn x"),
        ("x = 1\nreturn (x,\n    y", "x = 1"),
        ("x = 1\ny = 'open", "x = 1"),
        ("x = 'open\ny = 1", "x = 'open\ny = 1"),
        ('x = 1\ny = """open\nmore', "x = 1"),
        ("x = 1\nif x:", "x = 1"),
        ("x = 1\nfor y in x:\n    if y:", "x = 1"),
        ("x = 1\nif x:  # why: because", "x = 1"),
        ("x = 1\nif x:\n    # only a comment", "x = 1"),
        ("x = 1\nif (x and\n        y):", "x = 1"),
        ("x = 1\nif x:\n    y = 2\nelse:", "x = 1\nif x:\n    y = 2"),
        ('x = 1\nreturn "a:#"', 'x = 1\nreturn "a:#"'),
        ("x = {\n    1: 2,\n}", "x = {\n    1: 2,\n}"),
        ("if x:", ""),
        ("(", ""),
        ("", ""),
    ],
)
def test_the_last_complete_statement_is_where_a_body_is_cut(body: str, kept: str) -> None:
    assert cut_at_last_statement(body) == kept


def test_a_mistake_before_the_cut_is_not_repaired() -> None:
    assert not parses(cut_at_last_statement("x = = 1\ny = 2\nz = ("))


def test_an_unfinished_last_line_is_cut_off_unless_it_is_the_only_one() -> None:
    assert cut_at_last_line("x = 1\nreturn x + lon") == "x = 1"
    assert cut_at_last_line("return x + lon") == "return x + lon"
    assert cut_at_last_line("\n  x") == "\n  x"


def test_parsing_is_counted_apart_for_ended_and_cut_answers() -> None:
    prompt = 'def f(x):\n    """Do."""'
    check = check_parsing(
        [
            (prompt, "return x", True),
            (prompt, "return x +", True),  # ended by itself, so nothing is cut off
            (prompt, "  ", True),  # nothing is no answer
            (prompt, "y = 1\nreturn x + ", False),
            (prompt, "y = = 1\nz = 2\nreturn", False),
            (prompt, "x = (1,\n  2,\n  3", False),  # no statement was finished
        ]
    )
    assert (check.ended, check.ended_parsing, check.cut, check.cut_parsing) == (3, 1, 3, 1)
    assert check.share == pytest.approx(2 / 6)


def test_no_answers_have_a_share_of_zero() -> None:
    assert check_parsing([]).share == 0.0
