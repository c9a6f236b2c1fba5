"""Bugs that peers had in the arithmetic, the updates, the ranks and the resumption of RLHF: each of them a test here.

Each test's name is a row of the list of these bugs; other rows (rewards, ends of responses, samplers, the log) are
tested where those are.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.stages.test_ppo import QUESTIONS, LengthReward, assert_same_gradients, collected, gradients, objective_of
from tests.stages.test_turns import TURNS
from tests.tiny import (
    FAMILY_NAMES,
    random_tensor,
    rollout,
    scramble,
    tiny_chat,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
)
from trine.algorithms.masked import masked_mean, masked_whiten
from trine.algorithms.text_kl import kl_estimate
from trine.algorithms.text_rewards import token_rewards
from trine.config.loading import validated
from trine.config.rl import KlConfig, PpoConfig
from trine.model.heads import PolicyWithValue
from trine.model.lora import LoraSettings, add_lora
from trine.records import Answer, Message
from trine.runtime.errors import TrineError
from trine.stages.rl.experience import response_mask
from trine.stages.rl.ppo import PpoObjective, gae_of_responses
from trine.stages.rl.prompts import Prompt
from trine.tokenizer.text_format import TextFormat

NAN = float("nan")


class TextLength:
    """A reward that needs no ids."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([float(len(answer.response)) for answer in answers])


def still_objective(family: str, form: str, lora: bool, turns: bool, **changes: Any) -> PpoObjective:
    """The reference is the policy itself as it begins: with adapters its frozen base, without a copy."""
    settings: dict[str, Any] = {
        "out": Path("out"), "model": "model", "prompts": Path("prompts"), "reward": "package:function",
        "batch_size": 8, "minibatch_size": 4, "micro_batch_size": 2, "max_new_tokens": 6, "epochs": 2, "form": form,
        "temperature": 0.7, "kl": KlConfig(coefficient=0.1),
    }  # fmt: skip
    if turns:  # a random model seldom ends a turn by itself, but writes letters
        settings |= {"user": "tests.stages.talkers:curious", "stop_strings": tuple("aeinost ")}
    config = PpoConfig(**settings | changes)
    policy, reference = (tiny_model(tiny_config(family, vocab_size=320, context=256)) for _ in range(2))
    if lora:
        add_lora(policy, LoraSettings(rank=2, alpha=4.0), seed=0)
        reference = policy
    chat = TextFormat(tiny_tokenizer()) if form == "text" else tiny_chat()
    model = PolicyWithValue(policy)
    scramble(model.value_head, seed=5)
    return PpoObjective(model, reference, TextLength(), prompts_of(chat), chat, config)


def prompts_of(chat: Any) -> list[Prompt]:
    if isinstance(chat, TextFormat):
        return [Prompt(tuple(chat.query_ids(text)), query=text) for text in QUESTIONS]
    messages = [(Message("user", text),) for text in QUESTIONS]
    return [Prompt(tuple(chat.prompt_ids(each)), each) for each in messages]


@pytest.mark.parametrize(("form", "turns"), [("chat", False), ("chat", True), ("text", False)])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_ratio_is_one_and_kl_unchanged_at_learning_rate_0(family: str, lora: bool, form: str, turns: bool) -> None:
    """trl#454, trlx#107, OpenRLHF#217, verl#2088: exactly 1 in the first epoch's micro-batches, to 1e-4 in others; and
    the KL to what the policy is stays 0, iteration after iteration."""
    objective = still_objective(family, form, lora, turns)
    for iteration in range(2):
        first = iteration * objective.steps_per_iteration
        peaks = [
            [float(objective.terms(batch)["peak_log_ratio"].value) for batch in objective.batches(first + step)]
            for step in range(objective.steps_per_iteration)
        ]
        assert peaks[:2] == [[0.0, 0.0]] * 2
        assert max(max(each) for each in peaks) < 1e-4
        assert objective.observations()["kl"] == pytest.approx(0.0, abs=1e-5)
        assert turns == any(one.written is not None for one in objective.experience.rollouts)


@pytest.mark.parametrize("critic", ["shared", "apart"])
def test_old_log_probs_do_not_depend_on_the_micro_batch(critic: str) -> None:
    """verl#6280; values and the reference's neither."""
    found = [collected(objective_of(critic=critic, micro_batch_size=micro)).experience for micro in (4, 2, 1)]
    for name in ("old_log_probs", "old_values", "reference_log_probs", "advantages", "returns"):
        for other in found[1:]:
            assert_close(getattr(other, name), getattr(found[0], name), atol=1e-5, rtol=1e-5)


