"""What a reward is: a number for every answer, higher is better.

A reward sees `Answer`s: the conversation, the text, whether it ended, the policy's token ids where they are known, and
the other fields of the prompt's record. It never sees a rollout, so that a reward with a tokenizer of its own, a Python
function and an endpoint all have one form.

A reward may know more than the number: its parts, each logged alone, and where in the answer it was earned. Whoever
wants that asks `scored`, which knows any reward:

    found = scored(reward, answers)
    found.scores         [B]; NaN where the reward says that it does not apply to an answer: such an answer is left out
    found.parts          {"parses": [B], "length": [B]}, NaN where a part does not apply; empty for a reward of one part
    found.token_scores   of each answer one number per response token, which add up to its score; or None
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from trine.records import Answer, Form


class Reward(Protocol):
    """Scores answers::

    reward = ModelReward(model, tokenizer)
    scores = reward.score(answers)  # [B]
    """

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B] on the CPU, in the order of `answers`: finite, or NaN where the reward does not apply.

        What goes wrong is a `TrineError`, never a number.
        """
        ...


@runtime_checkable
class RewardInParts(Reward, Protocol):
    """A reward that is made of others."""

    def parts(self, answers: Sequence[Answer]) -> Mapping[str, Tensor]:
        """fp32 [B] of each part, unweighted, as that part gave it; NaN where it does not apply."""
        ...


@runtime_checkable
class TokenReward(Reward, Protocol):
    """A reward that may say at which tokens it was earned."""

    def token_scores(self, answers: Sequence[Answer]) -> list[list[float]] | None:
        """Of each answer one number per response token, adding up to its score; None where that is not known."""
        ...


@runtime_checkable
class FormReward(Reward, Protocol):
    """A reward that says what it reads: conversations, or plain text."""

    reads: Form


@runtime_checkable
class CanBeTried(Reward, Protocol):
    """A reward that is not ours, and whose mistakes are better known before anything is sampled."""

    def try_out(self, answers: Sequence[Answer], called_with: int = 3) -> None:
        """Raise `TrineError` where a field of a record is missing, or where scoring the first answers goes wrong."""
        ...


@dataclass(frozen=True)
class Scored:
    """What a reward said of B answers; see the module."""

    scores: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    token_scores: list[list[float]] | None = None


class DetailedReward:
    """Base of rewards that find score, parts and token scores in one go: they implement `detailed`.

    The parts of answers that were just scored are not computed again, so that scores and parts are of one call.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Answer, ...], Scored] | None = None

    def detailed(self, answers: Sequence[Answer]) -> Scored:
        """All that there is to know of `answers`."""
        raise NotImplementedError

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]."""
        found = self.detailed(answers)
        self.remember(answers, found)
        return found.scores

    def remember(self, answers: Sequence[Answer], found: Scored) -> None:
        """Keep what was found, for who asks for the parts of these answers next."""
        self._last = (tuple(answers), found)

    def parts(self, answers: Sequence[Answer]) -> Mapping[str, Tensor]:
        """fp32 [B] of each part; empty where there is one alone."""
        return self._details(answers).parts

    def token_scores(self, answers: Sequence[Answer]) -> list[list[float]] | None:
        """Of each answer one number per response token, or None."""
        return self._details(answers).token_scores

    def _details(self, answers: Sequence[Answer]) -> Scored:
        known = self._last
        same = known is not None and len(known[0]) == len(answers)
        if known is None or not same or any(a is not b for a, b in zip(known[0], answers, strict=True)):
            self.score(answers)
            known = self._last
        assert known is not None
        return known[1]


def joined(found: Sequence[Scored]) -> Scored:
    """What a reward said of several lots of answers, as of one.

    >>> joined([Scored(torch.ones(1)), Scored(torch.zeros(2))]).scores.tolist()
    [1.0, 0.0, 0.0]
    """
    parts = {name: torch.cat([each.parts[name] for each in found]) for name in (found[0].parts if found else ())}
    by_token = any(each.token_scores is not None for each in found)
    tokens = [tokens for each in found for tokens in each.token_scores or each.scores.unsqueeze(1).tolist()]
    scores = torch.cat([each.scores for each in found]) if found else torch.zeros(0)
    return Scored(scores, parts, tokens if by_token else None)


def scored(reward: Reward, answers: Sequence[Answer]) -> Scored:
    """Scores, parts and token scores by any reward, of one call::

    found = scored(ModelReward(score_model, tokenizer), answers)
    """
    scores = reward.score(answers)
    parts = reward.parts(answers) if isinstance(reward, RewardInParts) else {}
    return Scored(scores, parts, reward.token_scores(answers) if isinstance(reward, TokenReward) else None)
