# Written by `python -m trine.api.stub`; a test compares.
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trine.api.completion import Completion as Completion
from trine.api.model import Model as Model
from trine.api.model import load as load
from trine.api.recipes import RecipeResult as RecipeResult
from trine.api.recipes import Report as Report
from trine.api.reward import Reward as Reward
from trine.api.reward import load_reward as load_reward
from trine.api.stages import Result as Result
from trine.config.backbones import WordsConfig as WordsConfig
from trine.config.base import HardwareConfig as HardwareConfig
from trine.config.base import LoopConfig as LoopConfig
from trine.config.base import OptimizerConfig as OptimizerConfig
from trine.config.corpus import CorpusConfig as CorpusConfig
from trine.config.finetuning import DataSetConfig as DataSetConfig
from trine.config.lora import LoraConfig as LoraConfig
from trine.config.preferences import CutsConfig as CutsConfig
from trine.config.preferences import KindWeights as KindWeights
from trine.config.rewards import RewardSum as RewardSum
from trine.config.rl import CriticTrainingConfig as CriticTrainingConfig
from trine.config.rl import KlConfig as KlConfig
from trine.config.sandbox import Limits as Limits
from trine.config.text import ModelShape as ModelShape
from trine.records import Message as Message
from trine.runtime.errors import TrineError as TrineError
from trine.sandbox.running import Verdict as Verdict
from trine.sandbox.running import run_tests as run_tests
from trine.sandbox.running import run_tests_batch as run_tests_batch

_Path = str | os.PathLike[str]

__version__: str

def train_tokenizer(
    out: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    corpus: CorpusConfig | Mapping[str, Any] = ...,
    vocab_size: int = ...,
    max_bytes: int = ...,
) -> Result:
    """Train a byte-level BPE tokenizer on a corpus."""

def shards(
    out: _Path,
    tokenizer: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    corpus: CorpusConfig | Mapping[str, Any] = ...,
) -> Result:
    """Encode a corpus once into memory-mapped token shards, for any number of pretraining runs."""

def pretrain(
    out: _Path,
    tokenizer: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    corpus: CorpusConfig | Mapping[str, Any] = ...,
    depth: int | None = ...,
    tokens_per_parameter: float = ...,
    shards: _Path | None = ...,
    packing: Literal["packed", "windows", "stream"] = ...,
    model: ModelShape | Mapping[str, Any] = ...,
    tokens: int = ...,
    epochs: float | None = ...,
    row_tokens: int = ...,
    batch_size: int = ...,
    micro_batch_size: int = ...,
    evaluation_tokens: int = ...,
    recompute_blocks: bool = ...,
    compile: Literal["auto", "on", "off"] = ...,
    parallel: Literal["auto", "ddp", "fsdp"] = ...,
    sample_prompts: Sequence[str] = ...,
    sample_tokens: int = ...,
    push_to_hub: str | None = ...,
    push_private: bool = ...,
    optimizer: OptimizerConfig | Mapping[str, Any] = ...,
    loop: LoopConfig | Mapping[str, Any] = ...,
) -> Result:
    """Train a GPT from scratch on plain text."""

def functions(
    out: _Path,
    tokenizer: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    corpus: CorpusConfig | Mapping[str, Any] = ...,
    max_prompt_tokens: int = ...,
    max_response_tokens: int = ...,
    min_response_tokens: int = ...,
    held_out_reward_share: float = ...,
) -> Result:
    """Mine tasks from code: the prompt is a signature with its docstring, the response the body that a person wrote."""

def split(
    out: _Path,
    records: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    parts: Mapping[str, float] = ...,
    by: str | None = ...,
    max_records: int = ...,
) -> Result:
    """Divide texts with labels or scores into parts that have no group in common, such as no film."""

