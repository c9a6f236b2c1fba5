"""Stop a run any way there is, give the same command again: the models are the same to the last bit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command
from tests.several_processes import LONGEST_WAIT, TrineProcess, free_port, rank_environment

HARDWARE = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")


def finish(process: TrineProcess) -> str:
    words = process.words()
    assert process.returncode == 0, words
    return words


def finish_here(command: Command, arguments: list[str]) -> None:
    """In this process: another interpreter than theirs that are stopped, so with another order of sets."""
    code, _, words = command(*arguments)
    assert code == 0, words


def steps(run: Path) -> list[int]:
    """Of the whole rows of metrics.jsonl that tell a loss."""
    if not (run / "metrics.jsonl").exists():
        return []
    lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    return [row["step"] for row in map(json.loads, lines) if "loss" in row]


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def stop(process: TrineProcess, run: Path, after: int, number: signal.Signals) -> tuple[int | None, str]:
    """Send the signal once step `after` is logged; (exit code, what was written)."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not (steps(run) and steps(run)[-1] >= after):
        assert process.returncode is None, f"ended too early: {process.words()}"
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.005)
    process.send_signal(number)
    words = process.words()
    return process.returncode, words


@pytest.fixture
def pretrain(corpus_folder: Path, tokenizer_run: Path) -> Callable[[Path], list[str]]:
    """The command that pretrains into a folder, with a checkpoint every 10 steps."""

    def arguments(out: Path) -> list[str]:
        return [
            "pretrain", "--out", str(out), "--corpus.folders", str(corpus_folder), "--corpus.held_out_share", "0.25",
            "--tokenizer", str(tokenizer_run), "--model.layers", "2", "--model.width", "32", "--model.heads", "2",
            "--model.context", "64", "--tokens", str(150 * 2 * 32), "--row_tokens", "32", "--batch_size", "2",
            "--micro_batch_size", "2", "--loop.save_every", "10", "--loop.evaluate_every", "50", *HARDWARE,
        ]  # fmt: skip

    return arguments


