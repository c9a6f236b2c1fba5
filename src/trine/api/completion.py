"""What a model wrote: a text that also knows its tokens."""

from collections.abc import Sequence
from typing import Self

from trine.records import StopReason


class Completion(str):
    """The text of an answer, a `str`, with what else is known of it::

        import trine

        answer = trine.load("runs/base").generate("The capital of France is", max_new_tokens=4)
        print(answer.strip(), answer.stop_reason, sum(answer.log_probs))

    `ids`: the sampled tokens, the one that ended the answer included. `log_probs`: of each, in the distribution sampled
    from. `stop_reason`: eos (the model ended it), stop (a stop string did) or length (the token budget ran out).
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    stop_reason: StopReason

    def __new__(cls, text: str, ids: Sequence[int], log_probs: Sequence[float], stop_reason: StopReason) -> Self:
        self = super().__new__(cls, text)
        self.ids, self.log_probs, self.stop_reason = tuple(ids), tuple(log_probs), stop_reason
        return self

    def __getnewargs__(self) -> tuple[str, tuple[int, ...], tuple[float, ...], StopReason]:  # type: ignore[override]
        return str(self), self.ids, self.log_probs, self.stop_reason

    @property
    def text(self) -> str:
        """The same as a plain `str`."""
        return str(self)
