"""kill -9 in every stage of the quickstart: the same command again ends in bitwise the same models (minutes long)."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGES = (
    "tokenizer", "functions", "pretrain", "finetune", "preferences", "reward", "held_out_preferences",
    "held_out_reward", "ppo", "evaluate",
)  # fmt: skip
RESULTS = (
    "tokenizer/tokenizer.json", "functions/all.jsonl", "pretrain/model/model.safetensors",
    "finetune/model/model.safetensors", "preferences/train.jsonl", "reward/model/model.safetensors",
    "held_out_reward/model/model.safetensors", "ppo/policy/model.safetensors", "ppo/critic/model.safetensors",
    "evaluate/done.json", "evaluate/samples.jsonl",
)  # fmt: skip
FEWER = (
    "pretrain.tokens=400000", "preferences.max_prompts=600", "held_out_preferences.max_prompts=400", "ppo.iterations=4",
)  # fmt: skip
LONGEST_WAIT = 600.0


def start(out: Path) -> "subprocess.Popen[bytes]":
    # The plan small with fewer tokens: what is killed and begun again is the same.
    command = [
        sys.executable,
        "-m",
        "trine",
        "run",
        "quickstart",
        "--plan",
        "small",
        "--set",
        *FEWER,
        "--out",
        str(out),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_within(stage: Path, process: "subprocess.Popen[bytes]") -> bool:
    """SIGKILL once the stage is under way; False when it was over before that could be seen."""
    deadline = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < deadline and process.poll() is None:
        if (stage / "done.json").exists():
            break
        if (stage / "run.json").exists():
            time.sleep(0.7)
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not (stage / "done.json").exists()


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in RESULTS}


@pytest.mark.slow
def test_the_quickstart_killed_in_each_of_its_stages_makes_bitwise_the_same_models(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait() == 0
    killed = [stage for stage in STAGES if kill_within(tmp_path / "killed" / stage, start(tmp_path / "killed"))]
    assert start(tmp_path / "killed").wait() == 0
    print("killed in:", ", ".join(killed))
    assert {"pretrain", "finetune", "preferences", "reward", "held_out_reward", "ppo", "evaluate"} <= set(killed)
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
