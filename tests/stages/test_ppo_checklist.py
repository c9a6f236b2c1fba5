"""What went wrong elsewhere, and the test of ours that would notice: an index, and the tests that had no other place.

Each row names the fault as its issue tracker does, so that a search for `trl#454` ends here. Names are of test
functions, `*` for one of this file. `VECTORS` does the same for the golden vectors of PPO and KL.
"""

import re
from pathlib import Path

import pytest
import torch

from tests.stages.test_ppo import collected, disturb, objective_of
from tests.tiny import rollout
from trine.algorithms.ppo import clipped_policy_loss
from trine.algorithms.text_kl import kl_estimate
from trine.config.rl import PpoConfig
from trine.runtime.errors import TrineError
from trine.stages.rl.observations import response_kl, standard_error

TESTS = Path(__file__).parents[1]
PPO, ENGINE, ALGORITHMS = "stages/test_ppo", "engine/test_", "algorithms/test_"

FAULTS: dict[str, tuple[str, ...]] = {
    "ratio != 1 at the first update (trl#454, trlx#107, #508, OpenRLHF#217, verl#2088, #2996)": (
        f"{PPO}.py::test_the_ratio_is_exactly_one_throughout_the_first_epoch_before_any_update",
        f"{PPO}.py::test_without_updates_the_ratio_stays_one_in_later_epochs",
        f"{PPO}_forms.py::test_without_updates_the_ratio_is_one_and_the_kl_stays",
    ),
    "rollout engine and trainer differ (verl#2953, #3694, trl#3867, #4772, open-instruct#1473)": (
        f"{PPO}.py::test_the_engines_log_probs_are_the_trainers",
        f"{ENGINE}engine.py::test_log_probs_are_the_trainers_at_the_same_temperature",
        f"{PPO}_options.py::test_corrected_losses_are_weighted_by_the_trainers_probability_over_the_engines",
    ),
    "old log-probabilities depend on the micro-batch (verl#6280)": (
        f"{PPO}.py::test_gradients_do_not_depend_on_the_micro_batch",
        f"{PPO}.py::test_extra_padding_changes_neither_gradients_nor_experience",
    ),
    "temperature missing on one side (minimind, trl#3029, #4159, OpenRLHF#853, #1319, prime-rl#679, compose-rl#105)": (
        f"{PPO}.py::test_the_ratio_is_exactly_one_throughout_the_first_epoch_before_any_update",
        f"{PPO}.py::test_old_and_reference_log_probs_are_taken_at_the_sampling_temperature",
        "*::test_entropy_is_of_response_tokens_at_the_sampling_temperature_and_never_negative",
    ),
    "top-p and top-k renormalise (trl#6789, trl#2358, vllm#42259)": (
        "config/test_rl.py::test_a_filter_of_sampling_is_refused_with_the_reason",
    ),
    "KL goes negative (trl#235, #925, #256, #615)": (
        "*::test_kl_of_ones_own_samples_is_not_negative_beyond_chance",
        f"{PPO}_alarms.py::test_kl_below_zero_by_three_standard_errors",
    ),
    "the logged KL is not the trained one (trl PR#1180)": (
        f"{PPO}.py::test_the_kl_that_is_logged_is_the_kl_that_is_charged",
    ),
    "entropy below 0 by a sentinel in the padding (trl#2022, #2281, #2496)": (
        "*::test_entropy_is_of_response_tokens_at_the_sampling_temperature_and_never_negative",
        f"{PPO}_listing.py::test_8_padding_counts_in_no_mean",
    ),
    "approx_kl, ratio, entropy averaged over pads (TRL ppo_trainer, trlx)": (
        f"{PPO}_listing.py::test_8_padding_counts_in_no_mean",
        f"{PPO}.py::test_extra_padding_changes_neither_gradients_nor_experience",
        "stages/test_experience.py::test_statistics_are_per_response_or_per_token_and_never_of_padding",
    ),
    "advantages whitened over pads (trlx), or not at all (DeepSpeed-Chat)": (
        "stages/test_experience.py::test_advantages_are_whitened_over_all_response_tokens_and_returns_are_not",
        f"{ALGORITHMS}masked.py::test_padding_changes_no_statistic",
    ),
    "values at pads leak into GAE (ROLL#447, verl PR#50, PR#1850, DeepSpeed-Chat PR#672)": (
        f"{ALGORITHMS}advantages.py::test_a_value_in_the_padding_does_not_leak",
        f"{PPO}_listing.py::test_9_nothing_follows_the_last_token",
    ),
    "critic mask off by one (verl#1758, VAGEN#8, #33, ROLL#3, ColossalAI PR#3623)": (
        f"{PPO}.py::test_a_value_is_that_of_the_state_before_its_token",
    ),
    "reward one past the end; the penalty never fires with a custom stop (trl#3750, #1893, PR#5338)": (
        "stages/test_experience.py::test_the_score_stands_at_the_end_token_or_at_the_last_token_of_a_cut_response",
        f"{PPO}_forms.py::test_a_stop_string_counts_as_ended_and_the_score_stands_at_its_last_token",
    ),
    "the check for a missing end includes the prompt (trl#6805)": (
        f"{PPO}.py::test_the_end_token_inside_every_prompt_ends_nothing_and_is_charged_nothing",
        f"{ENGINE}engine.py::test_end_tokens_in_the_prompt_end_nothing",
    ),
    "pad == eos (trl#1623, #2059, #3091, PR#5303, #2778, transformers#35352, llm-course#33, alignment-handbook#127)": (
        f"{PPO}_forms.py::test_padding_with_the_end_token_changes_nothing",
        "stages/test_experience.py::test_every_response_token_is_predicted_one_place_earlier_and_nothing_else_is",
    ),
    "a score depends on batch or padding; end token in training only (trl PR#5813, reward-bench#137, gpt-neox#1285)": (
        "rewards/test_reward.py::test_a_score_does_not_depend_on_what_else_is_scored_nor_on_padding",
        "rewards/test_reward.py::test_whatever_ended_an_answer_the_reward_sees_the_end_it_was_trained_on",
    ),
    "mean of micro-means (verl#5625, #7321, open-instruct#1161, prime-rl#2359, #2562, torchtitan#2206)": (
        f"{PPO}.py::test_gradients_weigh_tokens_alike_in_short_and_long_responses",
        f"{PPO}_ranks.py::test_two_processes_train_as_one_does",
    ),
    "masked NaN: NaN x 0 is NaN (OpenRLHF#1240)": (
        f"{ALGORITHMS}masked.py::test_what_the_mask_hides_reaches_neither_value_nor_gradient",
        "stages/test_experience.py::test_padding_changes_neither_advantages_nor_returns",
    ),
    "missing log-probabilities of the engine filled with 0.0 (minimind)": (
        "*::test_a_rollout_has_a_log_probability_for_every_token",
    ),
    "a fully masked sample in its group; a rejected reward counted (OpenRLHF#1239, verl#6362)": (
        f"{PPO}_options.py::test_a_response_without_a_score_is_learned_from_by_no_update",
        f"{ALGORITHMS}text_rewards.py::test_a_response_without_tokens_gets_no_reward_and_disturbs_no_other",
    ),
    "KL of tool or pad tokens leaks into returns (slime#1372, miles#1383, trl#7024)": (
        f"{ALGORITHMS}text_rewards.py::test_interior_masked_tokens_have_neither_reward_nor_kl",
        f"{PPO}_forms.py::test_of_several_turns_nothing_is_learned_at_tokens_that_others_wrote",
        "stages/test_turns.py::test_the_golden_vector_of_several_turns",
    ),
    "greedy or another sampling in rollouts (DeepSpeed-Chat, DeepSpeedExamples#503, #821, #794)": (
        f"{ENGINE}sampling.py::test_tokens_are_drawn_from_the_softmax_at_the_temperature",
        f"{ENGINE}engine.py::test_a_batch_follows_the_models_distribution",
        f"{ENGINE}engine.py::test_greedy_decoding_is_naive_decoding_token_for_token_while_rows_finish_at_different_times",
    ),
    "retokenisation (trl#5224, #1702, verl#6719, #3960, ms-swift#10012)": (
        "*::test_what_was_sampled_is_trained_on_whatever_its_text_encodes_to",
    ),
    "gradient checkpointing off in eval mode (trl#1066)": (
        f"{PPO}_options.py::test_recomputed_blocks_change_no_gradient_and_keep_less",
    ),
    "resuming skips or repeats (verl#5725, #7401, #7974, OpenRLHF#1103, #1286, NeMo#2519, open-instruct#1523)": (
        f"{PPO}_resume.py::test_a_run_that_stops_after_any_step_goes_on_bit_for_bit",
        f"{PPO}_resume.py::test_a_killed_run_goes_on_bit_for_bit",
        f"{PPO}_ranks.py::test_what_two_processes_sampled_is_learned_from_by_one",
    ),
    "uneven ranks: responses dropped in one process (trlx#373, DeepSpeed-Chat)": (
        f"{PPO}.py::test_every_epoch_takes_every_response_once_in_an_order_of_its_own",
        f"{PPO}_ranks.py::test_a_group_or_a_minibatch_that_cannot_be_shared_is_refused",
    ),
    "a setting renamed in silence (Soup#741)": (
        "*::test_a_setting_that_there_is_not_is_refused",
        "config/test_renamed.py::test_an_old_key_is_refused_with_its_new_name",
    ),
}  # fmt: skip
VECTORS: dict[str, tuple[str, ...]] = {
    "GAE": (f"{ALGORITHMS}advantages.py::test_the_golden_vector_of_schulman_is_met",),
    "GAE, pad leak": (f"{ALGORITHMS}advantages.py::test_a_value_in_the_padding_does_not_leak",),
    "masked_whiten": (f"{ALGORITHMS}masked.py::test_whitening_meets_the_golden_vector",),
    "adaptive KL": (f"{ALGORITHMS}text_kl.py::test_the_adaptive_coefficient_meets_the_golden_vectors",),
    "token mean": (f"{ALGORITHMS}ppo.py::test_sums_over_counts_weigh_every_token_alike",),
    "KL estimates and gradients": (
        f"{ALGORITHMS}text_kl.py::test_estimators_have_the_golden_expectations",
        f"{ALGORITHMS}text_kl.py::test_plain_estimators_have_the_golden_gradient_errors",
        f"{ALGORITHMS}text_kl.py::test_the_true_gradient_has_the_golden_norm_and_that_of_plain_k1_is_zero",
        f"{ALGORITHMS}text_kl.py::test_the_loss_has_the_exact_gradient_with_every_estimator",
    ),
    "G4": ("*::test_golden_g4_where_the_loss_is_clipped", "stages/test_ppo_listing.py::"
           "test_7_where_the_clipped_ratio_is_the_better_one_the_loss_is_the_others"),
    "G8": ("*::test_golden_g8_estimates_of_one_token",),
}  # fmt: skip


