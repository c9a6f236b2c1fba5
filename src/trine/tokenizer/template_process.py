"""The process that renders chat templates, under limits; see `template.py`. It answers one JSON object a line.

The environment is that of `transformers` (trim_blocks, lstrip_blocks, loop controls, `tojson` without
HTML escapes, `raise_exception`, `strftime_now`, and `{% generation %}`, which has no effect here).
"""

import json
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trine.runtime.child_process import limit_resource


def main() -> None:
    """Answer requests until the input ends."""
    limit_resource("RLIMIT_AS", int(sys.argv[1]))
    limit_resource("RLIMIT_CORE", 0)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


def answer(request: dict[str, Any]) -> dict[str, str]:
    """`{"text": ...}`, or `{"error": ...}`: what the template did, as a sentence without its subject.

    Used up, the timer ends the process, wherever it is: no exception would reach into a long operation in C.
    """
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        return _rendered(request)
    except TemplateSyntaxError as error:
        return {"error": f"is not valid Jinja: {_words(error)}"}
    except TemplateError as error:
        return {"error": f"refuses this conversation: {_words(error)}"}
    except MemoryError:
        return {"error": "was stopped: it needs too much memory for one conversation"}
    except RecursionError:
        return {"error": "fails on this conversation: it calls itself without end, or is nested too deeply"}
    except Exception as error:
        return {"error": f"fails on this conversation: {type(error).__name__}: {_words(error)}"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _words(error: Exception) -> str:
    """The message of an error, which may be as long as the template likes."""
    return str(error)[:500]


def _rendered(request: dict[str, Any]) -> dict[str, str]:
    written, size = [], 0
    for piece in _compiled(request["source"]).generate(**request["given"]):
        written.append(piece)
        size += len(piece)
        if size > request["characters"]:
            return {"error": f"was stopped: it writes more than {request['characters']:,} characters"}
    return {"text": "".join(written)}


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks an answer; its contents are rendered as they are."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration is a plain set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(source)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


if __name__ == "__main__":
    main()
