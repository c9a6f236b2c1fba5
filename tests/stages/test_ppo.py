"""What the PPO objective promises: ratios of 1, gradients that do not depend on grouping or padding, honest KL."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import make_likely, random_tensor, scramble, tiny_chat, tiny_config, tiny_model
from trine.algorithms.text_log_probs import token_log_probs
from trine.algorithms.text_regression import ridge_regression
from trine.algorithms.text_rewards import token_rewards
from trine.config.rl import KlConfig, PpoConfig
from trine.model.heads import PolicyWithValue
from trine.model.transformer import Transformer
from trine.records import Answer, Message, Rollout
from trine.stages.rl.experience import PaddedRollouts, final_scores, response_mask
from trine.stages.rl.ppo import PpoObjective
from trine.stages.rl.prompts import Prompt, choose_prompts

END, BUDGET, VOCABULARY = 3, 8, 320
QUESTIONS = (
    "What is the number?",
    "Add.",
    "The cat sat on the mat, and?",
    "def f(x):",
    "it's",
    "Why?",
    "a b c",
    "next",
)


class LengthReward:
    """A score of one's own for every response, that reads token ids."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([0.1 * len(one.response_ids) + 0.01 * (one.response_ids[0] % 7) for one in answers])


def policy_of(family: str, dtype: torch.dtype, seed: int = 0) -> Transformer:
    """GPT-2 shapes end about every second response within the budget."""
    config = tiny_config(family, vocab_size=VOCABULARY, context=64)
    model = tiny_model(config, seed, dtype)
    if family == "gpt2":
        make_likely(model, END, 2.0)
    return model


def objective_of(
    family: str = "gpt2", dtype: torch.dtype = torch.float32, critic: str = "shared", **changes: Any
) -> PpoObjective:
    settings = {
        "out": "out", "model": "model", "prompts": "prompts", "reward": "package:function", "batch_size": 8,
        "minibatch_size": 4, "micro_batch_size": 2, "max_new_tokens": BUDGET, "entropy_weight": 0.01,
    }  # fmt: skip
    config = PpoConfig(**settings | changes)
    policy = policy_of(family, dtype)
    model = PolicyWithValue(policy, None if critic == "shared" else policy_of(family, dtype, seed=2))
    scramble(model.value_head, seed=5)
    chat = tiny_chat()
    questions = [(Message("user", question),) for question in QUESTIONS]
    prompts = [Prompt(tuple(chat.prompt_ids(messages)), messages) for messages in questions]
    reference = policy_of(family, dtype, seed=1).requires_grad_(False)
    return PpoObjective(model, reference, LengthReward(), prompts, chat, config)


def collected(objective: PpoObjective) -> PpoObjective:
    objective.batches(0)
    return objective


def gradients(objective: PpoObjective, batches: Sequence[list[int]]) -> dict[str, Tensor]:
    """As the training loop does it: every term over its own count in the whole step."""
    objective.model.zero_grad()
    totals: dict[str, float] = {}
    for batch in batches:
        for name, count in objective.counts(batch).items():
            totals[name] = totals.get(name, 0.0) + count
    for batch in batches:
        terms = objective.terms(batch)
        sum(term.weight * term.value / totals[name] for name, term in terms.items() if term.weight).backward()
    parameters = objective.model.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in parameters if parameter.grad is not None}


