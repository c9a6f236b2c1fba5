"""Guessing the next tokens from what was said before, and checking all guesses in one step (prompt lookup; the checking
after Leviathan et al. 2023).

A step for one row spends its time reading weights, so six tokens cost hardly more than one. Draws are functions of
(seed, place): the token of each place is drawn as it would be without guessing, and a guess counts only where it is
that very token. So the answer is the same, bit for bit where no sum depends on the batch, and only its speed differs.
"""

from collections.abc import Sequence

MAX_DRAFT_TOKENS = 5
SIZES = (3, 2)  # lengths of the endings that are looked up, the longest first


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

    def guess(self, most: int) -> list[int]:
        """Up to `most` tokens that followed the row's ending the last time it was seen."""
        for size in SIZES:
            place = self._after.get(tuple(self._ids[-size:]))
            if place is not None and len(self._ids) >= size:
                return self._ids[place : place + most]
        return []