def test_temperature_is_on_every_side() -> None:
    """minimind, trl#3029, OpenRLHF#1319: sampler, old, new, reference and entropy, all at 0.6."""
    objective = collected(objective_of(temperature=0.6))
    experience, model = objective.experience, objective.model.policy
    padded = objective.pad(experience.rollouts)
    with torch.no_grad():
        hidden = model(padded.ids)[padded.rows, padded.columns]
        exact = (hidden @ model.output_weight.T / 0.6).log_softmax(-1)
        log_probs, entropy, _ = objective._forward(padded, "both")
    assert_close(log_probs, exact.gather(1, padded.targets[:, None]).squeeze(1), atol=1e-5, rtol=1e-5)
    assert_close(entropy, -(exact.exp() * exact).sum(1), atol=1e-5, rtol=1e-5)
    sampled = torch.cat([torch.tensor(one.log_probs) for one in experience.rollouts])
    assert_close(sampled, log_probs, atol=1e-5, rtol=1e-5)


def test_advantages_are_not_whitened_over_pads() -> None:
    """trlx: whiten(advantages) without a mask. The golden vector, and whatever stands in the padding."""
    mask = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1]).bool()
    golden = torch.tensor([-1.4639, -0.8783, 0, 0, -0.2928, 0.2928, 0.8783, 1.4639])
    for padding in (0.0, 1e6, NAN):
        values = torch.tensor([1, 2, padding, padding, 3, 4, 5, 6])
        assert_close(masked_whiten(values, mask), golden, atol=5e-5, rtol=0)


def test_critic_values_at_pads_do_not_leak_via_gae() -> None:
    """ROLL#447, verl#50: r=[0,1,0], V=[0,0,100], mask=[1,1,0], lambda .95 gives [.95,1,0], not [5.7,6,..]."""
    mask = torch.tensor([[True, True, False]])
    for padding in (100.0, NAN):
        values = torch.tensor([[0.0, 0.0, padding]])
        _, returns = gae_of_responses(torch.tensor([[0.0, 1, 0]]), values, mask, gamma=1.0, gae_lambda=0.95)
        assert_close(returns, torch.tensor([[0.95, 1.0, 0.0]]))


def test_critic_mask_is_not_off_by_one() -> None:
    """verl#1758, ROLL#3, ColossalAI#3623: V_t is of the state in which token t is sampled, as log pi_t is."""
    objective = collected(objective_of(critic="apart"))
    critic = objective.model.critic
    assert critic is not None
    for row, one in enumerate(objective.experience.rollouts):
        for place in range(len(one.response_ids)):  # each state alone: nothing that comes later is known
            with torch.no_grad():
                hidden = critic(torch.tensor([[*one.prompt_ids, *one.response_ids[:place]]]))[0, -1]
                value = float(objective.model.value_head(hidden))
            assert float(objective.experience.old_values[row, place]) == pytest.approx(value, abs=1e-4)


def test_gradients_are_no_mean_of_micro_means() -> None:
    """verl#5625, open-instruct#1161, TRL's masked_mean: lengths 1 and 3, A = +1, -1: .5, where micro-means give 0."""
    objective = objective_of(minibatch_size=8, micro_batch_size=8, epochs=1, entropy_weight=0.0)
    collected(objective)
    ragged = {len(one.response_ids) for one in objective.experience.rollouts}
    assert len(ragged) > 3
    whole = gradients(objective, [list(range(8))])
    for cut in ([[0], [1, 2, 3], [4, 5, 6, 7]], [[7, 0], [3], [1, 2, 5, 4], [6]]):
        assert_same_gradients(whole, gradients(objective, cut))
    tokens = [[1.0], [-1.0, -1.0, -1.0]]
    sums = sum(-sum(each) for each in tokens) / sum(map(len, tokens))
    assert sums == 0.5 != sum(-sum(each) / len(each) for each in tokens) / 2 == 0.0


@pytest.mark.parametrize("odd", [NAN, float("inf"), -float("inf")])
def test_nan_times_zero_is_not_nan(odd: float) -> None:
    """OpenRLHF#1240: what stands outside the mask reaches no advantage, no return and no gradient."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    log_ratios, values = random_tensor(2, 2, 3)
    spoiled = [torch.where(mask, each, odd) for each in (log_ratios, values)]
    plain, found = (
        gae_of_responses(token_rewards(torch.ones(2), ratios, mask, 0.1), critic, mask, gamma=1.0, gae_lambda=0.9)
        for ratios, critic in ((log_ratios, values), spoiled)
    )
    for ours, theirs in zip(found, plain, strict=True):
        assert torch.equal(ours, theirs)
    assert float(masked_mean(spoiled[0], mask)) == pytest.approx(float(log_ratios[mask].mean()))


def test_missing_engine_log_probs_are_not_zeros() -> None:
    """minimind filled in 0.0: as many log-probabilities as tokens, or an error."""
    one = rollout([1], [5, 6])
    with pytest.raises(ValueError, match="log-probabilities"):
        replace(one, log_probs=one.log_probs[:1])


class Undecided(LengthReward):
    """It does not apply to the last two responses."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        scores = super().score(answers)
        scores[-2:] = NAN
        return scores


