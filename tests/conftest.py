"""What tests of whole stages share: a small corpus, the runs of every stage on it, and the command line as a call."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.several_processes import preload
from tests.small_corpus import write_corpus
from trine.config.base import HardwareConfig, LoopConfig
from trine.config.corpus import CorpusConfig
from trine.config.evaluation import EvaluateConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.preferences import PreferencesConfig, RewardConfig
from trine.config.rl import PpoConfig
from trine.config.text import FunctionsConfig, ModelShape, PretrainConfig, TokenizerConfig

settings.register_profile("trine", deadline=None)  # a busy machine is no failure
settings.load_profile("trine")
preload()

PLAIN_CPU = HardwareConfig(device="cpu", precision="fp32", threads=1)
SHAPE = ModelShape(layers=2, width=32, heads=2, context=128)
QUIET_LOOP = LoopConfig(save_every=0)
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_hardware_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRINE_DEVICE", raising=False)
    monkeypatch.delenv("TRINE_PRECISION", raising=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs below; to be read, not written."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def corpus_folder(shared: Path) -> Path:
    return write_corpus(shared / "corpus")


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> CorpusConfig:
    return CorpusConfig(folders=(corpus_folder,), held_out_share=0.25)


@pytest.fixture(scope="session")
def tokenizer_run(shared: Path, corpus: CorpusConfig) -> Path:
    from trine.stages.pretraining.tokenizer import run

    return run(TokenizerConfig(out=shared / "tokenizer", corpus=corpus, vocab_size=320, hardware=PLAIN_CPU))


@pytest.fixture(scope="session")
def functions_run(shared: Path, corpus: CorpusConfig, tokenizer_run: Path) -> Path:
    from trine.stages.tasks.functions import run

    return run(FunctionsConfig(out=shared / "functions", corpus=corpus, tokenizer=tokenizer_run, hardware=PLAIN_CPU))


@pytest.fixture(scope="session")
def pretrain_run(shared: Path, corpus: CorpusConfig, tokenizer_run: Path) -> Path:
    from trine.stages.pretraining.pretrain import run

    return run(pretrain_config(shared / "pretrain", corpus, tokenizer_run))


@pytest.fixture(scope="session")
def finetune_run(shared: Path, pretrain_run: Path, functions_run: Path) -> Path:
    from trine.stages.finetuning.finetune import run

    return run(finetune_config(shared / "finetune", pretrain_run, functions_run))


@pytest.fixture(scope="session")
def preferences_run(shared: Path, finetune_run: Path, functions_run: Path) -> Path:
    from trine.stages.preferences.pairs import run

    return run(preferences_config(shared / "preferences", finetune_run, functions_run))


@pytest.fixture(scope="session")
def reward_run(shared: Path, finetune_run: Path, preferences_run: Path) -> Path:
    from trine.stages.preferences.reward import run

    return run(reward_config(shared / "reward", finetune_run, preferences_run))


@pytest.fixture(scope="session")
def ppo_run(shared: Path, finetune_run: Path, functions_run: Path, reward_run: Path) -> Path:
    from trine.stages.rl.ppo import run

    return run(
        PpoConfig(
            out=shared / "ppo", model=finetune_run, prompts=functions_run / "all.jsonl", reward=str(reward_run),
            iterations=2, batch_size=8, minibatch_size=4, micro_batch_size=4, max_new_tokens=16,
            hardware=PLAIN_CPU,
        )
    )  # fmt: skip


def pretrain_config(out: Path, corpus: CorpusConfig, tokenizer: Path, **changes: object) -> PretrainConfig:
    values: dict[str, object] = {
        "out": out, "corpus": corpus, "tokenizer": tokenizer, "model": SHAPE, "tokens": 60 * 4 * 64, "row_tokens": 64,
        "batch_size": 4, "micro_batch_size": 4, "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return PretrainConfig(**values | changes)  # type: ignore[arg-type]


def finetune_config(out: Path, model: Path, functions: Path, **changes: object) -> FinetuneConfig:
    values: dict[str, object] = {
        "out": out, "model": model, "examples": functions / "all.jsonl", "held_out": functions / "held_out.jsonl",
        "epochs": 4.0, "row_tokens": 128, "batch_size": 4, "micro_batch_size": 4, "loop": QUIET_LOOP,
        "hardware": PLAIN_CPU,
    }  # fmt: skip
    return FinetuneConfig(**values | changes)  # type: ignore[arg-type]


def preferences_config(out: Path, model: Path, functions: Path, **changes: object) -> PreferencesConfig:
    values: dict[str, object] = {
        "out": out, "model": model, "examples": functions / "train.jsonl", "held_out": functions / "held_out.jsonl",
        "max_new_tokens": 48, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return PreferencesConfig(**values | changes)  # type: ignore[arg-type]


def reward_config(out: Path, model: Path, preferences: Path, **changes: object) -> RewardConfig:
    values: dict[str, object] = {
        "out": out, "model": model, "preferences": preferences, "batch_size": 4, "micro_batch_size": 4,
        "max_new_tokens": 16, "normalization_samples": 256,
        "loop": QUIET_LOOP, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return RewardConfig(**values | changes)  # type: ignore[arg-type]


def evaluate_config(out: Path, runs: Path, **changes: object) -> EvaluateConfig:
    values: dict[str, object] = {
        "out": out, "before": runs / "finetune", "after": runs / "ppo", "base": runs / "pretrain",
        "reward": runs / "reward", "held_out_reward": runs / "reward", "prompts": runs / "functions" / "held_out.jsonl",
        "max_new_tokens": 16, "shown": 3, "hardware": PLAIN_CPU,
    }  # fmt: skip
    return EvaluateConfig(**values | changes)  # type: ignore[arg-type]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`trine` called inside the test process: (exit code, standard output, standard error)."""
    from trine.cli import commands, main
    from trine.runtime.signals import StopRequest

    monkeypatch.setattr(commands, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(StopRequest, "install", lambda self: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call
