"""GRPO, RLOO, REINFORCE++ and their kin, as what they do to one iteration, and as commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from tests.conftest import PLAIN_CPU, Command
from tests.several_processes import free_port, in_processes
from tests.stages import test_ppo_noticed
from tests.stages.test_ppo import (
    BUDGET,
    assert_same_gradients,
    collected,
    disturb,
    gradients,
    objective_of,
    peak_log_ratios,
)
from tests.stages.test_ppo_ranks import assert_same_run, train_all
from tests.stages.test_ppo_resume import rows, stop_after
from trine.algorithms.text_groups import global_advantages, group_advantages, leave_one_out_advantages
from trine.cli.help import help_text
from trine.config.base import LoopConfig
from trine.config.groups import GrpoConfig, ReinforcePlusPlusConfig, RlooConfig
from trine.config.registry import config_class
from trine.config.rl import KlConfig, PpoConfig
from trine.records import Answer
from trine.runtime.files import read_json
from trine.runtime.signals import Interrupted, stop_request
from trine.stages.rl import ppo
from trine.stages.rl.groups import groups_of
from trine.stages.rl.ppo import PpoObjective

start = test_ppo_noticed.start

IN_LOSS = KlConfig(coefficient=0.1, in_loss="k3")
FORMS: dict[str, dict[str, Any]] = {
    "grpo": {"advantage": "group", "aggregation": "response", "kl": IN_LOSS},
    "dr. grpo": {"advantage": "group", "groups": {"deviation": "none"}, "aggregation": "constant", "kl": IN_LOSS},
    "dapo": {
        "advantage": "group", "clip_range_high": 0.28, "groups": {"equal": "resample"}, "overlong_buffer": 3,
        "mask_truncated": True, "kl": KlConfig(coefficient=0.0),
    },
    "gspo": {"advantage": "group", "aggregation": "response", "ratio": "sequence", "clip_range": 3e-4},
    "rloo": {"advantage": "leave_one_out", "aggregation": "constant", "clip_range": None},
    "reinforce++": {"advantage": "global"},
    "reinforce++-baseline": {"advantage": "global", "groups": {"baseline": True}},
}  # fmt: skip


def form(name: str, **changes: Any) -> PpoObjective:
    return objective_of(**{"samples_per_prompt": 4, **FORMS[name], **changes})


# Advantages


def test_the_advantages_of_an_iteration_are_those_of_its_groups() -> None:
    """Eight responses to two prompts: a score less KL, compared within its group, and alike at all its tokens."""
    for name, formula in (("rloo", leave_one_out_advantages), ("grpo", group_advantages)):
        objective = collected(form(name))
        experience, groups = objective.experience, groups_of(objective.experience.rollouts)
        assert groups.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        kl = torch.where(experience.mask, experience.old_log_probs - experience.reference_log_probs, 0.0).sum(1)
        total = experience.scores - (objective.kl_coefficient * kl if name == "rloo" else 0.0)
        expected = torch.where(experience.mask, formula(total, groups).unsqueeze(1), 0.0)
        assert_close(experience.advantages, expected, atol=1e-5, rtol=1e-5)


def test_the_global_form_normalises_what_follows_a_token_over_the_tokens_of_the_step() -> None:
    objective = collected(form("reinforce++"))
    experience = objective.experience
    assert_close(experience.advantages, global_advantages(experience.rewards, experience.mask))
    based = collected(form("reinforce++-baseline", kl=KlConfig(coefficient=0.0))).experience
    first = based.advantages[:, 0]
    centred = group_advantages(based.scores, groups_of(based.rollouts), "none")
    lengths = based.mask.sum(1)
    mean = (centred * lengths).sum() / lengths.sum()
    assert_close(first / first.abs().max(), (centred - mean) / (centred - mean).abs().max(), atol=1e-5, rtol=1e-4)


def test_there_is_no_critic() -> None:
    objective = collected(form("grpo"))
    batches = objective.batches(0)
    assert "value" not in objective.terms(batches[0])
    assert not objective.experience.old_values.any() and not objective.experience.returns.any()


# Updates


@pytest.mark.parametrize("name", FORMS)
def test_the_first_ratio_is_one_and_gradients_do_not_depend_on_the_micro_batch(name: str) -> None:
    objective = form(name)
    assert set(peak_log_ratios(objective, [0, 1])) == {0.0}
    disturb(objective)
    whole = [row for batch in objective.batches(1) for row in batch]
    first, *others = (
        gradients(objective, batches) for batches in ([whole], [whole[:3], whole[3:]], [[row] for row in whole[::-1]])
    )
    for other in others:
        assert_same_gradients(first, other)


class HalfEqual:
    """The responses to every second prompt all score 1."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([
            1.0 if answer.prompt_index % 2 else 0.1 * len(answer.response_ids) + 0.01 * (answer.response_ids[0] % 7)
            for answer in answers
        ])  # fmt: skip