@pytest.mark.parametrize("row", [*FAULTS, *VECTORS])
def test_every_row_has_its_tests(row: str) -> None:
    """A test that is renamed or removed is missed here."""
    for place in {**FAULTS, **VECTORS}[row]:
        file, _, name = place.partition("::")
        path = Path(__file__) if file == "*" else TESTS / file
        assert re.search(rf"^def {name}\(", path.read_text("utf-8"), re.MULTILINE), place


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_kl_of_ones_own_samples_is_not_negative_beyond_chance(temperature: float) -> None:
    """The mean over responses of the summed k1, of what the engine sampled: above -3 standard errors."""
    objective = objective_of(temperature=temperature, batch_size=64, minibatch_size=64, micro_batch_size=32)
    kl = response_kl(collected(objective).experience)
    assert float(kl.mean()) > -3 * standard_error(kl)
    assert float(kl.mean()) > 3 * standard_error(kl)  # policy and reference differ, so it is positive beyond chance
    assert "alarm_kl_negative" not in objective.observations()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_entropy_is_of_response_tokens_at_the_sampling_temperature_and_never_negative(temperature: float) -> None:
    objective = collected(objective_of(temperature=temperature))
    disturb(objective)
    for batch in objective.batches(1):
        expected = 0.0
        for row in batch:
            one = objective.experience.rollouts[row]
            ids = torch.tensor([one.prompt_ids + one.response_ids])
            with torch.no_grad():
                hidden = objective.model.policy(ids)[0, len(one.prompt_ids) - 1 : -1]
                log_probs = (hidden @ objective.model.policy.output_weight.T / temperature).log_softmax(-1)
            expected -= float((log_probs.exp() * log_probs).sum())
        found = float(objective.terms(batch)["entropy"].value.detach())
        assert found == pytest.approx(expected, rel=1e-4)
        assert found > 0


