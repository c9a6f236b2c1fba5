"""Draft tokens by prompt lookup: what followed the row's last two or three tokens when they were seen before."""

from collections.abc import Sequence

MAX_DRAFT_TOKENS = 5
SIZES = (3, 2)  # lengths of the n-grams that are looked up, the longest first


class NgramLookup:
    """What followed each two or three tokens when they were seen last, in a row that grows."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    @property
    def length(self) -> int:
        """How many tokens it knows."""
        return len(self._ids)

    def extend(self, ids: Sequence[int]) -> None:
        """The row goes on with `ids`."""
        for token_id in ids:
            for size in SIZES:
                if len(self._ids) >= size:
                    self._after[tuple(self._ids[-size:])] = len(self._ids)
            self._ids.append(token_id)

    def draft(self, limit: int) -> list[int]:
        """Up to `limit` tokens that followed the row's last n-gram the last time it was seen."""
        for size in SIZES:
            start = self._after.get(tuple(self._ids[-size:]))
            if start is not None and len(self._ids) >= size:
                return self._ids[start : start + limit]
        return []
