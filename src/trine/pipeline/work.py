"""How much work the stages of a recipe are, in tokens, so that speeds measured on a machine give seconds on it.

An estimate, for recipes whose tasks are mined from code as the quickstart's are: how many tasks there are and how long
they are is known only once they are mined, so the figures below are those of the quickstart's corpus.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trine.config.base import StageConfig
from trine.config.evaluation import EvaluateConfig
from trine.config.finetuning import FinetuneConfig
from trine.config.preferences import PreferencesConfig, RewardConfig
from trine.config.rl import PpoConfig
from trine.config.text import FunctionsConfig, PretrainConfig, TokenizerConfig
from trine.pipeline.speeds import Speeds

# Tasks of the quickstart's corpus: for fine-tuning, for a reward model, held out; tokens of a prompt and of an answer.
TASKS, TASKS_FOR_PAIRS, HELD_OUT, PROMPT, ANSWER = 6522, 3969, 321, 41, 31
# How often the beginning of an answer is scored, of 8, 16, 32 words (`stages/preferences/worth_texts.py`).
CUTS = 1.5
# Tokens of the text held out from pretraining, all of which its final evaluation reads.
HELD_OUT_TEXT = 370_000
# A forward pass is a third of a forward and backward pass; of a model without its output layer this share is left.
FORWARD, TRUNK = 1 / 3, 0.7
# PPO's rows are short, padded and few at a time: a token takes a little longer than one of pretraining (docs/LOG.md).
PADDED = 1.1
# How often `ast.py` is parsed in the time of: training the tokenizer, mining tasks, encoding shards, the classifiers
# that a reward model is compared with, the checks of an evaluation.
TOKENIZER, FUNCTIONS, ENCODING, CLASSIFIERS, CHECKS = 350, 1000, 500, 300, 300


@dataclass(frozen=True)
class Work:
    """Tokens trained on, tokens sampled, and files parsed (`Speeds`, its units)."""

    trained: float = 0.0
    sampled: float = 0.0
    parsed: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.trained + other.trained, self.sampled + other.sampled, self.parsed + other.parsed)

    def seconds(self, speeds: Speeds) -> float:
        """How long it takes at these speeds."""
        return self.trained / speeds.training + self.sampled / speeds.sampling + self.parsed / speeds.parsing


def seconds_of(configs: Iterable[StageConfig], speeds: Speeds) -> float:
    """How long the stages of these configs take, one after the other."""
    earlier: dict[Path, StageConfig] = {}
    total = 0.0
    for config in configs:
        total += work_of(config, earlier).seconds(speeds)
        earlier[config.out] = config
    return total


def work_of(config: StageConfig, earlier: Mapping[Path, StageConfig]) -> Work:
    """The work of one stage; none for a stage that the quickstart does not have. `earlier`: configs by run folder."""
    match config:
        case TokenizerConfig():
            work = Work(parsed=TOKENIZER)
        case FunctionsConfig():
            work = Work(parsed=FUNCTIONS)
        case PretrainConfig():
            work = _pretraining(config)
        case FinetuneConfig():
            work = Work(trained=(config.epochs * TASKS + FORWARD * HELD_OUT) * (PROMPT + ANSWER))
        case PreferencesConfig():
            work = _sampled(_prompts(config) * config.samples + HELD_OUT * config.held_out_samples)
        case RewardConfig():
            work = _reward(config, earlier.get(config.preferences) if config.preferences else None)
        case PpoConfig():
            work = _ppo(config)
        case EvaluateConfig():
            work = _sampled(2 * HELD_OUT * config.samples) + Work(parsed=CHECKS)
        case _:
            work = Work()
    return work


def _pretraining(config: PretrainConfig) -> Work:
    steps = config.tokens // (config.batch_size * config.row_tokens)
    evaluations = steps // config.loop.evaluate_every if config.loop.evaluate_every else 0
    read = 2 * config.evaluation_tokens * evaluations + HELD_OUT_TEXT  # of the standard library and of packages
    return Work(config.tokens + FORWARD * read, parsed=ENCODING)


def _prompts(config: PreferencesConfig) -> int:
    return min(config.max_prompts or TASKS_FOR_PAIRS, TASKS_FOR_PAIRS)


def _sampled(answers: float) -> Work:
    """Answers sampled, their prompts read first."""
    return Work(FORWARD * answers * PROMPT, answers * ANSWER)


def _reward(config: RewardConfig, made: StageConfig | None) -> Work:
    """Prompt and both answers of every pair in one row; then the samples that its scores are normalized on."""
    pairs = _prompts(made) * made.samples if isinstance(made, PreferencesConfig) else TASKS_FOR_PAIRS
    held_out = HELD_OUT * made.held_out_samples if isinstance(made, PreferencesConfig) else HELD_OUT
    rows = config.epochs * pairs + FORWARD * held_out
    cut = FORWARD * CUTS * 2 * held_out * (PROMPT + ANSWER / 2)  # answers' first words, scored one by one
    return _sampled(config.normalization_samples) + Work(
        TRUNK * (rows * (PROMPT + 2 * ANSWER) + cut), parsed=CLASSIFIERS
    )


def _ppo(config: PpoConfig) -> Work:
    """Sampled; read by reward model, policy, reference and critic; then policy and critic trained in every epoch."""
    responses = config.iterations * config.batch_size
    passes = FORWARD * (2 + 2 * TRUNK) + config.epochs * (1 + TRUNK)
    return _sampled(responses) + Work(PADDED * responses * passes * (PROMPT + ANSWER))
