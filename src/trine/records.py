"""The small frozen types that cross rooms. They hold data, know nothing, and import nothing of Trine's.

Token ids are plain Python integers here; tensors begin inside the rooms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role = Literal["system", "user", "assistant"]
StopReason = Literal["eos", "stop", "length"]
Closing = Literal["line", "end", "as_is"]
"""How a cut answer is shown to a reward model: to its last whole line and ended, ended where it was cut, or unended."""

Form = Literal["chat", "text"]
"""What is answered or scored: a conversation, or plain text that is continued."""

Side = Literal["right", "left"]
"""The side of a text that is cut off where it is too long."""

JudgementKind = Literal["label", "score", "pair", "ranking"]
"""What is said of answers: good or bad; how good; which of two is better; an order of several."""

Task = Literal["classify", "entail", "similar", "choose"]
"""GPT-1's four tasks: label a text; a premise and a hypothesis; two texts in either order; choose among options."""


@dataclass(frozen=True)
class Document:
    """One text of a corpus. `group` is what the train / held-out split hashes (never the text itself).

    `license`: what the source's record says, as an SPDX expression; empty where it says nothing. `held_out`: which side
    of the split it is on, where that does not follow from its group (the tail of a corpus that is one text).
    """

    text: str
    name: str
    source: str
    group: str
    license: str = ""
    held_out: bool | None = None


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """A prompt and the answer to learn from.

    `name` says where it came from, `group` splits train from held-out, `columns` are the record's other fields.
    """

    prompt: tuple[Message, ...]
    response: str
    name: str = ""
    group: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Conversation:
    """What a record gives to learn from: messages, or a plain text.

    `learned`: for each message, whether the model is trained to write it; only answers are. `text`: all of a record
    that is a plain text, which has no messages and is learned as a whole; with its end, if it `ended`. `place` is where
    it stands (file:line), for errors; `name`, `group` and `columns` as in `Example`, but that without a field `group`
    it is the first question.
    """

    messages: tuple[Message, ...] = ()
    learned: tuple[bool, ...] = ()
    text: str = ""
    place: str = ""
    name: str = ""
    group: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ended: bool = True

    @property
    def answers(self) -> tuple[int, ...]:
        """Places of the messages that are trained."""
        return tuple(index for index, learned in enumerate(self.learned) if learned)


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
class TaskText:
    """A text with task tokens in it (GPT-2): (the name of a task token or "", the text after it), in order.

    `answer`: what is to be learned after them; None: the texts themselves are. `place`: file:line, for errors.
    """

    parts: tuple[tuple[str, str], ...]
    answer: str | None = None
    place: str = ""


@dataclass(frozen=True)
class TaskExample:
    """A record of one of GPT-1's tasks: the texts of each reading, and the name of the label (of a choice: its place).

    A reading is one text, or two with a delimiter between them. `group` splits train from held-out.
    """

    readings: tuple[tuple[str, ...], ...]
    label: str
    name: str = ""
    group: str = ""


@dataclass(frozen=True)
class Rollout:
    """One sampled response, ragged and unpadded, made once by the engine.

    `log_probs`: fp32, one per response token, of the distribution sampled from (at `temperature`).
    `stop_reason`: eos (the model ended the text; the end token is the last response token), stop (a stop token
    of the caller's; likewise the last token), length (the budget ran out). `unfiltered_log_probs`: where filters
    changed the distribution, those of the model's own at the same temperature. `prompt_index`, `sample`: its group
    (the prompt's number in the call) and its number within the group. `weights`: the hash of the weights that wrote it.
    `written`: in a conversation of several turns, which of the response's tokens the policy wrote; the others stand
    between its turns (the user's words, the marks of a turn), with log-probabilities of 0. None: it wrote all of them.
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
    written: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.log_probs) != len(self.response_ids):
            raise ValueError(f"{len(self.response_ids)} response tokens and {len(self.log_probs)} log-probabilities")

    @property
    def ended(self) -> bool:
        return self.stop_reason != "length"

    @property
    def written_places(self) -> tuple[int, ...]:
        """Places in `response_ids` of the tokens that the policy wrote: those that are learned from."""
        written = self.written or (True,) * len(self.response_ids)
        return tuple(place for place, own in enumerate(written) if own)


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


@dataclass(frozen=True)
class Answer:
    """One answer to one prompt, as a reward sees it.

    `query`: the plain text that the answer continues, where there is no conversation (form: text); a whole text that is
    judged has an empty one. `ended`: the answer ended by itself, not at max_new_tokens. `prompt_ids`, `response_ids`:
    the policy's token ids, of use to readers with the same `tokenizer` (its fingerprint). `columns`: the other fields
    of the prompt's record. `prompt_index`: answers with the same one are a group, all to one prompt.
    """

    prompt: tuple[Message, ...]
    response: str
    ended: bool = True
    prompt_ids: tuple[int, ...] = ()
    response_ids: tuple[int, ...] = ()
    tokenizer: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    query: str | None = None
    prompt_index: int = 0


@dataclass(frozen=True)
class Judgement:
    """What somebody said of the answers to one prompt: exactly one of `label`, `score` and `ranking`.

    `label`: whether the only answer is good. `score`: how good it is. `ranking`: groups of places in `answers`, best
    first; answers of one group are tied, and a pair is a ranking of two: ((0,), (1,)). Answers that no group names were
    not ranked. `judge` says who judged, `weight` how much it counts. Of a pair, `margin` is by how much more the first
    answer has to score, and `probability` a soft label: how likely it is that the first is the better one. `name` says
    where it came from, `group` splits train from held-out; empty: the prompt.
    """

    prompt: tuple[Message, ...]
    answers: tuple[Answer, ...]
    label: bool | None = None
    score: float | None = None
    ranking: tuple[tuple[int, ...], ...] | None = None
    judge: str = ""
    weight: float = 1.0
    margin: float = 0.0
    probability: float | None = None
    name: str = ""
    group: str = ""

    @property
    def kind(self) -> JudgementKind:
        """A ranking of two answers is a pair, tied or not."""
        if self.ranking is None:
            return "score" if self.label is None else "label"
        return "pair" if sum(map(len, self.ranking)) == 2 else "ranking"

    def __post_init__(self) -> None:
        given = [name for name in ("label", "score", "ranking") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a judgement is one of label, score and ranking, not {given or 'none of them'}")
        if self.ranking is None and len(self.answers) != 1:
            raise ValueError(f"a {given[0]} is of one answer, not of {len(self.answers)}")
        places = sorted(place for group in self.ranking or () for place in group)
        if places != sorted(set(places) & set(range(len(self.answers)))):
            raise ValueError(f"ranking={self.ranking} does not name each of {len(self.answers)} answers once at most")

    @classmethod
    def pair(cls, prompt: tuple[Message, ...], chosen: Answer, rejected: Answer) -> "Judgement":
        """A preference pair."""
        return cls(prompt, (chosen, rejected), ranking=((0,), (1,)))


class EncodeArray(Protocol):
    """Text to token ids, as `data` sees a tokenizer: special tokens in the text stay ordinary text."""

    def __call__(self, text: str) -> "NDArray[np.uint32]": ...
