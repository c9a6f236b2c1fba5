"""Runs of one kind of character: encoded and learned from in about linear time, and training stops when asked to."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.tiny import TEXT, tiny_tokenizer
from tests.tokenizer.imported import FAMILIES
from tests.tokenizer.test_bpe import backend_ids, rich_tokenizer
from trine.runtime.errors import TrineError
from trine.tokenizer import encoders
from trine.tokenizer.bpe import SPECIAL_TOKENS, train_tokenizer
from trine.tokenizer.tokenizer import Tokenizer

SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]
UNITS = (" ", "\t", "\n", "\u3000", "a", "日", "7", "!", "\u0301", " \n")


@pytest.mark.parametrize("unit", UNITS)
def test_a_million_of_anything_is_encoded(unit: str) -> None:
    """3.1: alone, before and behind text, as a list and as an array."""
    tokenizer, run = tiny_tokenizer(), unit * (1_200_000 // len(unit))
    started = time.process_time()
    ids = tokenizer.encode_array(f"def f():{run}x")
    assert tokenizer.decode(ids.tolist()) == f"def f():{run}x"
    assert len(tokenizer.encode(run)) < 4 * len(run)
    assert time.process_time() - started < 20  # about 1 s; in the square of the length it would be hours


@pytest.mark.parametrize("family", ["smollm2", "llama3", "qwen3", "llama2"])
def test_imported_tokenizers_encode_them_too(family: str, tmp_path: Path) -> None:
    """3.1: by `tokenizers`, whose regular expressions have no such limit."""
    tokenizer = Tokenizer.load(FAMILIES[family](tmp_path))
    for unit in (" ", "\n", "a", "7"):
        assert len(tokenizer.encode(f"x{unit * 200_000}y")) > 1000


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs count as long from 4 characters on, so that every way of cutting is met in short texts."""
    monkeypatch.setattr(encoders, "LONG_RUN", 4)
    monkeypatch.setattr(encoders, "_LONG_RUNS", re.compile(f"(?<!{encoders._SPACE}){encoders._SPACE}{{4,}}"))


mixed = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(SPACES), st.integers(1, 9)).map(lambda pair: pair[0] * pair[1]),
        st.text(alphabet=SPACES, max_size=9),
        st.text(alphabet="ab1!'sé日_\0\u200b\x1c\x1f", max_size=3),
    ),
    max_size=6,
).map("".join)


@pytest.mark.usefixtures("short_limit")
@settings(deadline=None, max_examples=200)
@given(mixed)
def test_cutting_around_long_runs_changes_no_id(text: str) -> None:
    """3.1: the ids are those of `tokenizers`, which cuts nothing."""
    tokenizer = rich_tokenizer()
    expected = backend_ids(text, tokenizer)
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_array(text).tolist() == expected
    assert tokenizer.encode_batch([text, "a", text]) == [expected, tokenizer.encode("a"), expected]


def test_real_limits_change_no_id_either() -> None:
    """3.1: runs on both sides of the limit, among other text."""
    generator = random.Random(0)
    for length in (encoders.LONG_RUN - 1, encoders.LONG_RUN, encoders.LONG_RUN + 1):
        text = "".join(
            generator.choice((TEXT[:50], " " * length, "\n" * length, " \t" * length, "é ")) for _ in range(6)
        )
        assert rich_tokenizer().encode(text) == backend_ids(text, rich_tokenizer())


