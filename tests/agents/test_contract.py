"""What an environment returns is checked at every call; what is wrong is named, with environment, episode and step."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from trine.agents.contract import Contract
from trine.agents.environments import Environments
from trine.runtime.errors import TrineError

GOOD = np.array([1.0, 2.0], np.float32)


class Scripted(gymnasium.Env[Any, Any]):
    """Returns what it is told to, or raises it."""

    reset_returns: Any = (GOOD, {})
    step_returns: Any = (GOOD, 1.0, False, False, {})

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if isinstance(self.reset_returns, BaseException):
            raise self.reset_returns
        return self.reset_returns

    def step(self, action: Any) -> Any:
        if isinstance(self.step_returns, BaseException):
            raise self.step_returns
        return self.step_returns


for name, limit in (("Scripted-v0", None), ("Timed-v0", 5)):
    gymnasium.register(f"trine-test/{name}", entry_point=Scripted, max_episode_steps=limit)

BAD_OBSERVATIONS = [
    (3.0, r"shape \(\); its observation space says \(2,\)"),
    (np.float32(3.0), r"shape \(\)"),
    (np.array([1.0]), r"shape \(1,\)"),
    (np.zeros((1, 2)), r"shape \(1, 2\)"),
    ([1.0, 2.0, 3.0], r"shape \(3,\)"),
    (None, r"shape \(\)"),
    ({"x": 1}, r"shape \(\)"),
    ([[1.0], [1.0, 2.0]], "no vector of numbers"),
    (["1", "2"], "no vector of numbers"),
    (np.array([1, None], object), "no vector of numbers"),
    (np.array([1, 1j]), "no vector of numbers"),
    (np.array([1.0, math.nan]), "not finite: number 1 of it is nan"),
    (np.array([-math.inf, 0.0], np.float32), "not finite: number 0 of it is -inf"),
    (np.array([1e300, 0.0]), r"not finite: number 0 of it is 1e\+300"),
]
BAD_REWARDS = [None, "1", math.nan, math.inf, np.array([1.0, 2.0]), [1.0, [2.0]], {}, 1j, np.float32("nan"), 10**400]
BAD_FLAGS = [None, "False", {}, 2, math.nan, np.array([True, False]), []]


def stepped(monkeypatch: pytest.MonkeyPatch, returns: Any, name: str = "Scripted-v0") -> None:
    """Two good steps, and then this."""
    played = Environments(f"trine-test/{name}", {}, 2, 0)
    played.step(np.array([0, 1]))
    played.step(np.array([0, 1]))
    monkeypatch.setattr(Scripted, "step_returns", returns)
    played.step(np.array([0, 1]))


@pytest.mark.parametrize(("value", "words"), BAD_OBSERVATIONS)
def test_an_observation_is_checked_in_step_as_in_reset(value: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.20, 1.19: a scalar was broadcast into the observation's shape; NaN ruined the moments for good."""
    with pytest.raises(TrineError, match=rf"trine-test/Scripted-v0, copy 0, episode 0, step 3: .*{words}"):
        stepped(monkeypatch, (value, 1.0, False, False, {}))
    monkeypatch.setattr(Scripted, "reset_returns", (value, {}))
    with pytest.raises(TrineError, match=rf"trine-test/Scripted-v0, copy 0, episode 0, reset: .*{words}"):
        Environments("trine-test/Scripted-v0", {}, 1, 0)


@pytest.mark.parametrize("value", BAD_REWARDS)
def test_a_reward_is_one_finite_number(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.19, 1.20"""
    with pytest.raises(TrineError, match=r"copy 0, episode 0, step 3: a reward is "):
        stepped(monkeypatch, (GOOD, value, False, False, {}))


@pytest.mark.parametrize("value", BAD_FLAGS)
@pytest.mark.parametrize("place", [2, 3])
def test_the_flags_are_flags(value: Any, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.20: 'False' and a dictionary of info were true, None was false."""
    returned = [GOOD, 1.0, False, False, {}]
    returned[place] = value
    with pytest.raises(TrineError, match=r"step 3: (terminated|truncated) is .*, not True or False"):
        stepped(monkeypatch, tuple(returned))


@pytest.mark.parametrize("name", ["Scripted-v0", "Timed-v0"])
@pytest.mark.parametrize("returned", [(GOOD, 1.0, False, {}), (GOOD, 1.0, False), GOOD, None, 5, ()])
def test_the_old_api_of_step_is_named(returned: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.7, 1.20: also where a wrapper of Gymnasium's is the first to unpack it."""
    with pytest.raises(TrineError, match=rf"trine-test/{name}, copy 0.*step 3: step (returned|raised) .*terminated"):
        stepped(monkeypatch, returned, name)


@pytest.mark.parametrize("returned", [GOOD, (GOOD,), (GOOD, {}, 1), None, [1.0, 2.0]])
def test_the_old_api_of_reset_is_named(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.7, 1.20"""
    monkeypatch.setattr(Scripted, "reset_returns", returned)
    for name in ("Scripted-v0", "Timed-v0"):
        with pytest.raises(TrineError, match=r"episode 0, reset: reset returned .*\(observation, info\)"):
            Environments(f"trine-test/{name}", {}, 1, 0)


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("division by zero"), KeyError("speed"), AssertionError(), SystemExit(0), StopIteration()],
)
def test_what_an_environment_raises_is_told_with_its_place(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.7: whatever it raises, sys.exit(0) too, and with the line that raised it."""
    kind = type(error).__name__
    with pytest.raises(TrineError, match=rf"episode 0, step 3: step raised {kind}.*\(test_contract.py, line \d+\)"):
        stepped(monkeypatch, error)
    monkeypatch.setattr(Scripted, "reset_returns", error)
    with pytest.raises(TrineError, match=rf"episode 0, reset: reset raised {kind}"):
        Environments("trine-test/Scripted-v0", {}, 1, 0)


@pytest.mark.parametrize(
    "returned",
    [
        (GOOD, 1.0, False, False, {}),
        ([1, 2], 1, 0, 1, {}),
        ((1.0, 2.0), np.float32(1), np.False_, np.True_, None),
        (np.array([1, 2], np.int8), np.array([1.0]), np.array(True), False, {}),
        (np.array([True, False]), True, False, False, {}),
    ],
)
def test_what_is_plainly_meant_is_taken(returned: Any) -> None:
    """1.20: the check refuses nothing that had one meaning."""
    environment = Scripted()
    environment.step_returns = returned
    observation, reward, terminated, truncated = Contract("toy", 2).step(environment, 0, lambda: "here")
    assert observation.dtype == np.float32 and observation.tolist() == [float(each) for each in returned[0]]
    assert (reward, terminated, truncated) == (1.0, bool(returned[2]), bool(returned[3]))


def test_an_environment_that_fails_to_close_has_been_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3.7"""

    def close(self: Scripted) -> None:
        raise OSError("no window")

    monkeypatch.setattr(Scripted, "close", close)
    Environments("trine-test/Scripted-v0", {}, 1, 0).close()
    assert "close raised OSError: no window" in capsys.readouterr().err
