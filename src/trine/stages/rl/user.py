"""A user to talk with: `package.module:function`, which answers the policy in a conversation of several turns.

    def user(messages, answer):        # the conversation so far, and the record's field `answer`
        if answer in messages[-1]["content"]:
            return None                # the conversation is over
        return "That is wrong. Try again."

It is called with the conversation as a list of {role, content}, the policy's turn last, and by name with whatever other
fields of the prompt's record it asks for. It returns the user's next message, or None.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trine.records import Message
from trine.runtime.errors import TrineError
from trine.runtime.foreign import FOREIGN_ERRORS, told
from trine.runtime.importing import import_named
from trine.runtime.json_values import is_unicode


@dataclass(frozen=True)
class User:
    """The function called `name`, checked at every call::

    user = User(lambda messages: None, "package.module:function")
    reply = user.reply([Message("user", "Hello"), Message("assistant", "Hello!")], columns={})
    """

    function: Callable[..., Any]
    name: str

    def reply(self, messages: Sequence[Message], columns: Mapping[str, Any]) -> str | None:
        """The user's next message; None ends the conversation. Raises `TrineError` naming what was returned."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            returned = self.function(turns, **self._asked(columns))
        except FOREIGN_ERRORS as error:
            raise TrineError(
                f"user {self.name} raised {told(error)}, asked after {messages[-1].content[:60]!r}"
            ) from error
        if returned is None:
            return None
        if not isinstance(returned, str) or not returned or not is_unicode(returned):
            raise TrineError(
                f"user {self.name} returned {returned!r:.60}; it has to return the user's next message, a string that "
                "is not empty, or None, which ends the conversation"
            )
        return returned

    def _asked(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the record that the function asks for by name, all of them where it takes any."""
        try:
            parameters = list(inspect.signature(self.function).parameters.values())[1:]
        except (TypeError, ValueError):  # a built-in function may have none
            return {}
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            return dict(columns)
        missing = [
            each.name for each in parameters if each.default is inspect.Parameter.empty and each.name not in columns
        ]
        if missing:
            raise TrineError(
                f"user {self.name} asks for the field {missing[0]!r}, which a prompt's record does not have (it has "
                f"{', '.join(columns) or 'no others'})"
            )
        return {each.name: columns[each.name] for each in parameters if each.name in columns}


def import_user(name: str) -> User:
    """The user `package.module:function`."""
    function = import_named(name, "user")
    if not callable(function):
        raise TrineError(f"user {name!r} is {function!r:.60}, which cannot be called; write package.module:function")
    return User(function, name)