def half_equal(**changes: Any) -> PpoObjective:
    objective = form("grpo", **changes)
    objective.reward = objective.scorer.reward = HalfEqual()
    return collected(objective)


def test_kl_in_the_loss_acts_on_a_group_of_equal_scores_unless_it_is_masked() -> None:
    """trl#7068."""
    kept, masked = half_equal(), half_equal(groups={"equal": "mask"})
    equal = groups_of(kept.experience.rollouts) == 1
    assert not kept.experience.advantages[equal].any() and kept.experience.advantages[~equal].any()
    assert kept.experience.learned[equal].any() and not masked.experience.learned[equal].any()
    group = [int(row) for row in equal.nonzero()]
    assert float(kept.terms(group)["kl_loss"].value) != 0
    assert masked.counts(group) == dict.fromkeys(masked.counts(group), 0.0)
    assert float(masked.terms(group)["kl_loss"].value) == 0


def test_a_minibatch_of_which_nothing_is_learned_is_no_step() -> None:
    class Equal:
        def score(self, answers: Sequence[Answer]) -> Tensor:
            return torch.ones(len(answers))

    objective = form("grpo", groups={"equal": "mask"})
    objective.reward = objective.scorer.reward = Equal()
    assert list(objective.batches(0)) == []


def test_groups_of_equal_scores_are_sampled_again_from_other_prompts() -> None:
    """DAPO's dynamic sampling: the new responses have the numbers of the old, and are counted."""
    seen: list[list[int]] = []

    class EqualAtFirst(HalfEqual):
        def score(self, answers: Sequence[Answer]) -> Tensor:
            seen.append([answer.prompt_index for answer in answers])
            return super().score(answers) if len(seen) < 3 else torch.arange(len(answers)).float()

    objective = form("dapo", overlong_buffer=0, mask_truncated=False)
    objective.reward = objective.scorer.reward = EqualAtFirst()
    before = objective.batches(0) and objective.experience
    assert seen == [[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert groups_of(before.rollouts).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert before.scores[4:].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert objective.observed["resampled_groups"] == 2
    assert [answer.response_ids for answer in before.answers] == [each.response_ids for each in before.rollouts]


def test_truncated_responses_may_teach_nothing_and_long_ones_pay() -> None:
    plain, masked = collected(form("grpo")).experience, collected(form("grpo", mask_truncated=True)).experience
    ended = torch.tensor([rollout.ended for rollout in plain.rollouts])
    assert ended.any() and not ended.all()
    assert masked.learned.any(1).equal(ended) and plain.learned.any(1).all()
    paid = collected(form("rloo", overlong_buffer=BUDGET, overlong_penalty=2.0, kl=KlConfig(coefficient=0.0)))
    lengths = paid.experience.mask.sum(1)
    assert_close(paid.experience.rewards.sum(1), paid.experience.scores - 2.0 * lengths / BUDGET)


# Settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"advantage": "group", "samples_per_prompt": 1}, "samples_per_prompt has to be 2 or more"),
        ({"groups": {"deviation": "none"}}, "groups.deviation belongs to advantage=group"),
        ({"groups": {"equal": "mask"}}, "groups.equal=mask needs groups"),
        ({"advantage": "group", "groups": {"resample_rounds": 5}}, "belongs to groups.equal=resample"),
        ({"advantage": "group", "ratio": "sequence"}, "set aggregation=response"),
        ({"advantage": "group", "critic": "policy"}, "advantage=group has no critic: leave out critic=policy"),
        ({"advantage": "group", "value_head": "fitted"}, "has no critic: leave out value_head=fitted"),
        ({"overlong_buffer": 9}, "overlong_buffer=9 is above max_new_tokens=8"),
    ],
)
def test_a_setting_that_could_not_act_is_refused(changes: dict[str, Any], words: str) -> None:
    required = {"out": "out", "model": "m", "prompts": "p", "reward": "r", "batch_size": 8, "max_new_tokens": 8}
    sizes = {"minibatch_size": 8, "micro_batch_size": 8, "samples_per_prompt": 4}
    with pytest.raises(ValueError, match=words):
        PpoConfig(**required, **{**sizes, **changes})