def test_a_fully_masked_sample_counts_nowhere() -> None:
    """OpenRLHF#1239, verl#6362: not in the whitening, not in a count, not in a mean of the log, not in a gradient."""
    objective = objective_of(minibatch_size=8, micro_batch_size=8, epochs=1)
    objective.scorer.reward = Undecided()
    experience = collected(objective).experience
    scored = experience.learned
    assert not scored[-2:].any() and scored[:-2].any(1).all()
    advantages = experience.advantages[scored].double()
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-5)
    assert float(advantages.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    observed = objective.observations()
    assert observed["score"] == pytest.approx(float(experience.scores[:-2].mean()), rel=1e-5)
    assert_same_gradients(gradients(objective, [list(range(8))]), gradients(objective, [list(range(6))]))


def test_kl_of_tool_tokens_does_not_leak_into_returns() -> None:
    """slime#1372, trl#7024: masked before it is summed up, whatever the policies say of what others wrote."""
    other = rollout([2, 9], [30, 31, 32, 3])
    mask = response_mask([TURNS, other])
    log_ratios, values = random_tensor(2, *mask.shape)
    returns = []
    for odd in (0.0, 50.0, NAN):
        ratios = torch.where(mask, log_ratios, odd)
        rewards = token_rewards(torch.ones(2), ratios, mask, 0.5)
        assert not rewards[~mask].any()
        returns.append(gae_of_responses(rewards, values, mask, gamma=1.0, gae_lambda=1.0)[1])
    assert torch.equal(returns[0], returns[1]) and torch.equal(returns[0], returns[2])
    first = float(1 - 0.5 * log_ratios[0][mask[0]].sum())
    assert float(returns[0][0, 0]) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_wrong_direction_of_k3_is_told_apart(estimator: Any) -> None:
    """G8: for l = log pi - log ref = .5: k1 .5, k2 .125, k3 .106531; exp(l) - 1 - l would be .148721."""
    found = float(kl_estimate(torch.tensor(-1.0), torch.tensor(-1.5), estimator))
    assert found == pytest.approx({"k1": 0.5, "k2": 0.125, "k3": 0.106531}[estimator], abs=1e-6)


def test_uneven_responses_are_dropped_by_no_rank() -> None:
    """trlx#373, DS-Chat: every process has as many micro-batches, whatever was sampled and whatever has no score."""
    objective = objective_of(minibatch_size=4, micro_batch_size=1)
    objective.scorer.reward = Undecided()
    rollouts = collected(objective).experience.rollouts
    shares = []
    for rank in range(2):
        objective.world = replace(objective.world, rank=rank, size=2)
        shares.append(objective._epoch(0, 0, rollouts))
    assert [[len(batches) for batches in share] for share in shares] == [[2, 2], [2, 2]]
    for minibatch in range(2):
        rows = [row for share in shares for batch in share[minibatch] for row in batch]
        assert len(rows) == len(set(rows)) == 4


def test_a_renamed_setting_is_an_error_not_ignored() -> None:
    """Soup#741: init_kl_coef became kl_coef, and was ignored."""
    given = {"out": "out", "model": "model", "prompts": "prompts", "reward": "package:function"}
    for unknown in ({"init_kl_coef": 0.2}, {"kl": {"coef": 0.2}}):
        with pytest.raises(TrineError, match=r"coef"):
            validated(PpoConfig, given | unknown, "trine ppo")


def test_figures_of_updates_are_not_averaged_over_pads() -> None:
    """TRL 1.10's `.mean()`, trlx's approx_kl: ratio, clipping, KL and entropy with padding are those without."""
    plain, padded = collected(objective_of()), objective_of()
    pad = padded.pad
    padded.pad = lambda rollouts: replace(  # type: ignore[method-assign]
        pad(rollouts), ids=torch.nn.functional.pad(pad(rollouts).ids, (0, 11), value=9)
    )
    collected(padded)
    for objective in (plain, padded):
        with torch.no_grad():
            for parameter in objective.model.parameters():
                parameter.add_(0.02)
    ours, theirs = (each.terms(each.batches(1)[0]) for each in (padded, plain))
    for name, term in theirs.items():
        assert_close(ours[name].value, term.value, atol=1e-5, rtol=1e-4)


def test_the_logged_kl_is_the_one_that_is_charged() -> None:
    """trl#1180: the tensor that is logged is the tensor that is trained on."""
    objective = objective_of(gae_lambda=1.0, kl=KlConfig(coefficient=0.3))
    experience = collected(objective).experience
    charged = (experience.scores.sum() - experience.rewards.sum()) / 0.3 / len(experience.scores)
    assert objective.observations()["kl"] == pytest.approx(float(charged), rel=1e-4)
