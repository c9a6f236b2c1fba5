"""16.5 end to end: sums, servers and functions as PPO's reward, by option and by YAML; what a run is known by."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU, Command
from tests.loopback import QuietHandler, listening
from trine.config.loading import read_config_file, validated
from trine.config.rewards import RewardChoice, RewardSum
from trine.config.rl import PpoConfig
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.training.inputs import input_fingerprint

SMALL = (
    "--iterations", "2", "--batch_size", "4", "--minibatch_size", "4", "--micro_batch_size", "4", "--epochs", "1",
    "--max_new_tokens", "8", "--hardware.device", "cpu", "--hardware.threads", "1",
)  # fmt: skip


def ppo(command: Command, model: Path, prompts: Path, out: Path, reward: str, *more: str) -> tuple[int, str, str]:
    given = ("--model", model, "--prompts", prompts, "--out", out, "--reward", reward)
    return command("ppo", *map(str, given), *SMALL, *more)


def test_a_weighted_sum_on_the_command_line_trains_and_logs_each_part(
    command: Command, tmp_path: Path, finetune_run: Path, functions_run: Path, reward_run: Path
) -> None:
    """A reward model, one that comes along, and a function, in one option; the run's record says it again."""
    out, prompts = tmp_path / "ppo", functions_run / "all.jsonl"
    written = f"0.5*{reward_run} + parses + tests.stages.test_any_reward:brief*0.01"
    code, _, message = ppo(command, finetune_run, prompts, out, written)
    assert code == 0, message
    rows = read_jsonl(out / "metrics.jsonl")
    parts = {key.removeprefix("part_"): row[key] for row in rows for key in row if key.startswith("part_")}
    assert set(parts) == {"reward", "parses", "tests.stages.test_any_reward:brief"}
    for row in (row for row in rows if "part_parses" in row):
        names = {"reward": 0.5, "parses": 1.0, "tests.stages.test_any_reward:brief": 0.01}
        total = sum(weight * row[f"part_{name}"] for name, weight in names.items())
        assert row["score"] == pytest.approx(total, abs=1e-4)
    written_down = read_config_file(out / "config.yaml", PpoConfig)["reward"]
    again = validated(RewardChoice, {"reward": written_down}, "config.yaml")
    assert isinstance(again.reward, RewardSum) and [part.weight for part in again.reward.parts] == [0.5, 1.0, 0.01]
    assert ppo(command, finetune_run, prompts, out, written)[0] == 0  # the same command: the same run
    code, _, message = ppo(command, finetune_run, prompts, out, written.replace("0.5*", "0.7*"))
    assert code != 0 and "reward: its content has changed" in message


def brief(prompts: list[str], responses: list[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


async def sometimes(prompts: list[str], responses: list[str]) -> list[float | None]:
    return [None if sum(map(ord, prompt)) % 3 else 1.0 for prompt in prompts]


def broken(prompts: list[str], responses: list[str]) -> list[float]:
    return [float("nan") if response != "An answer." else 0.0 for response in responses]


def test_a_failure_while_training_stops_the_run_and_names_reward_and_prompt(
    command: Command, tmp_path: Path, finetune_run: Path
) -> None:
    """16.5: not a 0, which would be learned from."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "def f(x):"}\n')
    code, _, message = ppo(command, finetune_run, prompts, tmp_path / "ppo", "tests.stages.test_any_reward:broken")
    assert code != 0
    assert "reward tests.stages.test_any_reward:broken returned nan for the response" in message
    assert "to the prompt 'def f(x):'" in message.replace("\n", " ")


def test_a_server_is_a_reward(command: Command, tmp_path: Path, finetune_run: Path) -> None:
    """Tried before anything is sampled, then asked every iteration, with the records' other fields."""
    asked: list[dict[str, Any]] = []

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            scores = [len(each) / 10 for each in asked[-1]["responses"]]
            self.reply(200, {}, json.dumps({"rewards": scores}).encode())

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "def f{n}(x):", "level": {n}}}\n' for n in range(4)))
    with listening(Handler) as address:
        reward = f"{{parts: [{{name: '{address}/score', label: remote, batch_size: 3}}, 0.1*length:max=5]}}"
        code, _, message = ppo(command, finetune_run, prompts, tmp_path / "ppo", reward)
    assert code == 0, message
    assert [len(each["responses"]) for each in asked] == [3, 3, 1, 3, 1]
    assert asked[0]["responses"] == ["An answer."] * 3 and asked[0]["columns"] == {"level": [0, 1, 2]}
    assert {key for row in read_jsonl(tmp_path / "ppo" / "metrics.jsonl") for key in row} >= {"part_remote"}


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        ("lenght:max=3", "did you mean 'length'?"),
        ("parses + no_such_module:f", "No module named 'no_such_module'"),
        ("parses + 0.1*length:mx=3", "unknown key 'mx'; did you mean 'max'"),
        ("parses + runs/a/nowhere", "runs/a/nowhere does not exist"),
        ("json_schema:nowhere.json", "nowhere.json does not exist"),
        ("tests", "asks for the field 'tests'"),
        ("{parts: [parses], normalise: group}", "did you mean 'normalize'"),
    ],
)
def test_a_reward_that_will_not_do_is_named_before_anything_is_sampled(
    command: Command, tmp_path: Path, finetune_run: Path, reward: str, told: str
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "def f(x):"}\n')
    dry = () if told.startswith("asks") else ("--dry-run",)
    code, _, message = ppo(command, finetune_run, prompts, tmp_path / "ppo", reward, *dry)
    assert code != 0 and told in message.replace("\n", " "), message


