"""16.5: per-token rewards are paid at their tokens; answers that a reward does not apply to are left out."""

import pytest
import torch
from torch import Tensor

from tests.stages.test_ppo import objective_of
from trine.algorithms.text_rewards import moved_to_tokens, token_rewards
from trine.rewards.function import FunctionReward, RewardFunction
from trine.rewards.mixture import WeightedPart, WeightedSum
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.scoring import Scorer


def learned_from(reward: RewardFunction, **changes: object) -> PpoObjective:
    """An objective whose first iteration was scored by `reward`; nothing is charged for KL."""
    objective = objective_of(kl={"coefficient": 0.0}, **changes)
    objective.scorer = Scorer(FunctionReward(reward, "f"), background=objective.config.reward_overlap > 0)
    objective.batches(0)
    return objective


def by_token(prompts: list[str], responses: list[str], token_ids: list[list[int]]) -> list[list[float]]:
    return [[float(token % 5) for token in ids] for ids in token_ids]


def in_all(prompts: list[str], responses: list[str], token_ids: list[list[int]]) -> list[float]:
    return [sum(each) for each in by_token(prompts, responses, token_ids)]


def test_moving_a_score_to_its_tokens_changes_no_sum() -> None:
    mask = torch.tensor([[True, True, True, False], [False, True, True, True], [False] * 4])
    tokens = torch.tensor([[1.0, 2.0, 4.0, 9.0], [9.0, 0.0, 5.0, 1.0], [9.0] * 4])
    moved = moved_to_tokens(tokens, mask)
    assert moved.sum(1).tolist() == [0.0, 0.0, 0.0]
    scores = torch.where(mask, tokens, 0.0).sum(1)
    assert torch.equal(token_rewards(scores, torch.zeros(3, 4), mask, 0.0) + moved, torch.where(mask, tokens, 0.0))


@pytest.mark.parametrize("overlap", [0, 2])
def test_a_per_token_reward_is_paid_at_its_tokens(overlap: int) -> None:
    """In a thread beside sampling as without; with lambda and gamma 1, returns are what is earned from there on."""
    objective = learned_from(by_token, gae_lambda=1.0, reward_overlap=overlap)
    seen = objective.experience
    expected = torch.zeros(seen.mask.shape)
    for row, rollout in enumerate(seen.rollouts):
        expected[row, : len(rollout.response_ids)] = torch.tensor([token % 5.0 for token in rollout.response_ids])
    torch.testing.assert_close(seen.rewards, expected)
    torch.testing.assert_close(seen.scores, expected.sum(1))
    following = expected.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(seen.returns[seen.mask], following[seen.mask])


def test_where_it_is_earned_matters() -> None:
    """The same sums at the last token give other advantages, and the same score."""
    early, late = learned_from(by_token).experience, learned_from(in_all).experience
    torch.testing.assert_close(early.scores, late.scores)
    torch.testing.assert_close(early.rewards.sum(1), late.rewards.sum(1))
    assert not torch.allclose(early.advantages, late.advantages)


def test_scaled_scores_scale_their_tokens() -> None:
    plain, scaled = learned_from(by_token), learned_from(by_token, score_scaling="scale")
    deviation = scaled.running.next_moments.deviation
    assert deviation != 1
    torch.testing.assert_close(scaled.experience.rewards, plain.experience.rewards / deviation)


def test_a_missing_end_is_paid_for_at_the_last_token_all_the_same() -> None:
    plain, priced = learned_from(by_token), learned_from(by_token, missing_eos_penalty=3.0)
    difference = priced.experience.rewards - plain.experience.rewards
    cut = torch.tensor([not rollout.ended for rollout in plain.experience.rollouts])
    assert 0 < int(cut.sum()) < len(cut)
    torch.testing.assert_close(difference.sum(1), torch.where(cut, -3.0, 0.0))
    assert int((difference != 0).sum()) == int(cut.sum())


def some(prompts: list[str], responses: list[str]) -> list[float | None]:
    return [
        None if len(prompt) % 2 else float(len(response)) for prompt, response in zip(prompts, responses, strict=True)
    ]


def gradient(objective: PpoObjective, rows: list[int]) -> list[Tensor]:
    loss = sum(term.weight * term.value for term in objective.terms(rows).values() if term.weight)
    parameters = list(objective.model.parameters())
    return [each for each in torch.autograd.grad(loss, parameters, allow_unused=True) if each is not None]


def test_an_answer_that_the_reward_does_not_apply_to_teaches_nothing() -> None:
    """Neither 0 nor NaN: its advantage is 0, others are whitened without it, and its value has nothing to learn."""
    objective = learned_from(some, entropy_weight=0.0)
    seen = objective.experience
    left_out = seen.scores.isnan()
    assert 0 < int(left_out.sum()) < len(left_out)
    assert objective.observed["score_applies"] == 1 - float(left_out.float().mean())
    assert seen.advantages.isfinite().all() and seen.returns[seen.mask].isfinite().all()
    assert seen.advantages[left_out].abs().max() == 0
    kept = seen.advantages[~left_out][seen.mask[~left_out]]
    assert abs(float(kept.mean())) < 1e-5
    row = int(left_out.nonzero()[0])
    assert all(float(each.abs().max()) < 1e-6 for each in gradient(objective, [row]))
    assert max(float(each.abs().max()) for each in gradient(objective, [int((~left_out).nonzero()[0])])) > 1e-4


def test_parts_are_asked_for_once_though_scored_beside_sampling() -> None:
    calls: list[int] = []

    def counted(prompts: list[str], responses: list[str]) -> list[float]:
        calls.append(len(responses))
        return [1.0 for _ in responses]

    objective = objective_of(reward_overlap=2)
    reward = WeightedSum([WeightedPart("counted", FunctionReward(counted, "counted"))])
    objective.reward, objective.scorer = reward, Scorer(reward, background=True)
    objective.batches(0)
    assert sum(calls) == 8 and objective.observed["part_counted"] == 1.0
