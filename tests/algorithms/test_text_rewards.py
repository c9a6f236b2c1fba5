"""Where the reward of a response goes, by hand."""

import torch
from torch.testing import assert_close

from trine.algorithms.text_rewards import last_step, token_rewards

NAN = float("nan")


def test_last_step_is_the_last_acted_one_and_minus_one_without_any() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert last_step(mask).tolist() == [1, 2, -1, 3]


def test_the_score_lies_on_the_last_response_token_and_kl_on_every_one() -> None:
    """An ended response's last token is its end token; a cut one's is simply its last."""
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    log_ratios = torch.tensor([[0.5, -1.0, NAN], [0.0, 2.0, 1.0]])
    rewards = token_rewards(torch.tensor([3.0, -2.0]), log_ratios, mask, 0.1)
    assert_close(rewards, torch.tensor([[-0.05, 3.1, 0.0], [0.0, -0.2, -2.1]]))


def test_interior_masked_tokens_have_neither_reward_nor_kl() -> None:
    rewards = token_rewards(
        torch.tensor([1.0]), torch.tensor([[1.0, NAN, 1.0, NAN]]), torch.tensor([[1, 0, 1, 0]]).bool(), 0.5
    )
    assert_close(rewards, torch.tensor([[-0.5, 0.0, 0.5, 0.0]]))


def test_a_response_without_tokens_gets_no_reward_and_disturbs_no_other() -> None:
    mask = torch.tensor([[0, 0], [1, 0]]).bool()
    rewards = token_rewards(torch.tensor([NAN, 2.0]), torch.zeros(2, 2), mask, 0.1)
    assert_close(rewards, torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