def finetune(
    out: _Path,
    model: _Path,
    examples: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    adapter: _Path | None = ...,
    held_out: _Path | None = ...,
    held_out_share: float = ...,
    dataset: DataSetConfig | Mapping[str, Any] = ...,
    chat_template: _Path | None = ...,
    train: Literal["all", "last"] = ...,
    too_long: Literal["stop", "cut", "drop"] = ...,
    show: int = ...,
    epochs: float = ...,
    row_tokens: int = ...,
    batch_size: int = ...,
    micro_batch_size: int = ...,
    prompt_weight: float = ...,
    task: Literal["classify", "entail", "similar", "choose"] | None = ...,
    trains: Literal["everything", "head"] = ...,
    auxiliary_weight: float = ...,
    truncation_side: Literal["right", "left"] = ...,
    held_out_by: str | None = ...,
    compare_with: _Path | None = ...,
    task_tokens: Sequence[str] = ...,
    parallel: Literal["auto", "ddp", "fsdp"] = ...,
    evaluate_tasks: Sequence[str] = ...,
    task_data: Mapping[str, str] = ...,
    keep_best: str | None = ...,
    lora: LoraConfig | Mapping[str, Any] = ...,
    optimizer: OptimizerConfig | Mapping[str, Any] = ...,
    loop: LoopConfig | Mapping[str, Any] = ...,
) -> Result:
    """Fine-tune a model on conversations, packed several to a row."""

def preferences(
    out: _Path,
    model: _Path,
    examples: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    adapter: _Path | None = ...,
    held_out: _Path | None = ...,
    samples: int = ...,
    held_out_samples: int = ...,
    max_prompts: int = ...,
    mismatched_share: float = ...,
    max_new_tokens: int = ...,
    temperature: float = ...,
    rows: int = ...,
) -> Result:
    """Make preference pairs without a labeller: chosen is the answer a person wrote, rejected one the model samples."""

def reward(
    out: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    model: _Path = ...,
    kind: Literal["model", "encoder", "words"] = ...,
    adapter: _Path | None = ...,
    labels: Sequence[_Path] = ...,
    scores: Sequence[_Path] = ...,
    pairs: Sequence[_Path] = ...,
    rankings: Sequence[_Path] = ...,
    judgements: Sequence[_Path] = ...,
    preferences: _Path | None = ...,
    held_out: Sequence[_Path] = ...,
    held_out_share: float = ...,
    held_out_by: str | None = ...,
    dataset: DataSetConfig | Mapping[str, Any] = ...,
    form: Literal["chat", "text"] | None = ...,
    fields: Mapping[str, str] = ...,
    positive: Sequence[str] = ...,
    words: WordsConfig | Mapping[str, Any] = ...,
    weights: KindWeights | Mapping[str, Any] = ...,
    cuts: CutsConfig | Mapping[str, Any] = ...,
    max_tokens: int | None = ...,
    too_long: Literal["stop", "cut", "drop"] = ...,
    truncation_side: Literal["right", "left"] = ...,
    epochs: float = ...,
    batch_size: int = ...,
    micro_batch_size: int = ...,
    ranking_loss: Literal["pairs", "plackett_luce"] = ...,
    margin: float = ...,
    label_smoothing: float = ...,
    centring: float = ...,
    parallel: Literal["auto", "ddp", "fsdp"] = ...,
    normalize: Literal["auto", "on", "off"] = ...,
    reference: _Path | None = ...,
    other: _Path | None = ...,
    normalization_samples: int = ...,
    max_new_tokens: int = ...,
    temperature: float = ...,
    closed: Literal["line", "end", "as_is"] | None = ...,
    lora: LoraConfig | Mapping[str, Any] = ...,
    optimizer: OptimizerConfig | Mapping[str, Any] = ...,
    loop: LoopConfig | Mapping[str, Any] = ...,
) -> Result:
    """Train a reward model on labels, scores, pairs and rankings."""

def preview(
    out: _Path,
    model: _Path,
    reward: _Path | RewardSum | Mapping[str, Any],
    other: _Path | RewardSum | Mapping[str, Any],
    prompts: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    adapter: _Path | None = ...,
    form: Literal["chat", "text"] = ...,
    query_tokens: Sequence[int] = ...,
    samples: int = ...,
    max_prompts: int = ...,
    max_new_tokens: int = ...,
    temperature: float = ...,
    closed: Literal["line", "end", "as_is"] | None = ...,
    rows: int = ...,
) -> Result:
    """Preview over-optimisation before PPO: what of a reward's gain another reward model keeps, by best-of-n."""