def test_a_rollout_has_a_log_probability_for_every_token() -> None:
    with pytest.raises(ValueError, match="3 response tokens and 2 log-probabilities"):
        rollout([1, 2], [3, 4, 5], log_probs=(-1.0, -2.0))


def test_what_was_sampled_is_trained_on_whatever_its_text_encodes_to() -> None:
    """Random tokens rarely encode back to themselves: the ids of the rollout are what every tensor is of."""
    objective = collected(objective_of("qwen3"))
    tokenizer = objective.chat.tokenizer
    changed = 0
    for row, one in enumerate(objective.experience.rollouts):
        padded = objective.pad([one])
        assert padded.targets.tolist() == list(one.response_ids)
        assert padded.ids[0].tolist() == [*one.prompt_ids, *one.response_ids]
        assert objective.experience.answers[row].response_ids == one.response_ids
        changed += tokenizer.encode(tokenizer.decode(one.response_ids)) != list(one.response_ids)
    assert changed > 0


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises((ValueError, TrineError), match="init_kl_coef"):
        PpoConfig(out="o", model="m", prompts="p", reward="a:b", init_kl_coef=0.2)  # type: ignore[call-arg]
    with pytest.raises((ValueError, TrineError), match="kl_coef"):
        PpoConfig(out="o", model="m", prompts="p", reward="a:b", kl={"kl_coef": 0.2})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratio", "advantage", "high", "dual", "loss", "flows"),
    [
        (1.25, 1.0, None, None, -1.2, False),
        (1.25, 1.0, 0.28, None, -1.25, True),
        (1.3, 1.0, 0.28, None, -1.28, False),
        (0.75, -1.0, 0.28, None, 0.8, False),
        (1.25, -1.0, 0.28, None, 1.25, True),
        (0.75, 1.0, 0.28, None, -0.75, True),
        (5.0, -1.0, 0.28, None, 5.0, True),
        (5.0, -1.0, 0.28, 3.0, 3.0, False),
    ],
)
def test_golden_g4_where_the_loss_is_clipped(
    ratio: float, advantage: float, high: float | None, dual: float | None, loss: float, flows: bool
) -> None:
    log_ratio = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    result = clipped_policy_loss(
        log_ratio, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64),
        clip_range=0.2, clip_range_high=high, dual_clip_range=dual,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(result.loss, log_ratio)
    assert float(result.loss.detach()) == pytest.approx(loss, abs=1e-9)
    assert bool(gradient) == flows
    if dual is None:
        assert (float(result.clipped_low), float(result.clipped_high)) == (
            float(not flows and advantage < 0), float(not flows and advantage > 0),
        )  # fmt: skip


def test_golden_g8_estimates_of_one_token() -> None:
    """l = .5: k1, k2, k3; the wrong direction of k3 would be .148721; l = -20 is 4.852e8, and finite."""
    half = torch.tensor([0.5], dtype=torch.float64)
    found = [float(kl_estimate(half, torch.zeros_like(half), name)) for name in ("k1", "k2", "k3")]
    assert found == pytest.approx([0.5, 0.125, 0.106531], abs=1e-6)
    assert found[2] != pytest.approx(0.148721, abs=1e-3)
    far = float(kl_estimate(torch.tensor([-20.0]), torch.zeros(1), "k3"))
    assert far == pytest.approx(4.852e8, rel=1e-3)