def test_rloo_is_unclipped_by_name() -> None:
    """G2: its clipped form is another name."""
    required = {"out": "out", "model": "m", "prompts": "p", "reward": "a:b"}
    with pytest.raises(ValueError, match="trine ppo --advantage leave_one_out"):
        RlooConfig(**required, clip_range=0.2)
    assert PpoConfig(**required, advantage="leave_one_out", samples_per_prompt=4).clip_range == 0.2


# Runs

COMMANDS = {"grpo": GrpoConfig, "rloo": RlooConfig, "reinforce++": ReinforcePlusPlusConfig}


def settings(start: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "out": out, "model": str(start), "prompts": start / "prompts.jsonl",
        "reward": "tests.stages.test_ppo_noticed:spread", "iterations": 2, "batch_size": 8, "minibatch_size": 8,
        "micro_batch_size": 4, "max_new_tokens": 8, "hardware": PLAIN_CPU, "loop": LoopConfig(save_every=0),
    } | changes  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_each_is_a_command_with_its_papers_defaults(name: str, start: Path, tmp_path: Path, command: Command) -> None:
    assert config_class(name) is COMMANDS[name]
    arguments = [
        "--out", tmp_path / "run", "--model", start, "--prompts", start / "prompts.jsonl", "--iterations", 1,
        "--reward", "tests.stages.test_ppo_noticed:spread", "--batch_size", 8, "--minibatch_size", 8,
        "--micro_batch_size", 8, "--max_new_tokens", 8, "--hardware.device", "cpu",
    ]  # fmt: skip
    code, _, told = command(name, *arguments)
    assert code == 0, told
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "critic").exists()
    assert read_json(tmp_path / "run" / "run.json")["stage"] == name
    assert "What differs from `trine ppo`" in help_text(name, COMMANDS[name], everything=False, width=80)


def test_learning_rate_0_changes_nothing(start: Path, tmp_path: Path) -> None:
    """Ratio 1, KL 0 and the same weights after every method."""
    for name, changes in FORMS.items():
        optimizer = {"kind": "adamw", "learning_rate": 1e-30, "weight_decay": 0.0}
        given = {"samples_per_prompt": 4, "epochs": 2, **changes, "optimizer": optimizer}
        run = ppo.run(PpoConfig(**settings(start, tmp_path / name, **given)))
        for row in rows(run):
            assert row.get("kl", 0.0) == pytest.approx(0, abs=1e-5), name
            assert row.get("ratio", 1.0) == pytest.approx(1, abs=1e-6), name
            assert "explained_variance" not in row, "there is no critic to warn of"
        ours, theirs = (load_file(each / "model.safetensors") for each in (run / "policy", start))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_run_that_stops_within_an_iteration_goes_on_bit_for_bit(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, changes in FORMS.items():
        given = {"samples_per_prompt": 4, "minibatch_size": 4, **changes}
        straight = ppo.run(PpoConfig(**settings(start, tmp_path / name, **given)))
        again = PpoConfig(**settings(start, tmp_path / f"{name} stopped", **given))
        with monkeypatch.context() as patch:
            stop_after(patch, 3)
            with pytest.raises(Interrupted):
                ppo.run(again)
        stop_request.received = None
        ppo.run(again)
        assert rows(again.out) == rows(straight), name
        ours, theirs = (load_file(each / "policy" / "model.safetensors") for each in (again.out, straight))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_two_processes_train_as_one_does(start: Path, tmp_path: Path) -> None:
    """A group is never divided, and groups that are sampled again are the same everywhere."""
    chosen = {name: FORMS[name] for name in ("grpo", "dapo", "gspo", "reinforce++-baseline")}
    together = []
    for name, changes in chosen.items():
        given = {"samples_per_prompt": 4, **changes}
        ppo.run(PpoConfig(**settings(start, tmp_path / name, **given)))
        for kind in ("ddp", "fsdp") if name == "grpo" else ("ddp",):
            together.append(PpoConfig(**settings(start, tmp_path / f"{name} {kind}", parallel=kind, **given)))
    assert in_processes(2, train_all, together, [free_port() for _ in together]) == [None, None]
    for each in together:
        assert_same_run(each.out, tmp_path / each.out.name.rpartition(" ")[0])
