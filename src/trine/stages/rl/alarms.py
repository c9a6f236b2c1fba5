"""Alarms: what goes wrong in online RL while the reward looks fine, told in the iteration in which it shows.

Each alarm looks at the figures of one iteration (`observations.py`) and at the little that is remembered of earlier
ones. A figure that is absent or not finite raises none. Thresholds are coarse on purpose: an alarm that cries in good
runs is not heard in bad ones.

    kl_negative        KL below 0 by more than 3 standard errors: impossible of samples of the policy itself
    entropy_halved     less than half the entropy of the first iteration
    length_at_limit    nearly every response is cut at max_new_tokens
    over_optimised     the reward rose and a held-out reward model fell (Gao et al. 2023)
    critic_blind       the critic explains next to nothing of the returns, iteration after iteration
    reward_constant    all responses have the same score: there is nothing to learn from
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Figures = Mapping[str, float]
"""Of one iteration, by the names of the log."""

STANDARD_ERRORS = 3.0
KL_ROUNDING = 1e-3
"""Nats per response that rounding may take from a KL of 0."""
CUT_SHARE, CUT_SHARE_BEFORE = 0.9, 0.7
"""A share of cut responses that is the limit, and one that it has to come from where responses need not end."""
WINDOW = 3
"""Iterations that rewards are averaged over before they are compared."""
CRITIC_ITERATIONS, EXPLAINED = 5, 0.05


@dataclass(frozen=True)
class Alarm:
    """What an alarm means, and what to do about it."""

    meaning: str
    advice: str


ALARMS = {
    "kl_negative": Alarm(
        "the KL to the reference is negative beyond chance",
        "tokens are not sampled from the distribution whose log-probabilities are taken: look at filters, at the "
        "temperature and at the precision",
    ),
    "entropy_halved": Alarm(
        "the entropy of the policy fell to less than half",
        "responses become alike: raise kl.coefficient or entropy_weight, or lower the learning rate",
    ),
    "length_at_limit": Alarm(
        "responses reach max_new_tokens",
        "the reward pays for length, or the budget is short: set missing_eos_penalty, or raise max_new_tokens",
    ),
    "over_optimised": Alarm(
        "the reward rose while the held-out reward model fell: over-optimisation",
        "stop earlier, raise kl.coefficient, or train the reward model on the policy's own samples",
    ),
    "critic_blind": Alarm(
        "the critic explains nothing of the returns",
        "advantages are as noisy as without one: warm it up (critic_warmup), raise its learning rate "
        "(optimizer.learning_rate_head) or value_weight, or give it a model of its own (critic)",
    ),
    "reward_constant": Alarm(
        "all responses have the same score",
        "there is nothing to learn from: look at the reward and at the samples",
    ),
}


@dataclass
class Memory:
    """What alarms remember: figures of the first iteration, the last explained variances, the last rewards and their
    best window by the held-out reward model. `holding`: the alarms of the last iteration."""

    first: dict[str, float] = field(default_factory=dict)
    explained: list[float] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    holding: list[str] = field(default_factory=list)


class Watch:
    """Looks at iterations in order.

    >>> watch = Watch(critic_from=2)
    >>> watch.look(0, {"kl": -0.9, "kl_error": 0.1})
    {'kl_negative': 'KL is -0.9 nats a response, 9.0 standard errors below 0'}

    `expects_end`: responses are meant to end by themselves, so that a run in which none does from its start is wrong
    too. `critic_from`: the first iteration in which the critic should know something.
    """

    def __init__(self, *, expects_end: bool = True, critic_from: int = 0) -> None:
        self.expects_end, self.critic_from, self.memory = expects_end, critic_from, Memory()

    def look(self, iteration: int, figures: Figures) -> dict[str, str]:
        """The alarms that hold now, each with a sentence of its figures."""
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        self.memory.first = {**finite, **self.memory.first}
        self._remember(iteration, finite)
        found = {name: check(self, finite) for name, check in _CHECKS.items()}
        held = self.memory.holding
        silent = [name for name, sentence in found.items() if sentence is None]
        self.memory.holding = [name for name in found if found[name] or (name in silent and name in held)]
        return {name: sentence for name, sentence in found.items() if sentence}

    def _remember(self, iteration: int, figures: Figures) -> None:
        memory = self.memory
        if "explained_variance" in figures and iteration >= self.critic_from:
            memory.explained = [*memory.explained, figures["explained_variance"]][-CRITIC_ITERATIONS:]
        names = ("score", "score_error", "held_out_score", "held_out_score_error")
        if all(name in figures for name in names):
            memory.rewards = [*memory.rewards, [figures[name] for name in names]][-WINDOW:]

    def state(self) -> dict[str, Any]:
        return asdict(self.memory)

    def restore(self, state: dict[str, Any]) -> None:
        self.memory = Memory(**state)


def _kl_negative(watch: Watch, figures: Figures) -> str:
    kl, error = figures.get("kl", 0.0), figures.get("kl_error", 0.0)
    if kl >= -STANDARD_ERRORS * error - KL_ROUNDING:
        return ""
    return f"KL is {kl:.3g} nats a response, {-kl / error if error else math.inf:.1f} standard errors below 0"


def _entropy_halved(watch: Watch, figures: Figures) -> str:
    now, first = figures.get("sampled_entropy"), watch.memory.first.get("sampled_entropy")
    if now is None or first is None or now >= 0.5 * first:
        return ""
    return f"the entropy is {now:.3g} nats a token, {first:.3g} in the first iteration"


def _length_at_limit(watch: Watch, figures: Figures) -> str:
    cut = 1 - figures.get("ended_share", 1.0)
    before = 1 - watch.memory.first.get("ended_share", 1.0)
    if cut < CUT_SHARE or not (watch.expects_end or before < CUT_SHARE_BEFORE):
        return ""
    return f"{cut:.0%} of the responses are cut at max_new_tokens, {before:.0%} in the first iteration"


def _over_optimised(watch: Watch, figures: Figures) -> str | None:
    """Means over `WINDOW` iterations, against those where the held-out reward model was highest."""
    memory = watch.memory
    if len(memory.rewards) < WINDOW or "held_out_score" not in figures:
        return None  # no new score to compare
    now = _window(memory.rewards)
    if not memory.best or now[2] >= memory.best[2]:
        memory.best = now
        return ""
    rise, rise_error = now[0] - memory.best[0], math.hypot(now[1], memory.best[1])
    fall, fall_error = memory.best[2] - now[2], math.hypot(now[3], memory.best[3])
    if rise <= STANDARD_ERRORS * rise_error or fall <= STANDARD_ERRORS * fall_error:
        return ""
    return f"the reward rose by {rise:.3g} since the held-out reward model was highest, which fell by {fall:.3g}"


def _window(rewards: list[list[float]]) -> list[float]:
    """Means of score and held-out score, each with its standard error."""
    score, score_error, held_out, held_out_error = zip(*rewards, strict=True)
    count = len(rewards)
    return [
        sum(score) / count, math.hypot(*score_error) / count, sum(held_out) / count, math.hypot(*held_out_error) / count
    ]  # fmt: skip


def _critic_blind(watch: Watch, figures: Figures) -> str:
    explained = watch.memory.explained
    if len(explained) < CRITIC_ITERATIONS or sum(explained) / len(explained) >= EXPLAINED:
        return ""
    return f"explained variance is {sum(explained) / len(explained):.3g} over the last {len(explained)} iterations"


def _reward_constant(watch: Watch, figures: Figures) -> str:
    if figures.get("zero_variance_share", 0.0) < 1.0:
        return ""
    return f"every response has the score {figures.get('score', math.nan):.4g}, or that of the others to its prompt"


_CHECKS: dict[str, Callable[[Watch, Figures], str | None]] = {
    "kl_negative": _kl_negative,
    "entropy_halved": _entropy_halved,
    "length_at_limit": _length_at_limit,
    "over_optimised": _over_optimised,
    "critic_blind": _critic_blind,
    "reward_constant": _reward_constant,
}