def ppo(
    out: _Path,
    model: _Path,
    prompts: _Path,
    reward: _Path | RewardSum | Mapping[str, Any] | None,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    gamma: float = ...,
    gae_lambda: float = ...,
    epochs: int = ...,
    clip_range: float | None = ...,
    clip_range_high: float | None = ...,
    dual_clip_range: float | None = ...,
    value_clip_range: float | None = ...,
    value_weight: float = ...,
    entropy_weight: float = ...,
    adapter: _Path | None = ...,
    reference: _Path | None = ...,
    form: Literal["chat", "text"] = ...,
    query_tokens: Sequence[int] = ...,
    user: str | None = ...,
    max_turns: int = ...,
    closed: Literal["line", "end", "as_is"] | None = ...,
    critic: Literal["shared", "policy", "reward"] = ...,
    value_head: Literal["zero", "fitted"] = ...,
    critic_model: _Path | None = ...,
    critic_warmup: int = ...,
    critic_training: CriticTrainingConfig | Mapping[str, Any] = ...,
    iterations: int = ...,
    batch_size: int = ...,
    samples_per_prompt: int = ...,
    minibatch_size: int = ...,
    micro_batch_size: int = ...,
    recompute_blocks: bool = ...,
    parallel: Literal["auto", "ddp", "fsdp"] = ...,
    reward_overlap: int = ...,
    early_stop_kl: float | None = ...,
    old_log_probs: Literal["trainer", "engine", "corrected"] = ...,
    importance_cap: float = ...,
    return_lambda: float | None = ...,
    max_new_tokens: int = ...,
    stop_strings: Sequence[str] = ...,
    temperature: float = ...,
    missing_eos_penalty: float = ...,
    penalty_unit: Literal["score", "deviation"] = ...,
    missing_eos_score: float | None = ...,
    score_scaling: Literal["none", "scale", "normalize"] = ...,
    score_clip: float | None = ...,
    held_out: _Path | None = ...,
    held_out_size: int = ...,
    keep_best: bool = ...,
    best_max_kl: float | None = ...,
    held_out_reward: _Path | RewardSum | Mapping[str, Any] | None = ...,
    held_out_every: int = ...,
    samples_every: int = ...,
    sample_count: int = ...,
    show: int = ...,
    kl: KlConfig | Mapping[str, Any] = ...,
    lora: LoraConfig | Mapping[str, Any] = ...,
    optimizer: OptimizerConfig | Mapping[str, Any] = ...,
    loop: LoopConfig | Mapping[str, Any] = ...,
) -> Result:
    """Train a policy against a reward by PPO, with a KL penalty against a reference."""

def dpo(
    out: _Path,
    model: _Path,
    preferences: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    adapter: _Path | None = ...,
    held_out: _Path | None = ...,
    fields: Mapping[str, str] = ...,
    positive: Sequence[str] = ...,
    form: Literal["chat", "text"] = ...,
    loss: Literal["dpo", "robust", "hinge", "ipo", "kto", "simpo", "orpo"] = ...,
    beta: float | None = ...,
    gamma: float = ...,
    ipo_reduction: Literal["mean", "sum"] = ...,
    label_smoothing: float = ...,
    length_normalized: bool = ...,
    chosen_weight: float = ...,
    desirable_weight: float | None = ...,
    undesirable_weight: float | None = ...,
    max_tokens: int | None = ...,
    too_long: Literal["stop", "cut", "drop"] = ...,
    epochs: float = ...,
    batch_size: int = ...,
    micro_batch_size: int = ...,
    share_prompt: bool = ...,
    parallel: Literal["auto", "ddp", "fsdp"] = ...,
    lora: LoraConfig | Mapping[str, Any] = ...,
    optimizer: OptimizerConfig | Mapping[str, Any] = ...,
    loop: LoopConfig | Mapping[str, Any] = ...,
) -> Result:
    """Improve a policy on preferences without sampling: DPO, IPO, KTO, SimPO, ORPO."""

