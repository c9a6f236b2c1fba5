"""What online RL remembers between iterations: the KL coefficient, score moments, whether the critic is ready.

Of each there is the value of this iteration and what the next one will have; the next one has it only if one of this
iteration's updates was taken. All of it is part of a checkpoint, within an iteration too.
"""

import math
from typing import Any

from torch import Tensor

from trine.algorithms.text_kl import adapted_kl_coefficient
from trine.config.rl import PpoConfig
from trine.runtime.progress import say
from trine.stages.rl.shaping import ScoreMoments

NAMES = ("kl_coefficient", "adapted", "warming_up", "stopped", "skipped")


class RunningState:
    """`begin` starts an iteration, `take_in_*` note what the next one is to know."""

    def __init__(self, config: PpoConfig) -> None:
        self.config = config
        self.kl_coefficient = self.adapted = max(config.kl.coefficient, self._floor)
        self.moments = self.next_moments = ScoreMoments()
        self.warming_up = config.critic_warmup > 0
        self.stopped, self.skipped = False, 0

    @property
    def _floor(self) -> float:
        """The least KL coefficient; a fixed one has none."""
        return 0.0 if self.config.kl.target is None else self.config.kl.min_coefficient

    def next_kl_coefficient(self, accepted: bool) -> float:
        """That of the next iteration: adapted, unless the guard dropped all that this one would have learned."""
        return self.adapted if accepted else self.kl_coefficient

    def begin(self, accepted: bool) -> None:
        """A new iteration; `accepted`: one of the updates of the last was taken."""
        self.kl_coefficient = self.next_kl_coefficient(accepted)
        self.moments = self.next_moments if accepted else self.moments
        self.stopped, self.skipped = False, 0

    def take_in_scores(self, scores: Tensor) -> ScoreMoments:
        """The moments with this iteration's scores, which are those that it is paid by."""
        self.next_moments = self.moments.taking_in(scores)
        return self.next_moments

    def take_in_kl(self, iteration: int, kl: float) -> None:
        """Adapt the coefficient of the next iteration to the KL of this one."""
        kept, config = self.kl_coefficient, self.config
        if not math.isfinite(kl):
            say(
                f"   KL of iteration {iteration} is {kl}: the reference gives a sampled token no probability; "
                f"kl.coefficient stays {kept:.4g}",
                style="yellow",
            )
        if config.kl.target is not None:
            adapted = adapted_kl_coefficient(
                kept, kl, target=config.kl.target, horizon=config.kl.horizon, episodes=config.batch_size
            )
            self.adapted = max(self._floor, adapted)

    def take_in_explained_variance(self, iteration: int, explained: float) -> None:
        """End the critic's warm-up for good where it has had its iterations, or explains enough."""
        if not self.warming_up:
            return
        wanted = self.config.critic_training.explained_variance
        # A value head may have been fitted to the first iteration's responses.
        ready = wanted is not None and iteration > 0 and explained >= wanted
        self.warming_up = iteration < self.config.critic_warmup and not ready
        if not self.warming_up and wanted is not None:
            why = "" if ready else f", less than the {wanted:g} asked for: critic_warmup has no more iterations"
            say(f"   the critic's warm-up ends after {iteration} iterations: it explains {explained:.2f}{why}")

    def take_in_update(self, figures: dict[str, float]) -> None:
        """Stop the policy's updates of this iteration where one found it too far from the policy that sampled."""
        limit, moved = self.config.early_stop_kl, figures.get("approximate_kl", 0.0)
        self.stopped = self.stopped or (limit is not None and moved > limit)

    def state(self, accepted: bool) -> dict[str, Any]:
        """For a checkpoint, between iterations or within one."""
        now = {name: getattr(self, name) for name in NAMES}
        moments = {"moments": self.moments.state(), "next_moments": self.next_moments.state()}
        return {"kl_coefficient": self.next_kl_coefficient(accepted), "now": now | moments}

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave; of earlier versions only the coefficient was saved, between iterations."""
        self.kl_coefficient = self.adapted = float(state["kl_coefficient"])
        now = state.get("now")
        if now is None:
            return
        for name in NAMES:
            setattr(self, name, now[name])
        self.moments, self.next_moments = (ScoreMoments(**now[name]) for name in ("moments", "next_moments"))