def test_pretraining_stopped_three_ways_ends_in_the_same_bytes(
    tmp_path: Path, pretrain: Callable[[Path], list[str]], command: Command
) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"

    process = TrineProcess(tmp_path, pretrain(run))
    while not steps(run) and process.returncode is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    code, _, words = command(*pretrain(run))
    process.send_signal(signal.SIGCONT)
    assert code == 2 and f"{run} is in use by process {process.pid}" in words

    code, words = stop(process, run, 25, signal.SIGTERM)
    assert code == 143 and "stopped by SIGTERM; the same command continues" in words
    code, words = stop(TrineProcess(tmp_path, pretrain(run)), run, 55, signal.SIGINT)
    assert code == 130 and "continuing after step" in words and "stopped by SIGINT" in words
    code, _ = stop(TrineProcess(tmp_path, pretrain(run)), run, 88, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (run / "done.json").exists() and not (run / "model").exists()

    finish(TrineProcess(tmp_path, pretrain(run)))
    finish_here(command, pretrain(straight))
    assert (run / "model" / "model.safetensors").read_bytes() == (straight / "model" / "model.safetensors").read_bytes()
    assert steps(run) == steps(straight) == list(range(1, 151))


def test_a_control_task_killed_between_checkpoints_ends_in_the_same_bytes(tmp_path: Path, command: Command) -> None:
    """It plays again what was played since each copy's last reset, and then goes on."""

    def control(out: Path) -> list[str]:
        return [
            "control", "CartPole-v1", "--out", str(out), "--total_steps", "20480", "--environments", "4",
            "--loop.save_every", "64", "--evaluation_episodes", "4", "--film", "false",
        ]  # fmt: skip

    run, straight = tmp_path / "run", tmp_path / "straight"
    code, words = stop(TrineProcess(tmp_path, control(run)), run, 100, signal.SIGTERM)
    assert code == 143 and "stopped by SIGTERM; the same command continues" in words
    code, _ = stop(TrineProcess(tmp_path, control(run)), run, 300, signal.SIGKILL)
    assert code == -signal.SIGKILL
    finish(TrineProcess(tmp_path, control(run)))
    finish_here(command, control(straight))
    for name in ("agent/model.safetensors", "agent/agent.json", "done.json"):
        assert (run / name).read_bytes() == (straight / name).read_bytes()
    assert losses(run) == losses(straight)


def ranks(folder: Path, arguments: list[str]) -> list[TrineProcess]:
    """Two processes of one run, each a child whose exit code can be seen; torchrun would show only its own."""
    port = free_port()
    return [TrineProcess(folder, arguments, rank_environment(rank, 2, port)) for rank in range(2)]


def stop_one(processes: list[TrineProcess], run: Path, after: int, number: signal.Signals) -> list[Any]:
    """Send the signal to the second process once step `after` is logged; (exit code, words) of the first and of it."""
    second = stop(processes[1], run, after, number)
    words = processes[0].words()
    return [(processes[0].returncode, words), second]


def test_two_processes_of_which_one_is_stopped_leave_together_and_go_on_as_one(
    tmp_path: Path, pretrain: Callable[..., list[str]], command: Command
) -> None:
    """A signal to one saves and stops both; a killed one takes the other along, which loses at most one interval."""
    run, straight = tmp_path / "run", tmp_path / "straight"
    arguments = pretrain(run)
    (code, words), (other_code, other_words) = stop_one(ranks(tmp_path, arguments), run, 30, signal.SIGTERM)
    assert code == other_code == 143
    assert "stopped by SIGTERM; the same command continues" in words and "stopped" not in other_words
    stopped_at = steps(run)[-1]
    assert (run / "checkpoints" / f"step-{stopped_at:08d}").is_dir()

    (code, words), (other_code, _) = stop_one(ranks(tmp_path, arguments), run, stopped_at + 45, signal.SIGKILL)
    assert (code, other_code) == (2, -signal.SIGKILL)
    assert f"continuing after step {stopped_at} of 150" in words and "Traceback" not in words
    killed_at = steps(run)[-1]

    words = finish(TrineProcess(tmp_path, arguments))
    continued = int(words.split("continuing after step ")[1].split()[0])
    assert killed_at - 10 <= continued <= killed_at
    finish_here(command, pretrain(straight))
    assert steps(run) == steps(straight) == list(range(1, 151))
    assert losses(run) == pytest.approx(losses(straight), rel=1e-2)


@pytest.mark.slow
def test_torchrun_passes_the_signal_on_and_starts_it_again(tmp_path: Path, pretrain: Callable[..., list[str]]) -> None:
    """Its agent serves the processes' store, and leaves with a code of its own."""
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trine"]
    for after in (30, 80):
        process = subprocess.Popen([*launcher, *pretrain(run)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        _, words = stop(process, run, after, signal.SIGTERM)
        assert words.count("stopped by SIGTERM; the same command continues") == 1
        assert (run / "checkpoints" / f"step-{steps(run)[-1]:08d}").is_dir()
    subprocess.run([*launcher, *pretrain(run), "--parallel", "fsdp"], cwd=tmp_path, check=True, timeout=240)
    assert steps(run) == list(range(1, 151)) and (run / "done.json").exists()


REWARD = """
def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in response) / 10 for response in responses]
"""


@pytest.fixture
def ppo(
    tmp_path: Path, finetune_run: Path, functions_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], list[str]]:
    """The command that runs PPO into a folder, 16 iterations of 4 steps with a checkpoint every 3 iterations."""
    (tmp_path / "taste_of_vowels.py").write_text(REWARD)
    monkeypatch.syspath_prepend(tmp_path)

    def arguments(out: Path) -> list[str]:
        return [
            "ppo", "--out", str(out), "--model", str(finetune_run), "--prompts", str(functions_run / "all.jsonl"),
            "--reward", "taste_of_vowels:vowels", "--iterations", "16", "--batch_size", "8", "--minibatch_size", "4",
            "--micro_batch_size", "4", "--max_new_tokens", "12", "--loop.save_every", "12", "--kl.target", "1.0",
            *HARDWARE,
        ]  # fmt: skip

    return arguments


def test_ppo_killed_and_interrupted_ends_in_the_same_bytes(
    tmp_path: Path, ppo: Callable[[Path], list[str]], command: Command
) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    code, _ = stop(TrineProcess(tmp_path, ppo(run)), run, 18, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, words = stop(TrineProcess(tmp_path, ppo(run)), run, 30, signal.SIGTERM)
    assert code == 143 and "ppo: continuing after step 12 of 64" in words
    finish(TrineProcess(tmp_path, ppo(run)))
    finish_here(command, ppo(straight))
    for part in ("policy", "critic"):
        files = [folder / part / "model.safetensors" for folder in (run, straight)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert steps(run) == steps(straight) == list(range(1, 65))


def test_chat_leaves_at_the_first_interrupt(tmp_path: Path, finetune_run: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trine", "chat", str(finetune_run), *HARDWARE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "Ctrl-D leaves" in process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LONGEST_WAIT) in (0, 130)
