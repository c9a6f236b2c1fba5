"""The small frozen types that cross rooms. They hold data, know nothing, and import nothing of Trine's.

Token ids are plain Python integers here; tensors begin inside the rooms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
StopReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Document:
    """One text of a corpus. `group` is what the train / held-out split hashes (never the text itself).

    `license`: what the source's record says, as an SPDX expression; empty where it says nothing.
    """

    text: str
    name: str
    source: str
    group: str
    license: str = ""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """A prompt and the answer to learn from; `name` says where it came from, `group` splits train from held-out."""

    prompt: tuple[Message, ...]
    response: str
    name: str = ""
    group: str = ""


@dataclass(frozen=True)
class PreferencePair:
    """Two answers to one prompt, the first preferred. `*_ended`: the answer ended by itself, not by the budget."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_ended: bool = True
    rejected_ended: bool = True
    name: str = ""
    group: str = ""


@dataclass(frozen=True)
class TokenSpan:
    """Token ids of a rendered text, and for each whether the model is trained to write it."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


@dataclass(frozen=True)
class Rollout:
    """One sampled response, ragged and unpadded, made once by the engine.

    `log_probs`: fp32, one per response token, of the distribution sampled from (at `temperature`).
    `stop_reason`: eos (the model ended the text; the end token is the last response token), stop (a stop token
    of the caller's; likewise the last token), length (the budget ran out). `unfiltered_log_probs`: where filters
    changed the distribution, those of the model's own at the same temperature. `prompt_index`, `sample`: its group
    (the prompt's number in the call) and its number within the group. `weights`: the hash of the weights that wrote it.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    stop_reason: StopReason
    temperature: float = 1.0
    seed: int = 0
    unfiltered_log_probs: tuple[float, ...] | None = None
    prompt_index: int = 0
    sample: int = 0
    weights: str = ""

    @property
    def ended(self) -> bool:
        return self.stop_reason != "length"


@dataclass(frozen=True)
class Term:
    """One named part of a micro-batch's loss.

    `value` is a scalar tensor. Reduction `sum`: a sum over tokens (or pairs), which the training loop adds up over the
    whole step, divides by the step's count and multiplies by `weight`. Reduction `max`: a maximum, of which the step's
    is the largest; it is logged and never trained on, so its weight has to be 0.
    """

    value: Any
    weight: float = 1.0
    reduction: Literal["sum", "max"] = "sum"

    def __post_init__(self) -> None:
        if self.reduction == "max" and self.weight:
            raise ValueError("a maximum is logged, not trained on: give it weight 0")


class EncodeArray(Protocol):
    """Text to token ids, as `data` sees a tokenizer: special tokens in the text stay ordinary text."""

    def __call__(self, text: str) -> "NDArray[np.uint32]": ...


Render = Callable[[Rollout], tuple[str, str]]
"""From a rollout to (prompt text, response text), for rewards that read text."""
