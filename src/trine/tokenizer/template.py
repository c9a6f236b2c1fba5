"""Chat templates of imported models: untrusted Jinja source, run in Jinja's sandbox.

The environment is that of `transformers` (trim_blocks, lstrip_blocks, loop controls, `tojson` without
HTML escapes, `raise_exception`, `strftime_now`, and `{% generation %}`, which has no effect here).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trine.records import Message
from trine.runtime.errors import TrineError


class ChatTemplate:
    """Renders conversations to text. `variables` are passed to the template: `bos_token`, `enable_thinking` ..."""

    def __init__(self, source: str, variables: Mapping[str, Any], place: str) -> None:
        self._variables, self._place = variables, place
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise TrineError(f"the chat template of {place} is not valid Jinja: {error}") from None

    def render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """The conversation as text; `generation_prompt` begins an answer. Raises `TrineError` if the template fails."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=turns, tools=None, documents=None, add_generation_prompt=generation_prompt, **self._variables
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise TrineError(f"the chat template of {self._place} refuses this conversation: {error}") from None


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks an answer; its contents are rendered as they are."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own declaration is a plain set)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
