"""Generate and chat: results on standard output, words about them on standard error."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

import trine
from tests.conftest import Command
from trine.cli.answer_output import AnswerOutput

CPU = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")


def test_generate_continues_the_prompt(command: Command, pretrain_run: Path) -> None:
    code, out, words = command("generate", pretrain_run, "--prompt", "def add_", "--max_new_tokens", 12, *CPU)
    assert code == 0 and words.count("\n") <= 1  # whether it was cut
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
    assert code == 2 and answers.count("\n") >= 1
    assert "tokens, more than the 64 the model's context leaves; shorten it" in words


@pytest.mark.parametrize(("samples", "words"), [(1, "the answer was cut"), (3, "3 of 3 answers were cut")])
def test_generate_says_what_the_budget_cut(command: Command, pretrain_run: Path, samples: int, words: str) -> None:
    """5.8: on standard error; standard output holds the answers alone."""
    arguments = ("generate", pretrain_run, "--prompt", "a digit: ", "--regex", "[0-9]{50}", "--samples", samples, *CPU)
    code, out, said = command(*arguments, "--max_new_tokens", 8)
    assert code == 0
    assert said == f"{words} after 8 tokens, before what --regex asks for was complete; --max_new_tokens raises that\n"
    assert all(re.fullmatch(r"a digit: [0-9]{8}", line) for line in out.splitlines())
    assert out.count("\n") == samples
    code, out, said = command(*arguments, "--max_new_tokens", 60)
    assert (code, said) == (0, "") and all(re.fullmatch(r"a digit: [0-9]{50}", line) for line in out.splitlines())


@pytest.mark.parametrize("chat", ["false", "true"])
def test_generate_says_of_any_answer_whether_it_was_cut(command: Command, finetune_run: Path, chat: str) -> None:
    """5.8: as often as the answers' own stop reasons say."""
    arguments = ("generate", finetune_run, "--prompt", "def f():", "--chat", chat, "--temperature", "1.5", *CPU)
    said = [command(*arguments, "--seed", seed, "--max_new_tokens", 24)[2] for seed in range(4)]
    model = trine.load(str(finetune_run), device="cpu", precision="fp32")
    settings: Any = {"max_new_tokens": 24, "temperature": 1.5}
    for seed, words in enumerate(said):
        if chat == "true":
            answer = model.chat([{"role": "user", "content": "def f():"}], seed=seed, **settings)
        else:
            answer = model.generate("def f():", seed=seed, **settings)
        assert ("the answer was cut after 24 tokens;" in words) == (answer.stop_reason == "length")


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"def f():\n    '\xe4'", "standard input, line 2: not UTF-8 at byte 6 (0xe4)"), (b"", "standard input is empty")],
)
def test_a_prompt_that_is_no_text_is_named_with_its_place(
    command: Command, pretrain_run: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, words: str
) -> None:
    """3.6: exit code 2 before a model is opened."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, out, said = command("generate", pretrain_run, "--prompt", "-", *CPU)
    assert (code, out) == (2, "") and words in said


def test_a_terminal_is_shown_control_characters_a_file_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b[31mb\x07\tc\r\n\x9b你"
    for terminal, expected in ((True, "a\u241b[31mb\u2407\tc\u240d\n\ufffd你"), (False, text)):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        AnswerOutput(stream).write(text)
        assert stream.getvalue() == expected
