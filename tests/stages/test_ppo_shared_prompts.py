"""Responses to one prompt behind that prompt, once: the same numbers and gradients as in rows of their own, for fewer
tokens; and bits that do not depend on which of a group are read together.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.stages.test_ppo import (
    BUDGET,
    END,
    QUESTIONS,
    VOCABULARY,
    LengthReward,
    assert_same_gradients,
    collected,
    disturb,
    gradients,
    peak_log_ratios,
)
from tests.tiny import make_likely, rollout, scramble, tiny_chat, tiny_model
from trine.config.rl import PpoConfig
from trine.model.config import gpt2_config, qwen3_config
from trine.model.heads import PolicyWithValue
from trine.model.transformer import Transformer
from trine.records import Message, Rollout
from trine.stages.rl.experience import pad_rollouts
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.prompts import Prompt

CPU = torch.device("cpu")
SHAPES = {"gpt2": gpt2_config, "qwen3": qwen3_config}


def policy_of(family: str = "gpt2", dtype: torch.dtype = torch.float32, seed: int = 0) -> Transformer:
    model = tiny_model(SHAPES[family](VOCABULARY, 64, 2, width=32, heads=1), seed, dtype)
    if family == "gpt2":
        make_likely(model, END, 2.0)
    if not model.can_share_prompts:
        pytest.skip("prompts are shared by the C++ of attention, which is not there")
    return model


def objective_of(family: str = "gpt2", dtype: torch.dtype = torch.float32, **changes: Any) -> PpoObjective:
    """Two groups of four; minibatches of four, of both."""
    settings: dict[str, Any] = {
        "out": "out", "model": "model", "prompts": "prompts", "reward": "package:function", "batch_size": 8,
        "minibatch_size": 4, "micro_batch_size": 4, "max_new_tokens": BUDGET, "samples_per_prompt": 4,
        "advantage": "group",
    }  # fmt: skip
    config = PpoConfig(**settings | changes)
    model = PolicyWithValue(policy_of(family, dtype), valued=config.advantage == "gae")
    if config.advantage == "gae":
        scramble(model.value_head, seed=5)
    chat = tiny_chat()
    questions = [(Message("user", question),) for question in QUESTIONS]
    prompts = [Prompt(tuple(chat.prompt_ids(messages)), messages) for messages in questions]
    reference = policy_of(family, dtype, seed=1).requires_grad_(False)
    return PpoObjective(model, reference, LengthReward(), prompts, chat, config)


def apart(**changes: Any) -> PpoObjective:
    """The same without sharing."""
    objective = objective_of(**changes)
    objective.shares_prompts = False
    return objective


GROUPS: Sequence[Rollout] = (
    rollout([2, 9, 4], [20, 21, END]),
    rollout([7], [30]),
    rollout([2, 9, 4], [22] * 6),
    rollout([7], [31, END]),
    rollout([2, 9, 4], [END]),
)


@pytest.mark.parametrize("family", SHAPES)
def test_every_response_token_has_the_log_probability_that_it_has_in_a_row_of_its_own(family: str) -> None:
    model = policy_of(family)
    alone, behind = (pad_rollouts(GROUPS, 1, CPU, share_prompts=shared) for shared in (False, True))
    assert alone.ids.shape == (5, 9) and behind.ids.shape == (2, 13)
    assert behind.targets.tolist() == alone.targets.tolist() and behind.owners.tolist() == alone.owners.tolist()
    first, second = (model(each.ids, **each.seen)[each.rows, each.columns] for each in (alone, behind))
    assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_only_what_the_policy_wrote_is_predicted() -> None:
    turns = Rollout((2, 9), (20, 5, 6, 21), (0.0,) * 4, "length", written=(True, False, False, True))
    padded = pad_rollouts([turns, rollout([2, 9], [30])], 1, CPU, share_prompts=True)
    assert padded.ids.tolist() == [[2, 9, 20, 5, 6, 21, 30]]
    assert padded.targets.tolist() == [20, 21, 30] and padded.columns.tolist() == [1, 4, 1]


@pytest.mark.parametrize("changes", [{}, {"advantage": "gae"}], ids=["group", "gae"])
def test_experience_and_gradients_are_those_of_rows_apart(changes: dict[str, Any]) -> None:
    shared, plain = collected(objective_of(**changes)), collected(apart(**changes))
    for name in ("old_log_probs", "reference_log_probs", "old_values", "advantages"):
        assert_close(getattr(shared.experience, name), getattr(plain.experience, name), atol=1e-5, rtol=1e-5)
    disturb(shared)
    disturb(plain)
    rows = [list(range(8))]
    assert_same_gradients(gradients(shared, rows), gradients(plain, rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", SHAPES)
def test_before_an_update_the_ratio_is_exactly_one_however_groups_are_divided(family: str, dtype: torch.dtype) -> None:
    objective = objective_of(family, dtype, epochs=3)
    read = {tuple(row) for step in range(6) for row in objective.batches(step)}
    assert len(read) > 2, "other responses side by side in other epochs"
    assert set(peak_log_ratios(objective, steps=range(2))) == {0.0}


def test_responses_to_one_prompt_are_read_together() -> None:
    objective = collected(objective_of(minibatch_size=8, micro_batch_size=4))
    rollouts = objective.experience.rollouts
    for batch in objective.batches(0):
        assert len({rollouts[row].prompt_ids for row in batch}) == 1
        assert len(objective.pad([rollouts[row] for row in batch]).ids) == 1


def test_a_response_to_each_prompt_shares_nothing() -> None:
    assert not objective_of(samples_per_prompt=1, advantage="gae").shares_prompts