def assert_same_gradients(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Relative 1e-5 of the whole gradient, fp32."""
    flat, other = (torch.cat([tensor.flatten() for tensor in one.values()]).double() for one in (first, second))
    assert flat.norm() > 1e-3
    assert float((flat - other).norm() / flat.norm()) < 1e-5


def peak_log_ratios(objective: PpoObjective, steps: Sequence[int]) -> list[float]:
    return [
        float(objective.terms(batch)["peak_log_ratio"].value) for step in steps for batch in objective.batches(step)
    ]


def disturb(objective: PpoObjective) -> None:
    """An update, as far as the objective can tell."""
    with torch.no_grad():
        for index, parameter in enumerate(objective.model.parameters()):
            parameter.add_(random_tensor(*parameter.shape, seed=index), alpha=0.02)


# Ratios


@pytest.mark.parametrize("critic", ["shared", "apart"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_the_ratio_is_exactly_one_throughout_the_first_epoch_before_any_update(
    family: str, dtype: torch.dtype, temperature: float, critic: str
) -> None:
    objective = objective_of(family, dtype, critic, temperature=temperature)
    assert peak_log_ratios(objective, steps=[0, 1]) == [0.0] * 4
    terms = objective.terms(objective.batches(1)[0])
    assert terms["clip_fraction"].value == terms["approximate_kl"].value == 0


@pytest.mark.parametrize("micro", [1, 2, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_without_updates_the_ratio_stays_one_in_later_epochs(micro: int, temperature: float) -> None:
    objective = objective_of(micro_batch_size=micro, temperature=temperature, epochs=3)
    assert max(peak_log_ratios(objective, steps=range(6))) < 1e-5


def test_after_an_update_the_ratio_is_not_one() -> None:
    objective = collected(objective_of())
    disturb(objective)
    assert min(peak_log_ratios(objective, steps=[1])) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_the_engines_log_probs_are_the_trainers(family: str) -> None:
    objective = objective_of(family, temperature=0.6)
    objective.batches(0)
    assert objective.observations()["engine_difference"] < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_old_and_reference_log_probs_are_taken_at_the_sampling_temperature(temperature: float) -> None:
    objective = collected(objective_of(temperature=temperature))
    experience = objective.experience
    for row, one in enumerate(experience.rollouts):
        ids, start = torch.tensor([one.prompt_ids + one.response_ids]), len(one.prompt_ids) - 1
        for model, table in (
            (objective.model.policy, experience.old_log_probs),
            (objective.reference, experience.reference_log_probs),
        ):
            plain = (model(ids)[0, start:-1] @ model.output_weight.T / temperature).log_softmax(-1)
            expected = plain.gather(1, ids[0, start + 1 :, None]).squeeze(1)
            assert_close(table[row][experience.mask[row]], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_value_is_that_of_the_state_before_its_token() -> None:
    objective = collected(objective_of())
    experience = objective.experience
    for row, one in enumerate(experience.rollouts):
        hidden = objective.model.policy(torch.tensor([one.prompt_ids + one.response_ids]))[0]
        expected = objective.model.value_head(hidden[len(one.prompt_ids) - 1 : -1])
        assert_close(experience.old_values[row][experience.mask[row]], expected, atol=1e-5, rtol=1e-5)


# Gradients


@pytest.mark.parametrize("critic", ["shared", "apart"])
@pytest.mark.parametrize("in_loss", ["none", "k3"])
@pytest.mark.parametrize("updated", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_gradients_do_not_depend_on_the_micro_batch(family: str, critic: str, in_loss: str, updated: bool) -> None:
    results = []
    for micro in (4, 2, 1):
        kl = KlConfig(coefficient=0.2, in_loss=in_loss)
        objective = collected(objective_of(family, critic=critic, micro_batch_size=micro, kl=kl))
        if updated:
            disturb(objective)
        results.append(gradients(objective, objective.batches(1)))
    for other in results[1:]:
        assert_same_gradients(results[0], other)


def test_gradients_weigh_tokens_alike_in_short_and_long_responses() -> None:
    """Eight micro-batches of one ragged response give what one batch of all gives."""
    one, many = (collected(objective_of(minibatch_size=8, micro_batch_size=micro, epochs=1)) for micro in (8, 1))
    lengths = {len(rollout.response_ids) for rollout in one.experience.rollouts}
    assert len(lengths) > 3
    assert_same_gradients(gradients(one, [list(range(8))]), gradients(many, [[row] for row in range(8)]))


def test_extra_padding_changes_neither_gradients_nor_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = collected(objective_of())
    padded = objective_of()
    pad = padded.pad

    def wider(rollouts: Sequence[Rollout]) -> PaddedRollouts:
        narrow = pad(rollouts)
        return replace(narrow, ids=torch.nn.functional.pad(narrow.ids, (0, 9), value=77))

    monkeypatch.setattr(padded, "pad", wider)
    collected(padded)
    for name in ("old_log_probs", "old_values", "reference_log_probs", "advantages", "returns"):
        assert_close(getattr(padded.experience, name), getattr(plain.experience, name), atol=1e-5, rtol=1e-5)
    disturb(plain)
    disturb(padded)
    batches = plain.batches(1)
    assert_same_gradients(gradients(plain, batches), gradients(padded, batches))
    for name, term in plain.terms(batches[0]).items():
        assert_close(term.value, padded.terms(batches[0])[name].value, atol=1e-5, rtol=1e-4)


def test_terms_count_the_response_tokens_of_their_rows() -> None:
    objective = collected(objective_of(kl=KlConfig(in_loss="k2")))
    for batch in objective.batches(1):
        tokens = sum(len(objective.experience.rollouts[row].response_ids) for row in batch)
        counts = objective.counts(batch)
        for name, term in objective.terms(batch).items():
            assert counts.get(name) == (tokens if term.reduction == "sum" else None)


def test_the_reference_and_the_reward_get_no_gradient() -> None:
    objective = collected(objective_of(kl=KlConfig(in_loss="k3")))
    gradients(objective, objective.batches(1))
    assert all(parameter.grad is None for parameter in objective.reference.parameters())


# Rewards and KL


def test_the_kl_that_is_logged_is_the_kl_that_is_charged() -> None:
    """With gamma = lambda = 1 the first return is the score less beta times the sum of log-ratios."""
    objective = objective_of(gae_lambda=1.0, kl=KlConfig(coefficient=0.3))
    objective.batches(0)
    experience, observed = objective.experience, objective.observations()
    charged = (experience.scores - experience.returns[:, 0]).mean() / 0.3
    assert float(charged) == pytest.approx(observed["kl"], rel=1e-4)
    assert abs(observed["kl"]) > 0.1
    assert float(experience.returns[:, 0].mean()) == pytest.approx(observed["score"] - 0.3 * observed["kl"], rel=1e-4)


def test_a_kl_in_the_loss_is_not_charged_in_the_reward_too() -> None:
    objective = collected(objective_of(gae_lambda=1.0, kl=KlConfig(coefficient=0.3, in_loss="k3")))
    experience = objective.experience
    assert_close(experience.returns[:, 0], experience.scores)
    assert objective.terms(objective.batches(1)[0])["kl_loss"].weight == 0.3


def test_kl_to_oneself_is_zero() -> None:
    objective = objective_of()
    objective.reference = objective.model.policy
    objective.batches(0)
    assert objective.observations()["kl"] == 0.0


def test_length_cut_responses_are_told_from_ended_ones_and_alone_pay_the_penalty() -> None:
    objective = collected(objective_of(gae_lambda=1.0, missing_eos_penalty=0.5, kl=KlConfig(coefficient=0.0)))
    experience = objective.experience
    cut = torch.tensor([one.stop_reason == "length" for one in experience.rollouts])
    assert bool(cut.any())
    assert not bool(cut.all())
    for one in experience.rollouts:
        assert one.ended == (one.response_ids[-1] == END)
        assert len(one.response_ids) == BUDGET or one.ended
    assert_close(experience.returns[:, 0], experience.scores - 0.5 * cut)


def test_the_end_token_inside_every_prompt_ends_nothing_and_is_charged_nothing() -> None:
    objective = collected(objective_of())
    experience = objective.experience
    assert all(END in one.prompt_ids for one in experience.rollouts)
    assert max(len(one.response_ids) for one in experience.rollouts) > 1
    assert int(experience.mask.sum()) == sum(len(one.response_ids) for one in experience.rollouts)
    ratios = experience.old_log_probs - experience.reference_log_probs
    scores = final_scores(experience.scores, experience.rollouts, 0.0, None)
    rewards = token_rewards(scores, ratios, response_mask(experience.rollouts), 0.05)
    for row, one in enumerate(experience.rollouts):
        last = len(one.response_ids) - 1
        assert float(rewards[row, last]) == pytest.approx(float(scores[row] - 0.05 * ratios[row, last]), rel=1e-5)


def test_a_target_moves_the_coefficient_after_the_iteration_that_measured_it() -> None:
    kl = KlConfig(coefficient=0.15, target=1e-3, horizon=100.0)
    objective = objective_of(kl=kl)
    objective.batches(0)
    assert objective.observations()["kl_coefficient"] == 0.15
    assert objective.kl_coefficient == 0.15
    adapted = objective.state()["kl_coefficient"]
    assert adapted == pytest.approx(0.15 * (1 + 0.2 * 8 / 100))
    again = objective_of(kl=kl)
    again.restore(objective.state())
    again.batches(again.steps_per_iteration)
    assert again.kl_coefficient == adapted


def test_a_kl_that_is_no_number_is_told_and_moves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.24: a NaN became the least coefficient."""
    objective = objective_of(kl=KlConfig(coefficient=0.15, target=6.0, horizon=10.0, min_coefficient=0.01))
    plain = objective.reference_log_probs
    monkeypatch.setattr(objective, "reference_log_probs", lambda padded: plain(padded) * float("nan"))
    objective.batches(0)
    assert objective.next_kl_coefficient == 0.15
    assert "KL of iteration 0 is nan" in capsys.readouterr().err


def test_a_floor_holds_from_the_first_iteration() -> None:
    """1.24: with a target a coefficient of 0 is lifted to the floor; a fixed one has no floor."""
    assert objective_of(kl=KlConfig(coefficient=0.0, target=6.0, min_coefficient=0.02)).kl_coefficient == 0.02
    assert objective_of(kl=KlConfig(coefficient=0.0)).kl_coefficient == 0.0


# Batches


def test_every_epoch_takes_every_response_once_in_an_order_of_its_own() -> None:
    objective = objective_of(epochs=3)
    orders = []
    for epoch in range(3):
        batches = [batch for step in (2 * epoch, 2 * epoch + 1) for batch in objective.batches(step)]
        assert [len(batch) for batch in batches] == [2, 2, 2, 2]
        orders.append([row for batch in batches for row in batch])
        assert sorted(orders[-1]) == list(range(8))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_every_prompt_is_used_once_before_any_is_used_again() -> None:
    prompts = [Prompt((number,)) for number in range(8)]
    chosen = [prompt for iteration in range(4) for prompt in choose_prompts(prompts, 4, iteration, seed=0)]
    assert len(set(chosen[:8])) == len(set(chosen[8:])) == 8
    assert chosen[:8] != chosen[8:]


def test_an_iteration_samples_from_the_weights_of_the_moment_and_only_its_first_step_samples() -> None:
    objective = objective_of()
    first = collected(objective).experience
    objective.batches(1)
    assert objective.experience is first
    disturb(objective)
    objective.batches(4)
    assert objective.iteration == 1
    names = {each.weights for experience in (first, objective.experience) for each in experience.rollouts}
    assert len(names) == 2
    assert objective.observations()["engine_difference"] < 1e-5


def test_the_same_seed_makes_the_same_experience() -> None:
    first, second = (collected(objective_of(seed=4)).experience for _ in range(2))
    assert first.rollouts == second.rollouts
    assert torch.equal(first.advantages, second.advantages)
    assert collected(objective_of(seed=5)).experience.rollouts != first.rollouts


def test_a_step_against_the_gradient_raises_the_objective() -> None:
    """The sum of advantage times log-probability grows when the policy moves as it is told to."""
    objective = collected(objective_of(entropy_weight=0.0, kl=KlConfig(coefficient=0.0)))
    rows = list(range(8))

    def weighted_log_prob() -> float:
        experience = objective.experience
        padded = objective.pad(experience.rollouts)
        with torch.no_grad():
            hidden = objective.model.policy(padded.ids)[padded.rows, padded.columns]
            log_probs, _ = token_log_probs(hidden, objective.model.policy.output_weight, padded.targets)
        return float((log_probs * experience.flat(experience.advantages, rows)).sum())

    before, found = weighted_log_prob(), gradients(objective, [rows])
    with torch.no_grad():
        for name, parameter in objective.model.policy.named_parameters():
            parameter.sub_(found[f"policy.{name}"], alpha=1e-3)
    assert weighted_log_prob() > before


def test_an_adaptive_coefficient_never_falls_below_its_minimum() -> None:
    objective = objective_of(kl=KlConfig(coefficient=0.15, target=1e6, horizon=8.0, min_coefficient=0.14))
    objective.batches(0)
    assert objective.state()["kl_coefficient"] == 0.14


# The value head's beginning


@pytest.mark.parametrize("critic", ["shared", "apart"])
@torch.no_grad()
def test_a_fitted_value_head_predicts_the_scores_it_is_paid(critic: str) -> None:
    objective = collected(objective_of(critic=critic, value_head="fitted", missing_eos_penalty=0.5))
    experience, trunk = objective.experience, objective.model.critic or objective.model.policy
    hidden, paid = [], []
    for one, score in zip(experience.rollouts, experience.scores, strict=True):
        states = trunk(torch.tensor([one.prompt_ids + one.response_ids]))[0]
        hidden.append(states[len(one.prompt_ids) - 1 : -1])
        paid.append((score - 0.5 * (not one.ended)).repeat(len(one.response_ids)))
    expected = ridge_regression(torch.cat(hidden), torch.cat(paid))
    assert_close(objective.model.value_head.weight[0], expected, rtol=1e-3, atol=1e-3)
    error = (torch.cat(hidden) @ expected - torch.cat(paid)).square().mean()
    assert error < torch.cat(paid).square().mean()


def test_the_value_head_is_fitted_before_the_first_update_only() -> None:
    objective = collected(objective_of(critic="apart", value_head="fitted"))
    with torch.no_grad():
        objective.model.value_head.weight.fill_(0.25)
    objective.start_iteration(1)
    assert bool((objective.model.value_head.weight == 0.25).all())


def test_a_value_head_that_starts_at_zero_is_left_as_it_is() -> None:
    before = objective_of(critic="apart").model.value_head.weight.clone()
    assert collected(objective_of(critic="apart")).model.value_head.weight.equal(before)
