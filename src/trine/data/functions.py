"""Code completion tasks mined from code: the prompt is a function's signature and docstring, the answer its body.

Bodies are dedented, so that an answer starts in the first column; `join_function` combines prompt and body again. The
parse checks of evaluation are here too, because they apply to the same text.
"""

import ast
import io
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trine.records import Document, Example, Message

INDENT = " " * 4


def mine_functions(documents: Iterable[Document]) -> Iterator[Example]:
    """Every function with a docstring, of every document that parses."""
    for document in documents:
        try:
            tree = ast.parse(document.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        lines = io.StringIO(document.text, newline=None).readlines()  # a form feed does not end a line in Python
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                example = _example(node, lines, document)
                if example is not None:
                    yield example


def _example(node: ast.FunctionDef, lines: list[str], document: Document) -> Example | None:
    docstring = ast.get_docstring(node)
    first = node.body[0]
    if not docstring or len(node.body) < 2 or first.end_lineno is None or node.end_lineno is None:
        return None
    if first.lineno == node.lineno or node.body[1].lineno <= first.end_lineno:
        return None  # a one-line function, or code on the docstring's last line
    signature = textwrap.dedent("".join(lines[node.lineno - 1 : first.lineno - 1])).rstrip()
    body = textwrap.dedent("".join(lines[first.end_lineno : node.end_lineno])).strip("\n").rstrip()
    summary = docstring.split("\n\n")[0].strip().replace("\\", "\\\\").replace('"""', "'''")
    if not body or body.startswith((" ", "\t")) or summary.endswith('"'):
        return None
    prompt = f'{signature}\n{INDENT}"""{summary}"""'
    if not parses(join_function(prompt, body)):
        return None
    name = f"{document.name}:{node.lineno}"
    return Example((Message("user", prompt),), body, name=name, group=document.group)


def join_function(prompt: str, body: str) -> str:
    """The whole function: the prompt, then the body indented again."""
    return f"{prompt}\n{textwrap.indent(body, INDENT)}\n"


def parses(code: str) -> bool:
    """Whether `code` is Python."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def cut_at_last_line(text: str) -> str:
    """`text` without its last, possibly incomplete, line; unchanged if it has one line only."""
    head, newline, _ = text.rpartition("\n")
    return head.rstrip() if newline and head.strip() else text


def cut_at_last_statement(body: str) -> str:
    """`body` up to its last complete statement: open brackets, strings and `if x:` without a block are cut off.

    Errors before the cut are not repaired, so the result may still not parse.
    """
    statements = _logical_lines(body)
    while statements and statements[-1][1] == ":":
        statements.pop()
    return "\n".join(body.split("\n")[: statements[-1][0]]) if statements else ""


def _logical_lines(body: str) -> list[tuple[int, str]]:
    """Every complete logical line of `body`: the number of its last line, and its last token."""
    found: list[tuple[int, str]] = []
    last = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(body + "\n").readline):
            if token.type == tokenize.ERRORTOKEN and token.start[0] > body.count("\n"):
                break  # a string left open on the last line
            if token.type == tokenize.NEWLINE:
                found.append((token.start[0], last))
            elif token.type not in (tokenize.COMMENT, tokenize.NL):
                last = token.string
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass
    return found


@dataclass(frozen=True)
class ParseCheck:
    """How many completions parse: of those that ended with the end token, and of those cut at the token limit."""

    ended: int
    ended_parsing: int
    cut: int
    cut_parsing: int

    @property
    def share(self) -> float:
        """Over all completions, a cut one being parsed up to its last complete statement."""
        return (self.ended_parsing + self.cut_parsing) / max(self.ended + self.cut, 1)


def check_parsing(completions: Iterable[tuple[str, str, bool]]) -> ParseCheck:
    """Count over (prompt, body, ended with the end token)."""
    ended = ended_parsing = cut = cut_parsing = 0
    for prompt, body, by_itself in completions:
        if by_itself:
            ended += 1
            ended_parsing += bool(body.strip()) and parses(join_function(prompt, body))
        else:
            cut += 1
            kept = cut_at_last_statement(cut_at_last_line(body))
            cut_parsing += bool(kept.strip()) and parses(join_function(prompt, kept))
    return ParseCheck(ended, ended_parsing, cut, cut_parsing)
