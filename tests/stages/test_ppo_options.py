"""What may be asked of PPO besides the plain form, and that each asks for what it says."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from tests.conftest import PLAIN_CPU
from tests.stages import test_ppo_noticed
from tests.stages.test_accepted import rows_of
from tests.stages.test_ppo import QUESTIONS, LengthReward, assert_same_gradients, collected, gradients, objective_of
from tests.stages.test_ppo_noticed import iterations, moved, trained
from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.text_importance import truncation
from trine.catalog.loading import open_hardware, open_score_model
from trine.config.base import LoopConfig, OptimizerConfig
from trine.config.rl import PpoConfig
from trine.engine.engine import Engine
from trine.model.heads import PolicyWithValue
from trine.records import Answer
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.rl.phases import PHASES, PREFIX
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.shaping import ScoreMoments, paid_scores
from trine.training.stage_run import TrainedApart

start = test_ppo_noticed.start


# The critic


def test_the_critics_returns_may_have_a_lambda_of_their_own() -> None:
    """VAPO: the critic learns undiscounted sums, whatever the advantages look ahead."""
    plain = collected(objective_of(gae_lambda=0.5)).experience
    apart = collected(objective_of(gae_lambda=0.5, return_lambda=1.0)).experience
    assert torch.equal(apart.advantages, plain.advantages)
    sums = apart.rewards.flip(1).cumsum(1).flip(1)
    assert_close(apart.returns, torch.where(apart.mask, sums, 0.0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain.returns, apart.returns, atol=1e-2)


def test_what_is_explained_is_what_responses_earn_not_the_critics_own_values() -> None:
    """Returns of a small lambda are mostly the critic's own guesses, so that it explains them whatever it knows."""
    objective = objective_of(gae_lambda=0.0)
    objective.batches(0)
    experience, found = objective.experience, objective.observations()
    earned = generalized_advantages(
        experience.rewards, experience.old_values, experience.mask, gamma=1.0, gae_lambda=1.0
    )[1][experience.mask].double()
    left = earned - experience.old_values[experience.mask].double()
    expected = 1 - float(left.var(unbiased=False) / earned.var(unbiased=False))
    assert found["explained_variance_of_earnings"] == pytest.approx(expected, rel=1e-4)
    assert found["explained_variance"] > expected + 0.05


