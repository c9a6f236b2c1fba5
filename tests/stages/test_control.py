"""Training in an environment: bit for bit again, exactly on after a stop, and what cannot be done is refused."""

import json
import signal
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.agents import toys
from tests.tiny import random_tensor
from trine.agents import episodes as episodes_module
from trine.agents.environments import Environments
from trine.agents.folder import build, load_agent
from trine.agents.network import initialize
from trine.config.base import LoopConfig
from trine.config.control import ControlConfig
from trine.runtime.errors import TrineError
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.control.control import ControlObjective, TrainingBatch, describe, run

SMALL: dict[str, Any] = {
    "environment": "trine-test/Walk-v0", "environments": 3, "rollout_steps": 20, "total_steps": 600, "minibatches": 3,
    "epochs": 2, "hidden": (8, 8), "evaluation_episodes": 5, "film": False,
}  # fmt: skip
ONE_UPDATE = {"epochs": 1, "minibatches": 1}


def config(out: Path, **changes: Any) -> ControlConfig:
    values = SMALL | ({**ONE_UPDATE} if changes.get("algorithm", "ppo") != "ppo" else {}) | changes
    if changes.get("algorithm") == "reinforce":
        values["rollout_steps"] = changes.get("rollout_steps")
    return ControlConfig(out=out, **values)


def weights(folder: Path) -> Tensor:
    return load_agent(folder)[1].weights.detach()


def rows(folder: Path) -> list[dict[str, Any]]:
    """Of the log, without what depends on the clock."""
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in written]


def objective(out: Path, **changes: Any) -> ControlObjective:
    settings = config(out, **changes)
    environments = Environments(settings.environment, {}, settings.environments, 0)
    description = describe(settings, environments)
    agent = build(description)
    initialize(agent, 0)
    return ControlObjective(agent, environments, description, settings, torch.device("cpu"))


def played(learner: ControlObjective, iteration: int = 0) -> TrainingBatch:
    """What an iteration learns from, in the order it was played."""
    learner.batches(iteration * learner.steps_per_iteration)
    assert learner.training_batch is not None
    return learner.training_batch


NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "reinforce"},
        {"algorithm": "actor_critic"},
        {"value_clip_range": 0.2, "entropy_weight": 0.01},
        {"environment": "trine-test/Glide-v0", **NORMALIZED},
    ],
)
def test_a_seed_reproduces_a_run_and_a_stopped_run_goes_on_exactly(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(config(tmp_path / "straight", **changes))
    assert torch.equal(weights(run(config(tmp_path / "again", **changes))), weights(straight))
    assert not torch.equal(weights(run(config(tmp_path / "other", seed=1, **changes))), weights(straight))

    stopped = config(tmp_path / "stopped", **changes)
    for after in (3, 2):
        _stop_after(after, monkeypatch)
        with pytest.raises(Interrupted):
            run(stopped)
        monkeypatch.undo()
        stop_request.received = None
    run(stopped)
    assert torch.equal(weights(tmp_path / "stopped"), weights(straight))
    assert rows(tmp_path / "stopped") == rows(straight)
    assert (tmp_path / "stopped" / "done.json").read_bytes() == (straight / "done.json").read_bytes()


def _stop_after(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal arrives while the rollout of that many iterations later is played."""
    batches, begun = ControlObjective.batches, []

    def counting(self: ControlObjective, step: int) -> Any:
        begun.extend([step] if step % self.steps_per_iteration == 0 else [])
        if len(begun) == iterations:
            stop_request.received = signal.SIGTERM
        return batches(self, step)

    monkeypatch.setattr(ControlObjective, "batches", counting)


def test_an_environment_that_does_not_reproduce_goes_on_with_new_episodes_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"environment": "trine-test/Forgetful-v0"}
    _stop_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        run(config(tmp_path, **changes))
    monkeypatch.undo()
    stop_request.received = None
    with pytest.raises(TrineError, match=r"trine-test/Forgetful-v0 does not reproduce.*--resume new_episodes"):
        run(config(tmp_path, **changes))
    run(config(tmp_path, resume="new_episodes", **changes))
    assert (tmp_path / "done.json").exists()


def test_the_first_ratio_of_an_iteration_is_exactly_1(tmp_path: Path) -> None:
    """At a size where products of other rows together differ in their last bits, as one of the whole rollout would."""
    wide = {"rollout_steps": 300, "total_steps": 900, "hidden": (64, 64)}
    for changes in ({}, {"environment": "trine-test/Glide-v0", **NORMALIZED}):
        learner = objective(tmp_path, **wide, **changes)
        with torch.no_grad():
            learner.agent.weights.add_(0.1 * random_tensor(len(learner.agent.weights), seed=1))
        for batch in [learner.batches(step)[0] for step in range(3)]:
            terms = learner.terms(batch)
            outputs, _ = learner.agent(batch.observations)
            log_probs, _ = learner.distribution.log_probs_and_entropy(outputs, batch.actions)
            assert torch.equal(log_probs, batch.old_log_probs)
            assert float(terms["approximate_kl"].value) == 0.0
            assert_close(terms["policy"].value, -batch.advantages.sum(), atol=1e-4, rtol=1e-4)


def test_the_terms_have_the_weights_of_the_config(tmp_path: Path) -> None:
    learner = objective(tmp_path, entropy_weight=0.25, value_weight=0.75)
    batch = learner.batches(0)[0]
    terms = learner.terms(batch)
    weights_of = {name: term.weight for name, term in terms.items()}
    assert weights_of == {"policy": 1.0, "entropy": -0.25, "value": 0.75} | dict.fromkeys(
        ("clip_fraction", "clip_low", "clip_high", "ratio", "approximate_kl"), 0.0
    )
    assert float(terms["entropy"].value.detach()) == pytest.approx(len(batch) * log(2), rel=1e-3)


def test_a_value_may_be_held_near_the_old_one(tmp_path: Path) -> None:
    plain, clipped = objective(tmp_path), objective(tmp_path, value_clip_range=0.01)
    for learner in (plain, clipped):
        batch = learner.batches(0)[0]
        with torch.no_grad():
            learner.agent.named()["critic.2.bias"].add_(1.0)
    values = batch.old_values + 1.0
    near = (batch.old_values + 0.01 - batch.returns).square()
    squares = (values - batch.returns).square()
    assert_close(plain.terms(batch)["value"].value, 0.5 * squares.sum())
    assert_close(clipped.terms(batch)["value"].value, 0.5 * torch.maximum(squares, near).sum())


def test_observations_are_normalized_by_all_rollouts_before(tmp_path: Path) -> None:
    learner = objective(tmp_path, normalize_observations=True)
    first = played(learner).observations
    assert learner.moments is not None and learner.moments.count == 0
    assert not torch.allclose(first.mean(0), torch.zeros(2), atol=0.05)
    played(learner, 1)
    assert learner.moments.count == 60
    again = torch.from_numpy(learner.moments.normalized(first.numpy()))
    assert_close(again.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    learner.state()
    assert learner.moments.count == 120


def test_rewards_are_scaled_by_the_returns_so_far(tmp_path: Path) -> None:
    raw, scaled = (objective(tmp_path, normalize_rewards=on, normalize_advantages="none") for on in (False, True))
    plain, divided = played(raw), played(scaled)
    scaled.state()  # the iteration is over: what it saw is taken in
    assert scaled.reward_scale is not None
    deviation = float(scaled.reward_scale.moments.variance[0]) ** 0.5
    with torch.no_grad():  # the critic is the same, so what differs is rewards alone
        difference = (plain.returns - plain.old_values) - deviation * (divided.returns - divided.old_values)
    assert deviation != pytest.approx(1.0, abs=0.05) and float(difference.abs().mean()) < float(
        plain.returns.abs().mean()
    )


def test_fresh_episodes_are_played_now_and_then_when_asked_for(tmp_path: Path) -> None:
    out = run(config(tmp_path, loop=LoopConfig(evaluate_every=12, save_every=0)))
    played = [row for row in rows(out) if "deterministic_return" in row]
    assert [row["step"] for row in played] == [12, 24, 36, 48]


def test_a_signal_during_such_an_evaluation_is_answered_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"loop": LoopConfig(evaluate_every=24, save_every=0)}
    straight = run(config(tmp_path / "straight", **changes))
    evaluate = ControlObjective.evaluate

    def signalled(self: ControlObjective, final: bool) -> Any:
        stop_request.received = signal.SIGTERM
        return evaluate(self, final)

    monkeypatch.setattr(ControlObjective, "evaluate", signalled)
    with pytest.raises(Interrupted):
        run(config(tmp_path / "stopped", **changes))
    monkeypatch.undo()
    stop_request.received = None
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == ["step-00000024"]
    run(config(tmp_path / "stopped", **changes))
    assert rows(tmp_path / "stopped") == rows(straight)


def test_a_dropped_update_costs_no_figures_and_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first update of the second iteration has a gradient that is not finite."""
    terms, calls = ControlObjective.terms, []

    def broken(self: ControlObjective, batch: Any) -> Any:
        calls.append(batch)
        found = terms(self, batch)
        if len(calls) == 7:
            found["policy"] = replace(found["policy"], value=found["policy"].value * float("nan"))
        return found

    monkeypatch.setattr(ControlObjective, "terms", broken)
    logged = rows(run(config(tmp_path, loop=LoopConfig(save_every=0, on_bad_step="skip"))))
    assert [row["environment_steps"] for row in logged] == [60.0 * (i + 1) for i in range(10)]
    assert [row.get("skipped") for row in logged] == [None] + [1.0] * 9


def test_a_run_whose_episodes_do_not_end_is_finished_without_their_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes_module, "MAX_EPISODE_STEPS", 100)
    out = run(config(tmp_path, environment="trine-test/Ends-v0", environment_options={"ends_after": None}))
    assert set(json.loads((out / "done.json").read_text())) == {"environment_steps"}


def test_a_run_whose_environment_cannot_be_drawn_is_finished_without_a_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(self: toys.Count) -> None:
        raise gymnasium.error.DependencyNotInstalled("no pygame here")

    monkeypatch.setattr(toys.Count, "render", render)
    out = run(config(tmp_path, film=True))
    assert (out / "done.json").exists() and not (out / "film.gif").exists()


def test_every_step_is_learned_from_once_in_every_pass(tmp_path: Path) -> None:
    learner = objective(tmp_path)
    batches = [learner.batches(step)[0] for step in range(6)]
    for half in (batches[:3], batches[3:]):
        seen = torch.cat([batch.observations for batch in half])
        assert len(seen) == 60 and len(seen.unique(dim=0)) == 60
    assert not torch.equal(batches[0].observations, batches[3].observations)


def test_advantages_are_whitened_over_the_rollout_or_the_minibatch_or_not(tmp_path: Path) -> None:
    learned = played(objective(tmp_path)).advantages
    assert_close(learned.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(learned.std(unbiased=False), torch.tensor(1.0), atol=1e-4, rtol=0)
    plain = played(objective(tmp_path, normalize_advantages="none")).advantages
    assert_close((plain - plain.mean()) / plain.std(unbiased=False), learned, atol=1e-4, rtol=1e-4)
    by_minibatch = objective(tmp_path, normalize_advantages="minibatch")
    batch = by_minibatch.batches(0)[0]
    expected = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    assert_close(by_minibatch.terms(batch)["policy"].value, -expected.sum())


def test_reinforce_has_no_critic_and_learns_from_returns_to_go(tmp_path: Path) -> None:
    learner = objective(tmp_path, algorithm="reinforce", environment="trine-test/Cut-v0", rollout_steps=7, gamma=0.5)
    batch = played(learner)
    assert len(batch) == 18  # 6 of the 7 steps of each copy: the seventh begins an episode that may not end in time
    returns = {0.0: 2.75, 1.0: 3.5, 2.0: 3.0}
    assert batch.advantages.tolist() == [returns[float(seen)] for seen in batch.observations]
    assert "value" not in learner.terms(batch) and not learner.agent.has_critic


def test_the_gradient_of_reinforce_is_that_of_the_log_probability(tmp_path: Path) -> None:
    learner = objective(tmp_path, algorithm="reinforce", rollout_steps=24)
    batch = played(learner)
    learner.terms(batch)["policy"].value.backward()
    found, learner.agent.weights.grad = learner.agent.weights.grad, None
    outputs, _ = learner.agent.plain(batch.observations)
    log_probs = torch.log_softmax(outputs, 1).gather(1, batch.actions.unsqueeze(1)).squeeze(1)
    (-(batch.advantages * log_probs).sum()).backward()
    assert found is not None and learner.agent.weights.grad is not None
    assert_close(found, learner.agent.weights.grad, atol=1e-4, rtol=1e-4)


def test_a_truncated_episode_is_bootstrapped_unless_the_older_treatment_is_asked_for(tmp_path: Path) -> None:
    """The only difference is the value of observation 3, where the critic says anything but 0."""
    lessons = [
        played(objective(tmp_path, environment="trine-test/Cut-v0", truncation=how, normalize_advantages="none"))
        for how in ("bootstrap", "terminal")
    ]
    ended = played(objective(tmp_path, environment="trine-test/Ends-v0", normalize_advantages="none"))
    assert torch.equal(lessons[1].returns, ended.returns)
    assert not torch.allclose(lessons[0].returns, ended.returns)


def test_learning_raises_the_return(tmp_path: Path) -> None:
    """Walk gives most where the agent keeps near 0, which takes steps against its place."""
    for algorithm in ("reinforce", "actor_critic", "ppo"):
        changes = {"total_steps": 12_000, "environments": 8, "optimizer": {"learning_rate": 0.01}}
        out = run(config(tmp_path / algorithm, algorithm=algorithm, **changes))
        untrained = next(row["episode_return"] for row in rows(out) if "episode_return" in row)
        trained = json.loads((out / "done.json").read_text())["sampled"]["return_mean"]
        assert untrained < 0 and trained > 2, algorithm


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": "trine-test/Ends-v0", "algorithm": "reinforce"}, "has no time limit, and reinforce"),
        ({"algorithm": "reinforce", "rollout_steps": 5}, "rollout_steps=5 is less than the 12 steps"),
        ({"minibatches": 100}, "minibatches=100 is more than the 3 x 20 steps"),
        ({"total_steps": 50}, "total_steps=50 is less than one rollout of 3 x 20 steps"),
        ({"environment": "trine-test/Grid-v0"}, "only flat Box observations"),
        ({"environment": "trine-test/Nowhere-v0"}, "cannot be created"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_begins(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=words):
        run(config(tmp_path, **changes))


def test_what_belongs_to_ppo_is_refused_for_the_others() -> None:
    with pytest.raises(ValueError, match="actor_critic takes one unclipped update from a rollout: epochs=3"):
        ControlConfig(environment="CartPole-v1", algorithm="actor_critic", epochs=3)
    with pytest.raises(ValueError, match=r"gae_lambda=0.9: reinforce has no critic"):
        ControlConfig(environment="CartPole-v1", algorithm="reinforce", gae_lambda=0.9)
    with pytest.raises(ValueError, match=r"value_clip_range=0.2: reinforce has no critic"):
        ControlConfig(environment="CartPole-v1", algorithm="reinforce", value_clip_range=0.2)
    with pytest.raises(ValueError, match="control tasks are computed in fp32"):
        ControlConfig(environment="CartPole-v1", hardware={"precision": "bf16"})
    with pytest.raises(ValueError, match=r"optimizer.kind='muon'.*control tasks are trained by adamw"):
        ControlConfig(environment="CartPole-v1", optimizer={"kind": "muon"})


def test_each_algorithm_completes_the_defaults_and_names_its_folder() -> None:
    reinforce = ControlConfig(environment="ALE/Pong-v5", algorithm="reinforce", seed=3)
    assert (reinforce.rollout_steps, reinforce.clip_range, reinforce.gae_lambda) == (None, None, 1.0)
    assert str(reinforce.out) == "runs/control/ALE-Pong-v5-reinforce-3"
    critic = ControlConfig(environment="CartPole-v1", algorithm="actor_critic", optimizer={"clip_norm": 2.0})
    assert (critic.optimizer.clip_norm, critic.optimizer.learning_rate, critic.optimizer.kind) == (2.0, 1e-3, "adamw")


def test_checkpoints_are_written_between_iterations_as_often_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 4 updates, where an iteration has 6: at the first chance after each."""
    saved: list[int] = []
    monkeypatch.setattr("trine.training.loop.save_checkpoint", lambda folder, step, *more, **_: saved.append(step))
    run(config(tmp_path, total_steps=240, loop=LoopConfig(save_every=4)))
    assert saved == [6, 12, 18, 24]


def test_the_log_has_a_row_for_every_iteration(tmp_path: Path) -> None:
    out = run(config(tmp_path))
    logged = rows(out)
    assert [row["environment_steps"] for row in logged] == [60.0 * (i + 1) for i in range(10)]
    assert all(
        {"policy", "value", "entropy", "episodes", "used_share", "explained_variance"} <= row.keys() for row in logged
    )
    results = json.loads((out / "done.json").read_text())
    assert results["environment_steps"] == 600
    assert len(results["sampled"]["returns"]) == len(results["deterministic"]["returns"]) == 5
