"""One sample, followed through: query, ids, response, text, score, rewards, advantages and returns, ratios, losses.

What PPO does is shown by what it does to one response: a row for every token of it, before training (all that the
iteration computed once) and after one update (what the second update finds). The samples are of the second update's
minibatch, so that both sides are what the log's first two rows are means of. Nothing is computed for the sake of
showing, except where an iteration has a single update.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from trine.algorithms.ppo import PolicyLoss, clipped_policy_loss, clipped_value_loss
from trine.algorithms.text_groups import token_weights
from trine.algorithms.text_importance import truncation
from trine.config.rl import PpoConfig
from trine.records import Rollout
from trine.runtime.files import write_jsonl
from trine.stages.finetuning.shown_rows import token_text
from trine.stages.rl.experience import Experience, fill_rows
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat

FOLLOWED, FOLLOWED_SAMPLES = "followed.jsonl", 1
Done = Callable[[Sequence["FollowedSample"]], None]
Forward = Callable[[Sequence[Rollout]], tuple[Tensor, Tensor]]
"""Log-probabilities and values [N] of the response tokens of rollouts, by the weights of this moment."""


@dataclass(frozen=True)
class FollowedToken:
    """A token of the response. What comes before `log_prob` is fixed for an iteration; the rest moves with an update.

    `kl`: log pi - log pi_ref, nats. `policy_loss`, `value_loss`: this token's, unweighted.
    """

    text: str
    token_id: int
    old_log_prob: float
    reference_log_prob: float
    reward: float
    advantage: float
    returned: float
    log_prob: float
    kl: float
    ratio: float
    clipped: bool
    policy_loss: float
    value: float
    value_loss: float


@dataclass(frozen=True)
class FollowedSample:
    """One response: `before` training and `after` one update. `stop`: eos, stop or length. `sums`: what stands under
    the tokens, by the log's names, before and after."""

    row: int
    query: str
    query_ids: tuple[int, ...]
    response: str
    response_ids: tuple[int, ...]
    stop: str
    score: float
    before: tuple[FollowedToken, ...]
    after: tuple[FollowedToken, ...]


def sums(tokens: Sequence[FollowedToken]) -> dict[str, float]:
    """What stands under the tokens of a sample, by the log's names.

    `kl` and `reward` are sums over the response, all else means over its tokens: means over the responses and the
    tokens of a minibatch are what the log has.
    """
    count = len(tokens)
    return {
        "kl": sum(token.kl for token in tokens),
        "reward": sum(token.reward for token in tokens),
        "ratio": sum(token.ratio for token in tokens) / count,
        "clip_fraction": sum(token.clipped for token in tokens) / count,
        "policy": sum(token.policy_loss for token in tokens) / count,
        "value": sum(token.value_loss for token in tokens) / count,
    }