def test_a_critic_needs_a_reward_model_and_closed_one_that_reads(tmp_path: Path) -> None:
    base = {"out": "o", "model": "m", "prompts": "p", "batch_size": 64}
    for reward, what in (("mine:f", "is a function"), ("parses", "is a shipped"), ("a/b + parses", "is a sum")):
        with pytest.raises(TrineError, match=f"critic=reward starts from a reward model, .*{what}"):
            validated(PpoConfig, base | {"reward": reward, "critic": "reward"}, "here")
    validated(PpoConfig, base | {"reward": "a/b + parses", "closed": "end"}, "here")
    with pytest.raises(TrineError, match="closed=end is how a reward model reads"):
        validated(PpoConfig, base | {"reward": "parses", "closed": "end"}, "here")


def test_a_reward_is_known_by_what_it_is_not_by_how_it_is_called(tmp_path: Path) -> None:
    """By a function's source, a schema's content, weights and normalising; not by workers and time limits."""

    def of(*parts: Any, **more: Any) -> str:
        return input_fingerprint("reward", RewardSum.model_validate({"parts": parts, **more}))

    schema = tmp_path / "schema.json"
    schema.write_text("{}")
    name = f"json_schema:{schema}"
    assert of("parses") == of({"name": "parses", "workers": 4, "timeout": 3})
    assert len({of("parses"), of("2*parses"), of("parses", "length"), of("parses", normalize="group")}) == 4
    assert input_fingerprint("reward", "length:max=3") != input_fingerprint("reward", "length:max=4")
    assert input_fingerprint("reward", "length:max=200") == input_fingerprint("reward", "length:200")
    before = of(name)
    schema.write_text('{"type": "object"}')
    assert of(name) != before


def test_evaluate_compares_policies_by_any_reward(tmp_path: Path, finetune_run: Path, functions_run: Path) -> None:
    """A sum, and one that does not apply to every answer: its figures are of those it applies to, which are counted."""
    from trine.config.evaluation import EvaluateConfig
    from trine.stages.evaluation.evaluate import run

    folder = run(
        EvaluateConfig(
            out=tmp_path / "evaluate",
            before=finetune_run,
            after=finetune_run,
            base=finetune_run,
            prompts=functions_run / "held_out.jsonl",
            reward="parses + 0.1*length:max=5",
            held_out_reward="tests.stages.test_any_reward:sometimes",
            max_new_tokens=8,
            hardware=PLAIN_CPU,
        )
    )
    done = read_json(folder / "done.json")
    figures = done.get("results", done)
    scores = figures["scores"]["held_out_reward"]["before"]
    missing = scores.count(None)
    assert 0 < missing < len(scores) and figures["before"]["held_out_reward"]["does_not_apply"] == missing
    assert figures["before"]["held_out_reward"]["mean"] == 1.0
    assert "does_not_apply" not in figures["before"]["reward"]


def shorter(prompts: list[str], first: list[str], second: list[str]) -> list[float]:
    return [0.5 if len(a) == len(b) else float(len(a) < len(b)) for a, b in zip(first, second, strict=True)]


def test_groups_are_of_one_prompt_for_pairwise_and_normalised_parts(
    command: Command, tmp_path: Path, finetune_run: Path, functions_run: Path
) -> None:
    """Four answers to each prompt: each one's share of the other three; with one answer a prompt it is refused."""
    reward = "{parts: ['pairwise:tests.stages.test_any_reward:shorter', 0.1*length:max=5], normalize: group}"
    prompts = functions_run / "all.jsonl"
    code, _, message = ppo(command, finetune_run, prompts, tmp_path / "ppo", reward, "--samples_per_prompt", "4")
    assert code == 0, message
    rows = [row for row in read_jsonl(tmp_path / "ppo" / "metrics.jsonl") if "score" in row]
    assert rows[0]["part_pairwise:tests.stages.test_any_reward:shorter"] == pytest.approx(0.5)  # of any group
    assert rows[0]["score"] == pytest.approx(0.0, abs=1e-5)
    code, _, message = ppo(command, finetune_run, prompts, tmp_path / "one", reward)
    assert code != 0 and "several answers a prompt" in message.replace("\n", " ")
