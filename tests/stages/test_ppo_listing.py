"""The listing that many write-ups of RLHF share, line by line: what each of nine lines does, and what is right.

    labels.append(0 if label_dir is "neg" else 1)              1 identity of strings, not their equality
    score = sentiment(texts)[1]["score"]                       2 the second text's score, not the second label's
    rewards = -(log_probs - ref_log_probs)                     3 KL without a coefficient
    rewards[-1] += score                                       4 the last row of the batch, not the last token
    kl = log_probs - ref_log_probs  (of whole sequences)       5 the query's tokens are charged for
    old_log_probs = ...             (of whole sequences)       6 not cut to the response, so of other tokens
    loss = -advantages * clamp(ratio, 1 - eps, 1 + eps)        7 no max: no gradient where PPO has one (G4)
    loss = losses.mean()                                       8 padding counts in every mean
    next_value = values[:, t + 1]   (at the last token too)    9 the value of what follows the end

Each test computes the line as it is copied, shows that its result differs, and that ours is what it should be.
"""

import operator
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.stages.test_ppo import collected, disturb, objective_of
from tests.tiny import random_tensor, tiny_task_model, tiny_task_tokenizer
from trine.algorithms.advantages import generalized_advantages
from trine.algorithms.masked import masked_mean
from trine.algorithms.ppo import clipped_policy_loss
from trine.algorithms.text_rewards import token_rewards
from trine.config.rl import KlConfig
from trine.data.class_folders import class_folder_records
from trine.records import Answer, Message
from trine.rewards.task import TaskReward
from trine.stages.rl.observations import response_kl

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
SCORES = torch.tensor([1.0, 2.0, 3.0])


def test_1_the_label_of_a_review_is_its_folders_name_and_not_an_object(tmp_path: Path) -> None:
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0_1.txt").write_text(f"a {label} review")
    literal = "neg"
    copied = [0 if operator.is_(name, literal) else 1 for name in sorted(entry.name for entry in os.scandir(tmp_path))]
    assert copied == [1, 1]  # a name read from the disk is another object: every review is positive
    records = [record for _, record in class_folder_records(tmp_path)]
    assert [(record["label"], record["text"]) for record in records] == [
        ("neg", "a neg review"), ("pos", "a pos review"),
    ]  # fmt: skip


def test_2_every_text_of_a_batch_has_its_own_score_of_the_positive_label() -> None:
    reward = TaskReward(tiny_task_model(), tiny_task_tokenizer())
    answers = [Answer((Message("user", "The film "),), text) for text in ("was bad.", "was good.", "was long, and?")]
    each = [float(reward.score([answer])[0]) for answer in answers]

    def pipeline(texts: list[Answer]) -> list[dict[str, float]]:
        """As a text-classification pipeline answers a list: one entry for each text."""
        return [{"score": float(score)} for score in reward.score(texts)]

    copied = [pipeline(answers)[1]["score"] for _ in answers]
    assert copied == pytest.approx([each[1]] * 3)
    assert len({round(score, 4) for score in each}) == 3
    assert reward.score(answers).tolist() == pytest.approx(each, abs=1e-5)


def test_3_kl_costs_what_its_coefficient_says() -> None:
    log_ratios = random_tensor(3, 4)
    copied = torch.where(MASK, -log_ratios, 0.0)
    ours = token_rewards(torch.zeros(3), log_ratios, MASK, kl_coefficient=0.05)
    assert_close(ours, 0.05 * copied)
    assert float((ours - copied).abs().max()) > 0.1


def test_4_every_response_has_its_score_on_its_last_token() -> None:
    copied = torch.zeros(3, 4)
    copied[-1] += SCORES[-1]  # the last row, all of it
    ours = token_rewards(SCORES, torch.zeros(3, 4), MASK, kl_coefficient=0.05)
    assert ours.tolist() == [[0, 0, 1, 0], [0, 2, 0, 0], [0, 0, 0, 3]]
    assert copied.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [3, 3, 3, 3]]


@torch.no_grad()
def whole_log_probs(objective, model, row: int) -> Tensor:  # type: ignore[no-untyped-def]
    """Of every token of query and response but the first, [T - 1]."""
    one = objective.experience.rollouts[row]
    ids = torch.tensor([one.prompt_ids + one.response_ids])
    logits = model(ids)[0, :-1] @ model.output_weight.T
    return logits.log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)


