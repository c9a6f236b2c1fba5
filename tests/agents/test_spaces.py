"""4.8: a policy samples actions in units of their range, whatever the range."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents import toys  # noqa: F401
from trine.agents.distributions import Array
from trine.agents.environments import Environments
from trine.agents.folder import load_agent
from trine.agents.spaces import BoxActions
from trine.config.control import ControlConfig
from trine.runtime.errors import TrineError
from trine.stages.control.control import run
from trine.stages.control.results import open_player

edges = st.floats(-1e6, 1e6, width=32)


def box(low: float, high: float) -> BoxActions:
    return BoxActions(np.array([low], np.float32), np.array([high], np.float32))


def given_to(actions: BoxActions, *sampled: float) -> list[float]:
    return [float(each[0]) for each in actions.for_environment(np.array(sampled, np.float32)[:, None])]


@settings(deadline=None, max_examples=100)
@given(edges, st.floats(0, 1e6, width=32))
def test_minus_one_to_one_is_the_range_from_edge_to_edge(low: float, width: float) -> None:
    """4.8: in [-1000, 1000] actions stayed near 0, in [0, 1] they stuck at the edge."""
    low, high = np.float32(low), np.float32(np.float32(low) + np.float32(width))
    span = float(high) - float(low)
    sampled = np.linspace(-1.5, 1.5, 13).astype(np.float32)
    actions = np.array(given_to(box(low, high), *sampled))
    expected = np.clip(float(low) + (np.clip(sampled.astype(float), -1, 1) + 1) / 2 * span, low, high)
    assert actions == pytest.approx(expected, rel=1e-6, abs=1e-6 * max(span, 1e-30))
    assert (actions >= low).all() and (actions <= high).all()
    assert actions[0] == low and actions[-1] == high


def test_a_range_of_one_edge_begins_there_and_one_of_none_is_what_is_sampled() -> None:
    """4.8: decided: a unit is a unit where no width says otherwise; the largest float is no edge."""
    assert given_to(box(1000, np.inf), -1.5, -1, 0, 2) == [1000, 1000, 1001, 1003]
    assert given_to(box(-np.inf, -5), 1.5, 1, 0, -2) == [-5, -5, -6, -8]
    assert given_to(box(-np.inf, np.inf), -3, 0.5) == [-3, 0.5]
    largest = float(np.finfo(np.float32).max)
    assert given_to(box(-largest, largest), -3, 0.5) == [-3, 0.5]
    assert given_to(box(2, largest), -1, 0) == [2, 3]
    assert given_to(box(2, 2), -1, 0, 1) == [2, 2, 2]


def test_in_a_range_of_minus_one_to_one_every_bit_is_as_it_was() -> None:
    """4.8: nothing changes for the environments that follow the convention."""
    low, high = np.full(3, -1.0, np.float32), np.full(3, 1.0, np.float32)
    sampled = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    scaled, plain = (np.array(BoxActions(low, high, scaled).for_environment(sampled)) for scaled in (True, False))
    assert scaled.tobytes() == plain.tobytes() and scaled.dtype == np.float32


class Reach(gymnasium.Env[Any, Any]):
    """Best where the action is three quarters up its range; an episode is five steps."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high, self.count = low, high, 0
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Box(np.float32(low), np.float32(high), (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Array) -> Any:
        self.count += 1
        share = (float(action[0]) - self.low) / (self.high - self.low)
        return np.zeros(1, np.float32), 1 - 4 * abs(share - 0.75), self.count == 5, False, {}


gymnasium.register("trine-test/Reach-v0", entry_point=Reach)


def trained(out: Path, low: float, high: float, total_steps: int = 4_000) -> Path:
    values: dict[str, Any] = {
        "environment": "tests.agents.test_spaces:trine-test/Reach-v0",
        "environment_options": {"low": low, "high": high},
        "environments": 8, "rollout_steps": 25, "total_steps": total_steps, "hidden": (8,), "gamma": 0.9,
        "evaluation_episodes": 5, "film": False, "optimizer": {"learning_rate": 0.05},
    }  # fmt: skip
    return run(ControlConfig(out=out, **values))


@pytest.mark.parametrize(("low", "high"), [(-1000, 1000), (200, 200.5)])
def test_what_is_learned_does_not_depend_on_the_range(low: float, high: float, tmp_path: Path) -> None:
    """4.8: the same task in other units is learned alike; at first it gives -0.6, at best 5."""
    out = trained(tmp_path, low, high)
    assert json.loads((out / "done.json").read_text())["deterministic"]["return_mean"] > 4


def test_an_agent_of_an_earlier_version_still_acts_in_the_units_it_learned(tmp_path: Path) -> None:
    """4.8: agent.json of then says nothing of scaling."""
    out = trained(tmp_path, -10, 10, 200)
    described = json.loads((out / "agent" / "agent.json").read_text())
    assert described.pop("scaled_actions") is True
    (out / "agent" / "agent.json").write_text(json.dumps(described))
    description, _ = open_player(out, deterministic=True)
    assert not description.scaled_actions
    options = description.environment_options
    played = Environments(description.environment, options, 1, 0, scaled_actions=description.scaled_actions)
    assert played.actions.for_environment(np.array([[0.5]], np.float32))[0].tolist() == [0.5]


def test_an_agent_that_cannot_act_is_refused(tmp_path: Path) -> None:
    """1.19: one with moments that are not finite."""
    out = trained(tmp_path, -1, 1, 200)
    described = json.loads((out / "agent" / "agent.json").read_text())
    described["normalization"] = {"count": 5, "mean": [float("nan")], "variance": [1.0]}
    (out / "agent" / "agent.json").write_text(json.dumps(described))
    with pytest.raises(TrineError, match="not finite; it cannot act"):
        load_agent(out)
