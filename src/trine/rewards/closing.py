"""How an answer that was cut at max_new_tokens is shown to a reward model, which was trained on whole ones.

    line     back to its last whole line, then the end token: right for code, where half a line is an error
    end      the end token in place of its last token: right for prose, where a line is a paragraph
    as_is    nothing: the score is read at the last token, of a text that does not end

A response is never longer closed than it was cut, so that it fits the context it was sampled for.
"""

from collections.abc import Collection, Sequence

from trine.records import Closing, Side

LINE = 80
"""Characters of a line of code; lines longer than that are paragraphs."""


def closing_of(texts: Sequence[str]) -> Closing:
    """`line` where texts of several lines are written in lines of at most `LINE` characters, as code is; else `end`.

    Measured is the line that a character picked at random stands in, of which a cut would lose half. A text of one line
    says nothing: either way it loses its last token alone.

    >>> closing_of(["total = a + b\\nreturn total"])
    'line'
    >>> closing_of(["Yes.", "A short line.\\n" + "And then a paragraph of many words. " * 9])
    'end'
    """
    lengths = [len(line) for text in texts if "\n" in text.strip() for line in text.split("\n")]
    total = sum(lengths)
    return "line" if total and sum(length * length for length in lengths) <= LINE * total else "end"


def closed_ids(ids: Sequence[int], end_id: int, newline_ids: Collection[int], closing: Closing) -> list[int]:
    """A cut response's ids as the reward model is shown them."""
    kept = list(ids)
    if closing == "as_is" and kept:
        return kept
    lines = [place for place, token_id in enumerate(kept) if token_id in newline_ids and place > 0]
    return [*kept[: lines[-1] if lines and closing == "line" else -1], end_id]


def shortened(
    prompt: Sequence[int], response: Sequence[int], max_tokens: int, side: Side
) -> tuple[list[int], list[int]]:
    """Prompt and response of at most `max_tokens` together, as a model with `max_tokens` reads them.

    The prompt keeps its end, of at most three quarters of the room whatever the response is, so that all responses to
    it have the same one. The response loses its right or left side, and keeps its last token, at which it is scored.

    >>> shortened([1, 2], [3, 4, 5, 9], max_tokens=5, side="right")
    ([1, 2], [3, 4, 9])
    """
    asked = list(prompt)[max(len(prompt) - 3 * max_tokens // 4, 0) :]
    room = max(max_tokens - len(asked), 1)
    if len(response) <= room:
        return asked, list(response)
    return asked, [*response[: room - 1], response[-1]] if side == "right" else list(response[-room:])