def test_5_the_querys_tokens_are_not_charged_for() -> None:
    objective = collected(objective_of())
    ours = response_kl(objective.experience)
    for row, one in enumerate(objective.experience.rollouts):
        policy, reference = (
            whole_log_probs(objective, each, row) for each in (objective.model.policy, objective.reference)
        )
        log_ratios = policy - reference
        of_response = log_ratios[len(one.prompt_ids) - 1 :]
        assert float(ours[row]) == pytest.approx(float(of_response.sum()), abs=1e-4)
        assert abs(float(log_ratios.sum() - of_response.sum())) > 0.1  # what the copied line charges on top


def test_6_old_log_probs_are_those_of_the_responses_tokens() -> None:
    objective = collected(objective_of())
    for row, one in enumerate(objective.experience.rollouts):
        whole = whole_log_probs(objective, objective.model.policy, row)
        count = len(one.response_ids)
        new = whole[len(one.prompt_ids) - 1 :]
        copied = (new - whole[:count]).exp()  # rows of another length, cut to fit: the query's tokens
        assert float((copied - 1).abs().max()) > 0.1
        old = objective.experience.old_log_probs[row, :count]
        assert_close((new - old).exp(), torch.ones(count), atol=1e-5, rtol=0)
    assert all(float(objective.terms(batch)["peak_log_ratio"].value) == 0.0 for batch in objective.batches(0))


def test_7_where_the_clipped_ratio_is_the_better_one_the_loss_is_the_others() -> None:
    """G4: rho 1.25, A -1: PPO's loss is 1.25 and has a gradient; -A clamp(rho) is 1.2 and has none."""
    log_ratio = torch.tensor([1.25]).log().requires_grad_()
    copied = (torch.ones(1) * log_ratio.exp().clamp(0.8, 1.2)).sum()
    (none,) = torch.autograd.grad(copied, log_ratio)
    ours = clipped_policy_loss(log_ratio, torch.zeros(1), torch.tensor([-1.0]), clip_range=0.2).loss
    (gradient,) = torch.autograd.grad(ours, log_ratio)
    assert (float(copied.detach()), float(none)) == pytest.approx((1.2, 0.0))
    assert (float(ours.detach()), float(gradient)) == pytest.approx((1.25, 1.25))


def test_8_padding_counts_in_no_mean() -> None:
    """What is logged and trained on is over response tokens: a mean of the padded table is another number."""
    objective = collected(objective_of(kl=KlConfig(coefficient=0.2), minibatch_size=8, micro_batch_size=8))
    disturb(objective)
    (rows,) = objective.batches(0)  # collects anew; the disturbance is in old and new alike
    disturb(objective)
    experience, terms = objective.experience, objective.terms(rows)
    count = objective.counts(rows)["policy"]
    assert count == float(experience.mask.sum()) < experience.mask.numel()
    for name in ("policy", "value", "entropy", "approximate_kl", "ratio"):
        ours, copied = (float(terms[name].value.detach()) / divisor for divisor in (count, experience.mask.numel()))
        assert abs(ours - copied) > 1e-6 * abs(ours), name
    assert 0.2 < float(terms["ratio"].value) / count < 5.0  # about 1; pads as ratios of 0 would pull it down
    advantages = experience.advantages
    assert float(masked_mean(advantages, experience.mask)) == pytest.approx(0.0, abs=1e-5)
    assert float(masked_mean(advantages.square(), experience.mask)) == pytest.approx(1.0, abs=1e-4)
    assert float(advantages.square().mean()) < 0.95


def test_9_nothing_follows_the_last_token() -> None:
    """The end is terminal: its value is not that of whatever the critic says of the place after it."""
    rewards = token_rewards(SCORES, torch.zeros(3, 4), MASK, 0.0)
    values = random_tensor(3, 5, seed=3)  # one place more than tokens: what stands after the longest response
    kept = {"gamma": 1.0, "gae_lambda": 0.95}
    ours, _ = generalized_advantages(rewards, values[:, :4], MASK, **kept)
    last = MASK.sum(1)
    following = values[torch.arange(3), last]
    copied, _ = generalized_advantages(rewards, values[:, :4], MASK, final_values=following, **kept)
    for row, place in enumerate((last - 1).tolist()):
        assert float(ours[row, place]) == pytest.approx(float(SCORES[row] - values[row, place]), abs=1e-6)
        wrong = float(SCORES[row] + following[row] - values[row, place])
        assert float(copied[row, place]) == pytest.approx(wrong, abs=1e-6)
    changed = torch.cat((values[:, :4], torch.full((3, 1), 100.0)), 1)
    assert_close(generalized_advantages(rewards, changed[:, :4], MASK, **kept)[0], ours)
