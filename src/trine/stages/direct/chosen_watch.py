"""Whether chosen answers become less likely while the margin grows: common, and not what most people want.

(Razin et al. 2024, "Unintentional unalignment"; eric-mitchell/direct-preference-optimization#8, #32.)
"""

from typing import Any

from trine.runtime.progress import say

WINDOW = 10  # steps
FALL = 0.01  # nats per token


class ChosenWatch:
    """Warns once, where the chosen answers' mean log-probability per token has fallen over `WINDOW` steps.

    `against_reference`: by how much they are less likely than under the reference; without one, than in the run's first
    steps.

    >>> watch = ChosenWatch(against_reference=True)
    >>> for _ in range(10):
    ...     watch.add({"chosen_log_ratio": -0.2, "rejected_log_ratio": -0.5})
    >>> watch.warned
    True
    """

    def __init__(self, *, against_reference: bool) -> None:
        self.key = "log_ratio" if against_reference else "log_prob"
        self.warned = False
        self._first: list[float] = []
        self._recent: list[tuple[float, float]] = []

    def add(self, figures: dict[str, float]) -> None:
        """The figures of one step, logged or not."""
        chosen, rejected = (figures.get(f"{side}_{self.key}") for side in ("chosen", "rejected"))
        if chosen is None:
            return
        if self.key == "log_prob" and len(self._first) < WINDOW:
            self._first.append(chosen)
            return
        self._recent = [*self._recent, (chosen, chosen if rejected is None else rejected)][-WINDOW:]
        if not self.warned and len(self._recent) == WINDOW and self.change < -FALL:
            self.warned = True
            other = sum(each for _, each in self._recent) / WINDOW
            than = "under the reference" if self.key == "log_ratio" else "in the first steps"
            say(
                f"dpo: chosen answers are less likely than {than}, by {-self.change:.3g} nats per token over the last "
                f"{WINDOW} steps (rejected: {self.key} {other:.3g}): the margin grows at their expense. A lower "
                "learning rate, a larger beta or chosen_weight=1 holds them",
                style="yellow",
            )

    @property
    def change(self) -> float:
        """Of the chosen answers over the last steps, in nats per token; 0 before there are any."""
        if not self._recent:
            return 0.0
        now = sum(chosen for chosen, _ in self._recent) / len(self._recent)
        return now - sum(self._first) / len(self._first) if self._first else now

    def state(self) -> dict[str, Any]:
        return {"warned": self.warned, "first": self._first, "recent": self._recent}

    def restore(self, state: dict[str, Any]) -> None:
        self.warned, self._first = bool(state["warned"]), list(state["first"])
        self._recent = [(chosen, rejected) for chosen, rejected in state["recent"]]