def best_of_n(
    out: _Path,
    model: _Path,
    prompts: _Path,
    reward: _Path,
    *,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    adapter: _Path | None = ...,
    form: Literal["chat", "text"] = ...,
    query_tokens: Sequence[int] = ...,
    closed: Literal["line", "end", "as_is"] | None = ...,
    samples: int = ...,
    max_prompts: int = ...,
    max_new_tokens: int = ...,
    temperature: float = ...,
    rows: int = ...,
) -> Result:
    """Sample n answers to each prompt and write the one that a reward scores highest, as examples for finetune."""

def control(
    environment: str,
    *,
    out: _Path = ...,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    gamma: float = ...,
    gae_lambda: float = ...,
    epochs: int = ...,
    clip_range: float | None = ...,
    clip_range_high: float | None = ...,
    dual_clip_range: float | None = ...,
    value_clip_range: float | None = ...,
    value_weight: float = ...,
    entropy_weight: float = ...,
    algorithm: Literal["reinforce", "actor_critic", "ppo"] = ...,
    environment_options: Mapping[str, Any] = ...,
    environments: int = ...,
    fresh_environments: bool = ...,
    total_steps: int = ...,
    rollout_steps: int | None = ...,
    truncation: Literal["bootstrap", "terminal"] = ...,
    minibatches: int = ...,
    normalize_advantages: Literal["rollout", "minibatch", "none"] = ...,
    normalize_observations: bool = ...,
    normalize_rewards: bool = ...,
    hidden: Sequence[int] = ...,
    evaluation_episodes: int = ...,
    film: bool = ...,
    resume: Literal["exact", "new_episodes"] = ...,
    optimizer: OptimizerConfig | Mapping[str, Any] = ...,
    loop: LoopConfig | Mapping[str, Any] = ...,
) -> Result:
    """Train an agent in a Gymnasium environment: REINFORCE, actor-critic or PPO."""

def evaluate(
    *,
    out: _Path = ...,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
    models: Sequence[_Path] = ...,
    tasks: Sequence[str] = ...,
    data: Mapping[str, str] = ...,
    chat: Sequence[_Path] = ...,
    write_examples: bool = ...,
    json: bool = ...,
    fail_if_worse: bool = ...,
    before: _Path | None = ...,
    after: _Path | None = ...,
    base: _Path | None = ...,
    reward: _Path | RewardSum | Mapping[str, Any] | None = ...,
    held_out_reward: _Path | RewardSum | Mapping[str, Any] | None = ...,
    prompts: _Path | None = ...,
    form: Literal["chat", "text"] = ...,
    query_tokens: Sequence[int] = ...,
    max_prompts: int = ...,
    stop_strings: Sequence[str] = ...,
    max_new_tokens: int = ...,
    temperature: float = ...,
    samples: int = ...,
    closed: Literal["line", "end", "as_is"] | None = ...,
    shown: int = ...,
) -> Result:
    """Ask models tasks, with intervals; or compare a policy before and after PPO on held-out prompts."""

def run(
    recipe: str,
    out: _Path,
    *,
    plan: str | None = ...,
    minutes: float | None = ...,
    depth: int | None = ...,
    set: Sequence[str] | Mapping[str, Any] = ...,
    push_to_hub: str | None = ...,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
) -> RecipeResult:
    """Run a recipe: its stages in order, finished ones skipped, then the report."""

def quickstart(
    *,
    out: _Path = ...,
    plan: str | None = ...,
    minutes: float | None = ...,
    seed: int = ...,
    overwrite: bool = ...,
    hardware: HardwareConfig | Mapping[str, Any] = ...,
) -> RecipeResult:
    """The three steps that made ChatGPT on Python code: tokenizer, GPT, reward model, PPO, report."""

def write_report(
    out: _Path,
    *,
    plots: bool = ...,
) -> Report:
    """Draw the report of a recipe's run folders: report.html, and the same as text."""