@pytest.mark.parametrize(("explained", "updated_from"), [(None, 3), (-9.0, 1), (1.0, 3)])
def test_the_policy_is_updated_from_the_iteration_in_which_the_critic_knows_enough(
    explained: float | None, updated_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never from the first, whose responses a value head may be fitted to; at the latest after critic_warmup."""
    objective = own_critic_objective(critic_warmup=3, critic_training={"explained_variance": explained and 0.5})
    monkeypatch.setattr(
        "trine.stages.rl.rollout_objective.explained_variance", lambda *a: 0.5 if explained == -9 else 0.0
    )
    updated = []
    for iteration in range(5):
        batches = objective.batches(iteration * objective.steps_per_iteration)
        updated.append("policy" in objective.terms(batches[0]))
        objective.observations()
    assert updated == [iteration >= updated_from for iteration in range(5)]
    again = own_critic_objective(critic_warmup=3, critic_training={"explained_variance": explained and 0.5})
    again.restore(objective.state())
    assert not again.running.warming_up


def own_critic_objective(**changes: Any) -> PpoObjective:
    """A critic of its own in config and model alike."""
    objective = objective_of(critic="apart")
    config = PpoConfig(**objective.config.model_dump(exclude={"critic"}) | {"critic": "policy"} | changes)
    return PpoObjective(
        objective.model, objective.reference, objective.reward, objective.sampler.prompts, objective.chat, config
    )


def test_a_critic_may_take_more_passes_than_the_policy() -> None:
    """Steps of the passes that the policy does not take leave it out, and run the critic alone."""
    objective = own_critic_objective(epochs=1, critic_training={"epochs": 3})
    assert objective.steps_per_iteration == 6
    names = [set(objective.terms(objective.batches(step)[0])) for step in range(6)]
    assert {"policy", "value"} < names[0] and {"policy", "value"} < names[1]
    assert names[2:] == [{"value"}] * 4
    found = [objective.batches(step) for step in range(2, 6)]
    assert sorted(row for step in found[:2] for batch in step for row in batch) == list(range(8))
    fewer = own_critic_objective(epochs=2, critic_training={"epochs": 1})
    assert ["value" in fewer.terms(fewer.batches(step)[0]) for step in range(4)] == [True, True, False, False]


def test_the_critics_gradient_is_the_same_with_and_without_the_policy() -> None:
    """A pass of the critic alone gives it what a pass of both gives."""
    objective = collected(own_critic_objective(critic_training={"epochs": 3}))
    both = gradients(objective, objective.batches(1))
    objective.running.stopped = True
    batches = objective.batches(1)
    objective.model.zero_grad()
    tokens = sum(objective.counts(batch)["value"] for batch in batches)
    for batch in batches:
        term = objective.terms(batch)["value"]
        (term.weight * term.value / tokens).backward()
    alone = {
        name: parameter.grad for name, parameter in objective.model.named_parameters() if parameter.grad is not None
    }
    assert alone.keys() == {name for name in both if name.startswith(("critic.", "value_head."))}
    assert_same_gradients({name: both[name] for name in alone}, alone)  # type: ignore[arg-type]


def test_a_critic_learns_by_an_optimizer_of_its_own(start: Path, tmp_path: Path) -> None:
    """A learning rate too small to move it leaves the policy's alone; a schedule of its own is no other's."""
    still = trained(start, tmp_path / "still", iterations=1, critic_training={"learning_rate": 1e-12})
    plain = trained(start, tmp_path / "plain", iterations=1)
    weights = set(moved(still / "critic", start)) - {"score.weight"}
    assert len(moved(still / "critic", start)) <= len(moved(plain / "critic", start))
    assert moved(still / "policy", start) == moved(plain / "policy", start) != set()
    assert "transformer.h.0.mlp.c_fc.weight" not in weights or _largest_step(still, start) < 1e-9 < _largest_step(
        plain, start
    )


def _largest_step(run: Path, start: Path) -> float:
    name = "transformer.h.0.mlp.c_fc.weight"
    before, after = (load_file(each / "model.safetensors")[name] for each in (start, run / "critic"))
    return float((before - after).abs().max())


def test_the_critics_schedule_takes_what_is_not_given_from_the_policys() -> None:
    policy = OptimizerConfig(learning_rate=1e-3, decay="linear", warmup_steps=7, beta2=0.9)
    config = own_critic_objective(critic_training={"learning_rate": 1e-2, "decay": "constant"}).config
    found = config.critic_training.optimizer(policy)
    assert found is not None
    assert (found.learning_rate, found.decay, found.warmup_steps, found.beta2) == (1e-2, "constant", 7, 0.9)
    assert own_critic_objective(critic_training={"epochs": 2}).config.critic_training.optimizer(policy) is None
    assert TrainedApart(("critic.", "value_head."), found, objective_of().model.policy.config).holds(
        "critic.norm.weight"
    )


def test_a_critic_begins_as_one_that_a_run_wrote(start: Path, tmp_path: Path) -> None:
    """Trunk, head and offset: its values are those that the earlier run ended with."""
    first = trained(start, tmp_path / "first", iterations=2, critic_warmup=2)
    rows = iterations(
        trained(start, tmp_path / "next", iterations=1, critic="shared", critic_model=str(first / "critic"))
    )
    begun = open_score_model(first / "critic", open_hardware(PLAIN_CPU))[0]
    begun.offset = 0.25
    model = PolicyWithValue(begun.trunk, begun.trunk)
    model.value_head, model.value_offset = begun.head, begun.offset
    ids, places = torch.tensor([[5, 6, 7]]), torch.tensor([0, 0])
    expected = begun(ids, torch.tensor([[0, 1]]))[0]
    assert_close(model(ids, places, torch.tensor([0, 1]))[1], expected)
    assert rows[0]["explained_variance"] > -1


# Scores and penalties


def test_scores_are_scaled_by_all_that_were_seen_and_then_clipped() -> None:
    first, second = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([10.0, float("nan"), -2.0])
    moments = ScoreMoments().taking_in(first).taking_in(second)
    seen = torch.tensor([1.0, 2.0, 3.0, 6.0, 10.0, -2.0]).double()
    assert moments.mean == pytest.approx(float(seen.mean()))
    assert moments.deviation == pytest.approx(float(seen.std(unbiased=False)))
    assert moments.unit == pytest.approx(float(first.double().std(unbiased=False)))
    rollouts = collected(objective_of()).experience.rollouts[:3]
    ended = [one for one in collected(objective_of()).experience.rollouts if one.ended][:1] * 3
    for scaling, shift in (("scale", 0.0), ("normalize", float(seen.mean()))):
        config = objective_of(score_scaling=scaling, score_clip=1.0).config
        found = paid_scores(second, ended, moments, config)
        expected = ((second - shift) / moments.deviation).clamp(-1, 1)
        assert_close(found, expected, equal_nan=True)
    assert len(rollouts) == 3


@pytest.mark.parametrize(("scaling", "factor"), [("none", 2.0), ("scale", 1.0)])
def test_a_penalty_in_deviations_is_one_of_fresh_samples(scaling: str, factor: float) -> None:
    """Of the first iteration's scores, for ever; scaled scores count in deviations already."""
    config = objective_of(missing_eos_penalty=1.5, penalty_unit="deviation", score_scaling=scaling).config
    moments = ScoreMoments().taking_in(torch.tensor([-2.0, 2.0])).taking_in(torch.tensor([-30.0, 30.0]))
    rollouts = [one for one in collected(objective_of()).experience.rollouts if not one.ended][:1]
    score = torch.tensor([0.0])
    assert float(paid_scores(score, rollouts, moments, config)) == pytest.approx(-1.5 * factor)


class Undecided(LengthReward):
    """It does not apply to some responses."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        scores = super().score(answers)
        scores[[1, 4]] = float("nan")
        return scores


def test_a_response_without_a_score_is_learned_from_by_no_update() -> None:
    """Not its tokens, not its count; the others' gradients are as if its row had been left out."""
    objective = objective_of(minibatch_size=8, micro_batch_size=8, epochs=1)
    objective.scorer.reward = Undecided()
    collected(objective)
    experience, scored = objective.experience, [0, 2, 3, 5, 6, 7]
    assert not experience.advantages[[1, 4]].any()
    assert objective.counts(list(range(8))) == objective.counts(scored)
    assert_same_gradients(gradients(objective, [list(range(8))]), gradients(objective, [scored]))
    assert gradients(objective, [[0, 2], [1], [3, 4, 5, 6, 7]]).keys()
    assert math.isfinite(objective.observations()["score"])


def test_a_reward_that_applies_to_nothing_is_refused() -> None:
    class Never(LengthReward):
        def score(self, answers: Sequence[Answer]) -> Tensor:
            return super().score(answers) * float("nan")

    objective = objective_of()
    objective.scorer.reward = Never()
    with pytest.raises(TrineError, match="applies to none"):
        objective.batches(0)


# Updates


def test_updates_stop_once_the_policy_has_moved_too_far(tmp_path: Path) -> None:
    """The update that finds it is taken; the rest of the iteration's are skipped, and counted."""
    rows = rows_of(objective_of(early_stop_kl=1e-9, epochs=3), tmp_path / "run", 12)
    for iteration in (0, 1):
        steps = rows[iteration * 6 : iteration * 6 + 6]
        assert ["policy" in row for row in steps] == [True, True, False, False, False, False]
        assert [row.get("updates_skipped") for row in steps] == [None, None, 1.0, 2.0, 3.0, 4.0]
        assert steps[1]["approximate_kl"] > 1e-9


def test_a_critic_of_its_own_goes_on_where_the_policy_stops() -> None:
    objective = collected(own_critic_objective(early_stop_kl=1e-9))
    objective.note({"approximate_kl": 1.0, "gradient_seconds": 0.0})
    assert set(objective.terms(objective.batches(1)[0])) == {"value"}
    objective.batches(4)
    assert "policy" in objective.terms(objective.batches(5)[0])


def test_the_engines_log_probs_may_be_the_old_ones() -> None:
    objective = collected(objective_of(old_log_probs="engine"))
    experience = objective.experience
    for row, rollout in enumerate(experience.rollouts):
        assert experience.old_log_probs[row][experience.mask[row]].tolist() == pytest.approx(rollout.log_probs)
    assert 0.0 < max(float(objective.terms(batch)["peak_log_ratio"].value) for batch in objective.batches(0)) < 1e-4
    assert torch.equal(experience.old_values, collected(objective_of()).experience.old_values)


def test_a_ratio_to_the_engine_counts_at_most_the_cap() -> None:
    log_probs = torch.tensor([0.0, math.log(4.0), math.log(0.5)], requires_grad=True)
    weights = truncation(log_probs, torch.zeros(3), 2.0)
    assert_close(weights, torch.tensor([1.0, 0.5, 1.0]))
    assert not weights.requires_grad


def test_corrected_losses_are_weighted_by_the_trainers_probability_over_the_engines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine that finds every token half as likely as the trainer does: each weighs 2; a third: the cap."""
    generate = Engine.generate
    plain = collected(objective_of(entropy_weight=0.0))
    for factor, weight in ((2.0, 2.0), (3.0, 2.5)):

        def other(self: Engine, *args: Any, factor: float = factor, **settings: Any) -> Any:
            return [
                replace(one, log_probs=tuple(each - math.log(factor) for each in one.log_probs))
                for one in generate(self, *args, **settings)
            ]

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "generate", other)
            objective = collected(objective_of(entropy_weight=0.0, old_log_probs="corrected", importance_cap=2.5))
        found, expected = (float(each.terms(each.batches(1)[0])["policy"].value) for each in (objective, plain))
        assert found == pytest.approx(weight * expected, rel=1e-3)


def test_recomputed_blocks_change_no_gradient_and_keep_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """trl#1066: the flag works in every mode."""
    plain, recomputed = collected(objective_of()), collected(objective_of())
    recomputed.model.policy.recompute_blocks = True
    recomputed.model.eval()
    kept: dict[str, int] = {}
    for name, objective in (("plain", plain), ("recomputed", recomputed)):
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            objective.terms(objective.batches(1)[0])
        kept[name] = sum(sizes)
    assert kept["recomputed"] < 0.5 * kept["plain"]
    assert_same_gradients(gradients(plain, plain.batches(1)), gradients(recomputed, recomputed.batches(1)))


# Groups, and what runs beside what


def test_several_samples_of_a_prompt_are_a_group() -> None:
    objective = collected(objective_of(samples_per_prompt=4))
    rollouts = objective.experience.rollouts
    assert [(one.prompt_index, one.sample) for one in rollouts] == [(group, n) for group in (0, 1) for n in range(4)]
    for group in (rollouts[:4], rollouts[4:]):
        assert len({one.prompt_ids for one in group}) == 1
        assert len({one.response_ids for one in group}) > 1
    assert [answer.prompt_index for answer in objective.experience.answers] == [0] * 4 + [1] * 4
    first = {one.prompt_ids for one in rollouts}
    objective.batches(objective.steps_per_iteration)
    assert not first & {one.prompt_ids for one in objective.experience.rollouts}
    assert len(QUESTIONS) == 8


class Slow(LengthReward):
    """Notes when it is asked, and by which thread."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.sizes: list[int] = []

    def score(self, answers: Sequence[Answer]) -> Tensor:
        self.threads.append(threading.current_thread().name)
        self.sizes.append(len(answers))
        time.sleep(0.05)
        return super().score(answers)


def test_a_slow_reward_is_asked_while_the_rest_is_sampled() -> None:
    """In parts, in order, by one thread; what is learned is the same to the last bit."""
    plain = collected(objective_of()).experience
    for parts in (1, 3):
        objective = objective_of(reward_overlap=parts)
        objective.scorer.reward = reward = Slow()
        experience = collected(objective).experience
        assert sum(reward.sizes) == 8 and len(reward.sizes) == parts
        assert all(name.startswith("trine reward") for name in reward.threads)
        assert [one.response_ids for one in experience.rollouts] == [one.response_ids for one in plain.rollouts]
        assert torch.equal(experience.advantages, plain.advantages)


def test_what_a_reward_raises_in_its_thread_is_raised_by_the_iteration() -> None:
    class Broken(LengthReward):
        def score(self, answers: Sequence[Answer]) -> Tensor:
            raise TrineError("out of order")

    objective = objective_of(reward_overlap=2)
    objective.scorer.reward = Broken()
    with pytest.raises(TrineError, match="out of order"):
        objective.batches(0)


def test_every_iteration_says_where_its_time_went(tmp_path: Path) -> None:
    rows = rows_of(objective_of(), tmp_path / "run", 4)
    assert {f"{PREFIX}{phase}" for phase in PHASES} <= rows[0].keys()
    assert f"{PREFIX}sampling" not in rows[1]
    for row in rows:
        assert 0 < sum(value for name, value in row.items() if name.startswith(PREFIX)) <= row["seconds"]


# The best policy


def test_the_best_policy_within_a_bound_of_kl_is_kept(start: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "iterations": 4, "held_out": start / "prompts.jsonl", "keep_best": True,
        "loop": LoopConfig(save_every=0, evaluate_every=4), "optimizer": {"learning_rate": 3e-3},
    }  # fmt: skip
    run = trained(start, tmp_path / "free", **settings)
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "held_out/score" in row]
    assert len(rows) == 4
    best = max(rows, key=lambda row: row["held_out/score"])
    record = read_json(run / "best.json")
    assert (record["step"], record["score"]) == (best["step"], best["held_out/score"])
    assert moved(run / "best", start)
    within = sorted(row["held_out/kl"] for row in rows)[1]
    bounded = trained(start, tmp_path / "bounded", **settings, best_max_kl=within)
    allowed = [row for row in rows if row["held_out/kl"] <= within]
    assert read_json(bounded / "best.json")["step"] == max(allowed, key=lambda row: row["held_out/score"])["step"]