def test_white_space_is_what_tiktoken_takes_for_it() -> None:
    """3.1: Python's own class has four control characters more."""
    assert [character for character in SPACES if not re.fullmatch(encoders._SPACE, character)] == list(
        "\x1c\x1d\x1e\x1f"
    )


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust; it derives from BaseException."""


@pytest.mark.parametrize("error", [PanicException("index out of bounds"), ValueError("no more stack")])
@pytest.mark.parametrize("family", ["gpt2", "llama3"])
def test_an_error_in_rust_names_tokenizer_and_text(
    error: BaseException, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.1: never a bare BaseException."""
    tokenizer = Tokenizer.load(FAMILIES[family](tmp_path))

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise error

    encoder = tokenizer._encoder
    monkeypatch.setattr(encoder, "_encoding" if family == "gpt2" else "_backend", Broken())
    for encode in (tokenizer.encode, tokenizer.encode_array, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(
            TrineError, match=rf"tokenizer\.json cannot be used: {error}; the text begins with 'some text'"
        ):
            encode("some text")


def test_ctrl_c_is_not_an_error_of_the_tokenizer() -> None:
    """3.1: only errors of the program in Rust are translated."""
    with pytest.raises(KeyboardInterrupt), encoders._errors_of("tokenizer.json", "x"):
        raise KeyboardInterrupt


# Training


def learned_here(texts: list[str], vocab_size: int) -> str:
    """tokenizer.json learned in this process, with nothing cut."""
    backend = HuggingFaceTokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    return backend.to_str(pretty=True)


@pytest.mark.parametrize("longest", [1, 80, 1000])
def test_ordinary_text_teaches_what_it_always_did(longest: int) -> None:
    """3.2: byte for byte, where no piece is longer than the limit."""
    texts = [TEXT, "é日本 " * 50, "", " " * longest + "x", "-" * longest, "\n" * longest, "naïve \u0301 👍🏽 it's"] * 2
    assert train_tokenizer(texts, 330).files.texts["tokenizer.json"] == learned_here(texts, 330)


@pytest.mark.parametrize("unit", [" ", "\n", "a", "=-", "日"])
def test_learning_from_a_run_of_a_million_takes_seconds(unit: str) -> None:
    """3.2: it was quadratic, 18 s for a hundred thousand blanks."""
    started = time.monotonic()
    tokenizer = train_tokenizer([TEXT * 3, f"x{unit * (1_000_000 // len(unit))}y"], 300)
    assert time.monotonic() - started < 60  # about 1 s; it was half an hour
    assert tokenizer.vocab_size == 300


def test_lone_surrogates_do_not_end_training() -> None:
    """3.2: they are replaced, as in encoding."""
    same = train_tokenizer([TEXT, "a \ufffd b"], 300)
    assert train_tokenizer([TEXT, "a \ud800 b"], 300).fingerprint == same.fingerprint


SLOW_TRAINING = """
import random, sys
from trine.runtime.signals import Interrupted, stop_request
from trine.tokenizer.bpe import train_tokenizer
stop_request.install()
generator = random.Random(0)
def texts():
    for _ in range(50):
        yield "".join(generator.choices("acgt", k=100_000))
    print("training", flush=True)
try:
    train_tokenizer(texts(), 60_000)
except Interrupted as stop:
    sys.exit(128 + stop.signal_number)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_training_at_once(number: int) -> None:
    """3.2: it runs for minutes in Rust, where Python hears no signal."""
    process = subprocess.Popen([sys.executable, "-c", SLOW_TRAINING], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"training\n"
    time.sleep(0.5)
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert time.monotonic() - started < 10  # a fraction of a second on a machine that is not busy


@pytest.mark.parametrize("seconds", [0.0, 1.5], ids=["while it reads", "while it trains"])
def test_a_killed_parent_leaves_no_trainer_behind(seconds: float) -> None:
    """3.2: its child would go on for minutes, or for ever."""
    program = SLOW_TRAINING.replace("range(50)", "range(1000)") if seconds == 0 else SLOW_TRAINING
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (children := children_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if seconds:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
    process.kill()
    process.wait()
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children
    assert not any(map(is_alive, children))


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(parent: int) -> list[int]:
    return [child.pid for child in psutil.Process(parent).children()]


def test_a_trainer_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.2: as when the machine is out of memory; no broken pipe."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrineError, match="the process that trains the tokenizer ended with status 1"):
        train_tokenizer([TEXT] * 10_000, 300)
