"""What `query_tokens` may be: queries are as many first tokens of texts as two numbers say (Ziegler et al. 2019)."""

from collections.abc import Sequence

from trine.records import Form


def check_query_tokens(query_tokens: Sequence[int], form: Form) -> None:
    """Raise ValueError unless they are none, or two numbers in order, of plain text.

    >>> check_query_tokens((2, 8), "text")
    """
    if query_tokens and form == "chat":
        raise ValueError("query_tokens are the first tokens of plain text: add form=text")
    if query_tokens and (len(query_tokens) != 2 or query_tokens[0] > query_tokens[1]):
        raise ValueError(f"query_tokens={list(query_tokens)} are to be two numbers, fewest and most")
