"""3.7, 5.10: a reward function or an environment at fault is named early, mended by its author, and the run goes on."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.agents.toys import Walk
from tests.stages import test_ppo_noticed
from tests.stages.test_control import config as control_config
from tests.stages.test_ppo_noticed import trained
from trine.agents.folder import load_agent
from trine.engine.engine import Engine
from trine.runtime.errors import TrineError
from trine.stages.control.control import run as run_control

start = test_ppo_noticed.start

FAULT: dict[str, Any] = {"returns": None, "from_call": None, "calls": 0}


def faulty(prompts: list[str], responses: list[str]) -> Any:
    """The length of each response; from the call on that is said, whatever is said."""
    FAULT["calls"] += 1
    if FAULT["from_call"] is not None and FAULT["calls"] >= FAULT["from_call"]:
        return FAULT["returns"]
    return [len(response) / 10 for response in responses]


def asking(prompts: list[str], responses: list[str], messages: list[Any], level: list[int], ended: list[bool]) -> Any:
    assert all(turns[-1]["content"] == prompt for turns, prompt in zip(messages, prompts, strict=True))
    assert {type(each) for each in ended} == {bool}
    return [level[place] + 0.1 * len(response) for place, response in enumerate(responses)]


def wanting(prompts: list[str], responses: list[str], response: list[str]) -> Any:
    return [float(one == other) + 0.1 * len(one) for one, other in zip(responses, response, strict=True)]


@pytest.fixture(autouse=True)
def sound() -> None:
    FAULT.update(returns=None, from_call=None, calls=0)


@pytest.mark.parametrize("returned", [None, 1.0, "ab", [], [float("nan")] * 3, {"a": 1}])
def test_a_function_at_fault_is_named_before_a_model_is_opened(
    returned: Any,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3.7: tracebacks, after sampling."""
    FAULT.update(returns=returned, from_call=1)
    monkeypatch.setattr(Engine, "__init__", lambda *a, **b: pytest.fail("an engine was made"))
    with pytest.raises(TrineError, match=rf"reward {__name__}:faulty returned"):
        trained(start, tmp_path / "run", reward=f"{__name__}:faulty", iterations=1)


def test_a_run_goes_on_once_its_reward_function_is_mended(start: Path, tmp_path: Path) -> None:
    """3.7: no update made before the fault is lost, and the end is that of a run without it, bit for bit."""
    settings: dict[str, Any] = {"reward": f"{__name__}:faulty", "iterations": 4}
    FAULT.update(returns=["?"] * 8, from_call=4)  # a trial and two iterations are right
    with pytest.raises(TrineError, match=r"returned '\?' \(str\) for the response"):
        trained(start, tmp_path / "run", **settings)
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(saved.name[5:]) == 2 * 4  # two iterations of two epochs of two minibatches
    FAULT.update(from_call=None, calls=0)
    resumed = trained(start, tmp_path / "run", **settings)
    assert FAULT["calls"] == 1 + 2
    straight = trained(start, tmp_path / "straight", **settings)
    for name in ("policy", "critic"):
        ours, theirs = (load_file(each / name / "model.safetensors") for each in (resumed, straight))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_prompts_need_no_response_and_functions_see_messages_and_fields(start: Path, tmp_path: Path) -> None:
    """5.10: `ppo --prompts` insisted on a response, and functions saw a rendered chat."""
    rows = [
        {"prompt": "Add.", "level": 1},
        {"prompt": [{"role": "user", "content": "Why?"}], "level": 2, "response": None},
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"prompts": tmp_path / "prompts.jsonl", "iterations": 1}
    out = trained(start, tmp_path / "run", reward=f"{__name__}:asking", **settings)
    assert (out / "done.json").exists()
    with pytest.raises(TrineError, match=r"asks for the field 'response', which a prompt's record does not have"):
        trained(start, tmp_path / "other", reward=f"{__name__}:wanting", **settings)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Add.", "response": "4"}\n')
    assert trained(start, tmp_path / "other", reward=f"{__name__}:wanting", **settings)


class Breaks(Walk):
    """Walks, until it is at fault."""

    fault: Any = None
    steps = 0

    def step(self, action: Any) -> Any:
        Breaks.steps += 1
        if Breaks.steps > 150:
            if isinstance(self.fault, Exception):
                raise self.fault
            if self.fault is not None:
                return self.fault
        return super().step(action)


gymnasium.register("trine-test/Breaks-v0", entry_point=Breaks, max_episode_steps=12)


@pytest.mark.parametrize(
    "fault",
    [
        ZeroDivisionError("division by zero"),
        (np.zeros(2, np.float32), 0.0, False, {}),
        (np.full(2, np.nan, np.float32), 0.0, False, False, {}),
        (np.zeros(2, np.float32), float("nan"), False, False, {}),
        (np.float32(0), 0.0, False, False, {}),
    ],
)
def test_a_run_goes_on_once_its_environment_is_mended(
    fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.19, 1.20, 3.7: the moments learn nothing of it, and the end is that of a run without it, bit for bit."""
    changes: dict[str, Any] = {
        "environment": "trine-test/Breaks-v0", "total_steps": 300, "evaluation_episodes": 0,
        "normalize_observations": True, "normalize_rewards": True,
    }  # fmt: skip
    straight = run_control(control_config(tmp_path / "straight", **changes))
    monkeypatch.setattr(Breaks, "steps", 0)
    monkeypatch.setattr(Breaks, "fault", fault)
    with pytest.raises(TrineError, match=r"trine-test/Breaks-v0, copy \d, episode \d+, step \d+: "):
        run_control(control_config(tmp_path / "run", **changes))
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(saved.name[5:]) == 12  # after two of five iterations
    monkeypatch.setattr(Breaks, "fault", None)
    resumed = run_control(control_config(tmp_path / "run", **changes))
    (_, ours, our_moments), (_, theirs, their_moments) = (load_agent(each) for each in (resumed, straight))
    assert torch.equal(ours.weights, theirs.weights)
    assert our_moments is not None and their_moments is not None and our_moments.state() == their_moments.state()
