"""1.17, 1.19: what the guard drops changes no running state, and costs none of the iteration's figures."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.test_control import config as control_config
from tests.stages.test_control import objective as control_objective
from tests.stages.test_ppo import objective_of
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.rl import KlConfig
from trine.records import Term
from trine.stages.control.control import ControlObjective
from trine.stages.control.control import run as run_control
from trine.stages.rl.phases import PHASES, PREFIX
from trine.stages.rl.ppo import PpoObjective
from trine.training.loop import Loop
from trine.training.run_folder import RunFolder

OPTIMIZER = OptimizerConfig(kind="adamw", learning_rate=1e-3, clip_norm=1.0)
CLOCK = {"seconds", *(f"{PREFIX}{phase}" for phase in PHASES)}


def rows_of(objective: PpoObjective, folder: Path, steps: int) -> list[dict[str, Any]]:
    """Train; the log."""
    model = objective.model
    folder.mkdir(parents=True)
    optimizer = torch.optim.AdamW([{"params": list(model.parameters()), "peak": 1e-3}], weight_decay=0.0)
    loop = LoopConfig(save_every=0, on_bad_step="skip")
    run = RunFolder(folder)
    Loop(objective, model, [optimizer], steps, (loop, OPTIMIZER), run).train()
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


@pytest.mark.parametrize("in_loss", ["none", "k3"])
def test_no_figure_of_ppo_depends_on_the_micro_batch(in_loss: Any, tmp_path: Path) -> None:
    """1.17: one update logged a peak log-ratio of 3.09, 4.53 or 5.40 at micro-batches of 1, 4 or 8."""
    logs = [
        rows_of(
            objective_of(minibatch_size=8, micro_batch_size=micro, kl=KlConfig(in_loss=in_loss), epochs=3),
            tmp_path / str(micro), 3,
        )
        for micro in (8, 4, 2, 1)
    ]  # fmt: skip
    assert logs[0][2]["peak_log_ratio"] > 1e-3
    for log in logs[1:]:
        for row, expected in zip(log, logs[0], strict=True):
            assert row.keys() == expected.keys()
            for name in row.keys() - CLOCK:
                assert row[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-5), name


def spoil(monkeypatch: pytest.MonkeyPatch, cls: type, dropped: Sequence[int]) -> None:
    """The losses of these steps are no numbers, so that the guard drops them."""
    terms, batches = cls.terms, cls.batches  # type: ignore[attr-defined]
    at: list[int] = []

    def spoiled_batches(self: Any, step: int) -> Any:
        at.append(step)
        return batches(self, step)

    def spoiled_terms(self: Any, batch: Any) -> dict[str, Term]:
        found: dict[str, Term] = terms(self, batch)
        if at[-1] in dropped:
            found["policy"] = replace(found["policy"], value=found["policy"].value * float("nan"))
        return found

    monkeypatch.setattr(cls, "batches", spoiled_batches)
    monkeypatch.setattr(cls, "terms", spoiled_terms)


@pytest.mark.parametrize("dropped", [[4], [4, 5], [4, 5, 6, 7]])
def test_ppo_keeps_the_figures_of_an_iteration_whose_updates_are_dropped(
    dropped: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.17: they went with the first update. 1.19: the KL coefficient follows if something was learned."""
    spoil(monkeypatch, PpoObjective, dropped)
    kl = KlConfig(coefficient=0.1, target=1e-3, horizon=20.0)
    rows = rows_of(objective_of(kl=kl, epochs=2), tmp_path / "run", 12)
    figures = [row for row in rows if "score" in row]
    assert [row["iteration"] for row in figures] == [0, 1, 2]
    assert {"kl", "score", "length", "explained_variance", "kl_coefficient"} <= figures[1].keys()
    beta = [row["kl_coefficient"] for row in figures]
    assert beta[1] == pytest.approx(0.1 * 1.08)
    assert beta[2] == (beta[1] if len(dropped) == 4 else pytest.approx(beta[1] * 1.08))


@pytest.mark.parametrize("dropped", [[6], list(range(6, 12))])
def test_control_keeps_the_figures_of_such_an_iteration_and_its_moments_learn_nothing(
    dropped: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.17, 1.19: an iteration of which no update was taken is in no running moment."""
    counts: list[tuple[int, int]] = []
    take_in = ControlObjective._take_in

    def counting(self: ControlObjective) -> None:
        take_in(self)
        assert self.moments is not None and self.reward_scale is not None
        counts.append((self.moments.count, self.reward_scale.moments.count))

    monkeypatch.setattr(ControlObjective, "_take_in", counting)
    spoil(monkeypatch, ControlObjective, dropped)
    changes: dict[str, Any] = {
        "normalize_observations": True, "normalize_rewards": True, "total_steps": 240,
        "loop": LoopConfig(save_every=0, on_bad_step="skip"),
    }  # fmt: skip
    out = run_control(control_config(tmp_path, **changes))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "iteration" in row] == [0, 1, 2, 3]
    seen = 240 - (60 if len(dropped) == 6 else 0)
    assert counts[-1] == (seen, seen)


def test_a_scale_that_learned_nothing_begins_its_returns_anew(tmp_path: Path) -> None:
    """1.19: the discounted return of an episode begun in a dropped rollout is not known either."""
    learner = control_objective(tmp_path, normalize_rewards=True)
    learner.batches(0)
    assert learner.reward_scale is not None
    learner.observations(taken=False)
    learner.state()
    assert learner.reward_scale.moments.count == 0 and learner.reward_scale.returns.tolist() == [0.0] * 3
