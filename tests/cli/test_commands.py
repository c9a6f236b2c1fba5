"""Generate and chat: results on standard output, words about them on standard error."""

import io
from pathlib import Path

import pytest

from tests.conftest import Command

CPU = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")


def test_generate_continues_the_prompt(command: Command, pretrain_run: Path) -> None:
    code, out, words = command("generate", pretrain_run, "--prompt", "def add_", "--max_new_tokens", 12, *CPU)
    assert (code, words) == (0, "")
    assert out.startswith("def add_") and len(out) > len("def add_\n")


def test_the_same_seed_writes_the_same_and_another_does_not(command: Command, pretrain_run: Path) -> None:
    arguments = ("generate", pretrain_run, "--prompt", "def ", "--temperature", "1.5", *CPU)
    outs = [command(*arguments, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert outs[0] == outs[1] != outs[2]


def test_samples_are_asked_for_by_number_and_differ(command: Command, pretrain_run: Path) -> None:
    arguments = ("--prompt", "x", "--samples", 3, "--temperature", 1.5, "--max_new_tokens", 30)
    _, out, _ = command("generate", pretrain_run, *arguments, *CPU)
    starts = [part for part in out.split("\nx") if part]
    assert len(set(starts)) == 3


def test_the_prompt_may_come_from_standard_input(
    command: Command, pretrain_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("def join_"))
    _, out, _ = command("generate", pretrain_run, "--prompt", "-", "--max_new_tokens", 4, *CPU)
    assert out.startswith("def join_")


def test_an_answer_does_not_repeat_the_question(command: Command, finetune_run: Path) -> None:
    question = 'def add_price_3(first, second):\n    """Add the price 3 times."""'
    code, out, _ = command("generate", finetune_run, "--prompt", question, "--chat", "true", *CPU)
    assert code == 0 and out.strip() and question not in out and "<|im" not in out


def test_chat_answers_line_by_line(command: Command, finetune_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("def f(x):\n\nagain?\n"))
    code, out, words = command("chat", finetune_run, "--max_new_tokens", 8, "--temperature", 1.0, *CPU)
    assert code == 0 and out.strip()
    assert "Ctrl-D leaves. \\n in a line stands for a line break." in words


def test_chat_forgets_the_oldest_turns_when_the_context_is_full(
    command: Command, finetune_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a question of some length, again\n" * 12))
    code, _, _ = command("chat", finetune_run, "--max_new_tokens", 32, *CPU)
    assert code == 0


def test_a_question_longer_than_the_context_is_refused_and_the_conversation_goes_on(
    command: Command, finetune_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what now? " * 100 + "\nwhat now?\n"))
    code, answers, words = command("chat", finetune_run, *CPU)
    assert code == 0 and answers.count("\n") >= 1
    assert "tokens, more than the 64 the model's context leaves; shorten it" in words
