"""Alarms: each is raised by a run that has its fault, told in the log, and by no run that has not."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PLAIN_CPU, QUIET_LOOP
from tests.tiny import make_likely, rollout, tiny_config, tiny_model, tiny_tokenizer
from trine.config.rl import KlConfig, PpoConfig
from trine.data.files import write_examples
from trine.model.folder import save_model
from trine.records import Answer, Example, Message
from trine.rewards.function import FunctionReward
from trine.runtime.files import read_jsonl
from trine.stages.rl.alarms import ALARMS, CRITIC_ITERATIONS, WINDOW, Watch
from trine.stages.rl.observations import part_means, zero_variance_share
from trine.stages.rl.ppo import run

WELL: dict[str, float] = {
    "kl": 0.5, "kl_error": 0.2, "sampled_entropy": 2.0, "ended_share": 0.9, "score": 0.0, "score_error": 0.1,
    "held_out_score": 0.0, "held_out_score_error": 0.1, "explained_variance": 0.4, "zero_variance_share": 0.0,
}  # fmt: skip


def raised(rows: list[dict[str, float]], **settings: Any) -> list[list[str]]:
    """The alarms of each iteration; what a row leaves out is well."""
    watch = Watch(**settings)
    return [list(watch.look(iteration, WELL | row)) for iteration, row in enumerate(rows)]


def test_a_good_run_raises_none() -> None:
    assert raised([{"kl": 0.1 * i, "score": 0.2 * i, "held_out_score": 0.1 * i} for i in range(20)]) == [[]] * 20


def test_noise_alone_raises_none() -> None:
    """KL about 0 with its standard error, rewards and held-out rewards that only wobble: 0.1% of the iterations."""
    source, watch, found = random.Random(0), Watch(), 0
    for iteration in range(2000):
        noise = {name: source.gauss(0.0, 0.1) for name in ("score", "held_out_score")}
        row = {"kl": source.gauss(0.0, 0.2), "explained_variance": source.gauss(0.3, 0.2)}
        found += len(watch.look(iteration, WELL | noise | row))
    assert found <= 6


@pytest.mark.parametrize(
    ("kl", "alarmed"), [(-0.59, False), (-0.62, True), (-0.0005, False), (0.0, False), (float("nan"), False)]
)
def test_kl_below_zero_by_three_standard_errors(kl: float, alarmed: bool) -> None:
    assert raised([{"kl": kl}]) == [["kl_negative"] if alarmed else []]


def test_rounding_of_a_kl_of_zero_is_no_alarm() -> None:
    assert raised([{"kl": -0.0009, "kl_error": 1e-6}]) == [[]]


def test_entropy_below_half_of_the_first() -> None:
    assert raised([{}, {"sampled_entropy": 1.01}, {"sampled_entropy": 0.99}]) == [[], [], ["entropy_halved"]]


def test_length_at_the_limit() -> None:
    """Where answers are meant to end, at once; elsewhere only if they came to it."""
    assert raised([{"ended_share": 0.0}]) == [["length_at_limit"]]
    assert raised([{"ended_share": 0.0}] * 2, expects_end=False) == [[], []]
    assert raised([{}, {"ended_share": 0.05}], expects_end=False) == [[], ["length_at_limit"]]
    assert raised([{}, {"ended_share": 0.2}]) == [[], []]


def test_a_reward_that_rises_while_the_held_out_one_falls() -> None:
    """Both rise, then part: alarmed when both differences are beyond chance, and not before."""
    up = [{"score": 0.3 * i, "held_out_score": 0.2 * i} for i in range(6)]
    apart = [{"score": 1.5 + 0.3 * i, "held_out_score": 1.0 - 0.3 * i} for i in range(6)]
    found = raised(up + apart)
    assert found[: len(up) + 1] == [[]] * (len(up) + 1)
    assert found[-1] == ["over_optimised"]
    first = found.index(["over_optimised"])
    assert len(up) + WINDOW - 1 <= first < len(up) + 5


def test_both_falling_is_no_over_optimisation() -> None:
    assert raised([{"score": -0.3 * i, "held_out_score": -0.3 * i} for i in range(12)]) == [[]] * 12


def test_a_held_out_reward_scored_now_and_then_alarms_once_until_it_recovers() -> None:
    watch = Watch()
    told = []
    for iteration in range(24):
        row = WELL | {"score": 0.5 * iteration, "held_out_score": -0.5 * iteration}
        if iteration % 2:
            row = {name: value for name, value in row.items() if not name.startswith("held_out")}
        before = watch.memory.holding
        told += [name for name in watch.look(iteration, row) if name not in before]
    assert told == ["over_optimised"]


def test_a_critic_that_explains_nothing_for_long() -> None:
    rows = [{"explained_variance": 0.01}] * (CRITIC_ITERATIONS + 3)
    assert raised(rows)[CRITIC_ITERATIONS - 2 : CRITIC_ITERATIONS] == [[], ["critic_blind"]]
    assert raised(rows, critic_from=3)[CRITIC_ITERATIONS + 1 :] == [[], ["critic_blind"]]


def test_what_is_remembered_is_restored() -> None:
    rows = [{"sampled_entropy": 2.0, "score": i, "held_out_score": -i, "explained_variance": 0.0} for i in range(9)]
    whole, watch = raised(rows), Watch()
    for iteration in range(5):
        watch.look(iteration, WELL | rows[iteration])
    again = Watch()
    again.restore(watch.state())
    assert [list(again.look(i, WELL | rows[i])) for i in range(5, 9)] == whole[5:]
    assert any(whole[5:])


def test_zero_variance_counts_prompts_whose_responses_score_alike() -> None:
    """G1: by max == min, never by a threshold on a deviation, which rounding keeps from 0."""
    one, two, three = (rollout([number], [9]) for number in (1, 2, 3))
    assert zero_variance_share([one, one, two, two, three], torch.tensor([0.35, 0.35, 0.1, 0.2, 0.3])) == 0.5
    assert zero_variance_share([one, two, three], torch.tensor([0.7, 0.7, 0.7])) == 1.0
    assert zero_variance_share([one, two, three], torch.tensor([0.7, 0.7, 0.7000001])) == 0.0


class InParts:
    def score(self, answers: list[Answer]) -> torch.Tensor:
        return torch.zeros(len(answers))

    def parts(self, answers: list[Answer]) -> dict[str, torch.Tensor]:
        nan = float("nan")
        return {"help": torch.tensor([1.0, 3.0]), "form": torch.tensor([nan, 0.5]), "none": torch.tensor([nan, nan])}


def test_parts_are_means_over_the_answers_they_apply_to() -> None:
    answers = [Answer((), "a"), Answer((), "b")]
    assert part_means(InParts(), answers) == {
        "part_help": 2.0, "part_form": 0.5, "part_form_applies": 0.5, "part_none_applies": 0.0,
    }  # fmt: skip
    assert part_means(FunctionReward(constant, "constant"), answers) == {}


# Whole runs


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """What is learned at once: longer is better."""
    return [float(len(response)) for response in responses]


def brevity(prompts: list[str], responses: list[str]) -> list[float]:
    """A second opinion that is against it."""
    return [-float(len(response)) for response in responses]


def constant(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.25] * len(responses)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    model = tiny_model(tiny_config("gpt2", vocab_size=320, context=64))
    make_likely(model, 3, 4.5)
    save_model(model, folder)
    tiny_tokenizer().save(folder)
    write_examples(folder / "prompts.jsonl", [Example((Message("user", each),), "4") for each in ("Add.", "Why?")])
    return folder


def trained(start: Path, out: Path, reward: str, **changes: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {
        "out": out, "model": str(start), "prompts": start / "prompts.jsonl", "reward": f"{__name__}:{reward}",
        "batch_size": 64, "minibatch_size": 32, "micro_batch_size": 32, "max_new_tokens": 12, "iterations": 8,
        "kl": KlConfig(coefficient=0.0), "optimizer": {"learning_rate": 3e-3, "warmup_steps": 0, "decay": "constant"},
        "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return list(read_jsonl(run(PpoConfig(**settings | changes)) / "metrics.jsonl"))


def alarms_of(rows: list[dict[str, Any]]) -> set[str]:
    names = {name.removeprefix("alarm_") for row in rows for name in row if name.startswith("alarm_")}
    assert names <= set(ALARMS)
    return names


def test_a_second_opinion_that_agrees_raises_no_alarm(start: Path, tmp_path: Path) -> None:
    """That one which disagrees does, and a critic that knows nothing: tests/report/test_ppo_sections.py."""
    rows = trained(start, tmp_path, "length", held_out_reward=f"{__name__}:length", iterations=5)
    assert "over_optimised" not in alarms_of(rows)
    assert all(row["held_out_score"] == row["score"] for row in rows if "score" in row)


def test_a_run_whose_reward_is_constant_is_alarmed_in_its_first_iteration(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = trained(start, tmp_path, "constant", iterations=2)
    assert rows[0]["alarm_reward_constant"] == 1.0
    assert "look at the reward" in capsys.readouterr().err


def test_alarms_and_samples_survive_a_resume(start: Path, tmp_path: Path) -> None:
    """Run in two parts, the log and the samples are those of the whole run."""
    settings = {"held_out_reward": f"{__name__}:brevity", "samples_every": 2, "sample_count": 2, "iterations": 6}
    optimizer = {"learning_rate": 3e-3, "warmup_steps": 0, "decay": "constant"}
    settings |= {"optimizer": optimizer, "loop": {"save_every": 4}, "batch_size": 16, "minibatch_size": 8}
    settings |= {"micro_batch_size": 8, "max_new_tokens": 6}
    whole = trained(start, tmp_path / "whole", "length", **settings)
    trained(start, tmp_path / "parts", "length", **settings | {"iterations": 3})
    parts = trained(start, tmp_path / "parts", "length", **settings)

    def seen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]

    assert seen(parts) == seen(whole)
    samples = [list(read_jsonl(tmp_path / name / "samples.jsonl")) for name in ("whole", "parts")]
    assert samples[0] == samples[1]
    assert [row["iteration"] for row in samples[0]] == [0, 0, 2, 2, 4, 4]
    assert set(samples[0][0]) == {"step", "iteration", "prompt", "text", "score", "kl", "length", "ended"}