class Followed:
    """Follows samples of a run's second minibatch, and gives them to `done` after one update.

    `share`: responses of a minibatch that this process trains on. `forward` is called only where the first iteration
    has no second update.
    """

    def __init__(
        self,
        config: PpoConfig,
        chat: Chat | TextFormat,
        done: Done,
        *,
        share: int,
        forward: Forward | None = None,
    ) -> None:
        self.config, self.chat, self.count, self.done = config, chat, config.show or FOLLOWED_SAMPLES, done
        self.share, self.forward = share, forward
        self._seen = 0
        self._rows: list[int] = []
        self._experience: Experience | None = None

    def iteration(self, iteration: int, experience: Experience) -> None:
        """An iteration begins: the first is followed."""
        if iteration == 0:
            self._experience = experience
            self._log_probs, self._values = experience.old_log_probs.clone(), experience.old_values.clone()
        elif self._experience is not None:
            self.finish()

    def update(self, rows: Sequence[int], log_probs: Tensor | None, values: Tensor | None) -> None:
        """A micro-batch of an update: what [N] it finds of `rows`; None of a network that it leaves alone."""
        if self._experience is None:
            return
        second = self._seen >= self.share
        self._seen += len(rows)
        if not second:
            return
        self._take(rows, log_probs, values)
        if self._seen >= 2 * self.share:
            self._end()

    @torch.no_grad()
    def finish(self) -> None:
        """After the only update of an iteration: look at its first samples with the weights of this moment."""
        if self._experience is None or self.forward is None:
            return
        rows = list(range(min(self.count, len(self._experience.rollouts))))
        self._take(rows, *self.forward([self._experience.rollouts[row] for row in rows]))
        self._end()

    def _take(self, rows: Sequence[int], log_probs: Tensor | None, values: Tensor | None) -> None:
        assert self._experience is not None
        self._rows += rows
        for table, flat in ((self._log_probs, log_probs), (self._values, values)):
            if flat is not None:
                fill_rows(table, self._experience.mask, rows, flat.float())

    def _end(self) -> None:
        """At even distances in the minibatch, which is sorted by length; one alone is of the middle."""
        size, count = len(self._rows), min(self.count, len(self._rows))
        chosen = [self._rows[(2 * place + 1) * size // (2 * count)] for place in range(count)]
        self.done([self._sample(row) for row in chosen])
        self._experience = None

    def _sample(self, row: int) -> FollowedSample:
        experience = self._experience
        assert experience is not None
        rollout, tokenizer = experience.rollouts[row], self.chat.tokenizer
        return FollowedSample(
            row=row,
            query=tokenizer.decode(rollout.prompt_ids, keep_special=True),
            query_ids=rollout.prompt_ids,
            response=tokenizer.decode(rollout.response_ids, keep_special=True),
            response_ids=rollout.response_ids,
            stop=rollout.stop_reason,
            score=float(experience.scores[row]),
            before=self._tokens(experience, row, experience.old_log_probs, experience.old_values),
            after=self._tokens(experience, row, self._log_probs, self._values),
        )

    def _tokens(self, experience: Experience, row: int, log_probs: Tensor, values: Tensor) -> tuple[FollowedToken, ...]:
        """The response's tokens, with log-probabilities and values [B, R] of one moment."""
        at, tokens = experience, []
        weights = token_weights(at.learned[row : row + 1], self.config.aggregation)[0]
        now = self._clipped_by(log_probs[row], at.old_log_probs[row], at.learned[row])
        for place in at.rollouts[row].written_places:  # of several turns, what the policy wrote
            token_id = at.rollouts[row].response_ids[place]
            here = slice(place, place + 1)
            weighted = weights[here] * at.advantages[row, here] * at.importance[row, here]
            loss = self._policy_loss(now[here], at.old_log_probs[row, here], weighted)
            value_loss = clipped_value_loss(
                values[row, here], at.old_values[row, here], at.returns[row, here],
                clip_range=self.config.value_clip_range,
            )  # fmt: skip
            old, reference = (float(table[row, place]) for table in (at.old_log_probs, at.reference_log_probs))
            tokens.append(
                FollowedToken(
                    text=token_text(self.chat.tokenizer, token_id), token_id=token_id,
                    old_log_prob=old, reference_log_prob=reference, kl=float(log_probs[row, place]) - reference,
                    reward=float(at.rewards[row, place]), advantage=float(at.advantages[row, place]),
                    returned=float(at.returns[row, place]), log_prob=float(log_probs[row, place]),
                    ratio=float(loss.ratio), clipped=bool(loss.clipped), policy_loss=float(loss.loss),
                    value=float(values[row, place]), value_loss=float(value_loss),
                )
            )  # fmt: skip
        return tuple(tokens)

    def _clipped_by(self, log_probs: Tensor, old_log_probs: Tensor, learned: Tensor) -> Tensor:
        """Log-probabilities [R] whose ratios are clipped: each token's own, or one of the whole response (GSPO)."""
        if self.config.ratio == "token":
            return log_probs
        return old_log_probs + (log_probs - old_log_probs)[learned].mean()

    def _policy_loss(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor) -> PolicyLoss:
        if self.config.old_log_probs == "engine":
            advantages = truncation(log_probs, old_log_probs, self.config.importance_cap) * advantages
        return clipped_policy_loss(
            log_probs, old_log_probs, advantages, clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high, dual_clip_range=self.config.dual_clip_range,
        )  # fmt: skip


def write_followed(path: Path, samples: Sequence[FollowedSample]) -> None:
    """Write the samples as JSON Lines, for the report."""
    write_jsonl(path / FOLLOWED, [asdict(sample) for sample in samples])
