"""Configs of the commands that are not stages: use a model, import and export one, run a recipe."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trine.config.base import Config, HardwareConfig, ModelName, NonNegativeInt, PositiveFloat, PositiveInt, Share, Word
from trine.config.rewards import RewardSetting
from trine.config.values import AS_WRITTEN
from trine.records import Closing, Form


class ModelConfig(Config):
    """A language model by its name."""

    model: ModelName
    """run, model or adapter folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ModelName | None = None
    """LoRA adapter to merge into the model: folder of PEFT's form, run folder, or owner/name on the hub; an adapter
    that names its base can also stand as the model itself"""
    ignore_config_keys: tuple[Word, ...] = ()
    """keys of the model's config.json, adapter_config.json or GGUF metadata to treat as absent, where you know that
    they do not change the results; without it, keys that could are refused by name"""


class OpenConfig(ModelConfig):
    """A language model to open."""

    weights: Literal["compute", "bf16", "int8"] = "compute"
    """compute: the dtype of hardware.precision; bf16, int8: kept in fewer bits, faster and a little less accurate"""
    hardware: HardwareConfig = HardwareConfig()


class SamplingConfig(Config):
    """How an answer is sampled, and when it ends."""

    max_new_tokens: PositiveInt = 64
    """maximum number of tokens to generate"""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """0 is greedy; 1 samples from the model's own distribution; unset: the model's generation_config.json, else 0.8"""
    top_k: NonNegativeInt | None = None
    """sample among the k most likely tokens; 0: among all; unset: the model's generation_config.json"""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """nucleus sampling: sample among the most likely tokens whose probabilities sum to this; unset: as for top_k"""
    min_p: Share | None = None
    """sample among tokens whose probability is at least this share of the most likely one's; unset: as for top_k"""
    repetition_penalty: PositiveFloat | None = None
    """above 1 makes tokens that already occurred less likely; unset: as for top_k"""
    stop_strings: tuple[str, ...] = ()
    """strings that end the answer and are not part of it, as they stand; a line break is $'\\n' in
    bash, "\\n" in YAML; none: those of the model's generation_config.json"""
    json_schema: str | None = None
    """JSON schema, as text, that the answer has to satisfy"""
    regex: str | None = None
    """regular expression that the whole answer has to match"""
    seed: NonNegativeInt = 0
    """the same seed gives the same answers"""


class WritingConfig(SamplingConfig, OpenConfig):
    """A model and how to sample from it."""


class GenerateConfig(WritingConfig):
    """Generate text with a model: continue a prompt, or answer it with --chat."""

    first = ("chat", "max_new_tokens", "temperature", "samples", "stop_strings", "seed")

    prompt: str
    """the text to continue or the question to answer; '-' reads standard input"""
    chat: bool = False
    """format the prompt by the model's chat template and answer it"""
    slots: tuple[str, ...] = ()
    """task tokens of a model that was fine-tuned on some, placed after the prompt, each with the text that follows it:
    --slots '[question]=Who am I?' '[answer]'. The same characters inside the prompt are text"""
    samples: PositiveInt = 1
    """number of answers"""


class ScoreConfig(Config):
    """Score texts with a reward: a line of JSON for each, with its `score`."""

    first = ("file", "closed", "explain")
    unnamed = ("text",)

    model: RewardSetting
    """reward run or model folder, classifier of Hugging Face's form or owner/name of one on the hub,
    package.module:function, or any other reward that PPO takes, such as a sum or mean_minus_std:A,B,C"""
    text: str | None = None
    """the text to score; '-' scores each line of standard input"""
    file: Path | None = None
    """a file to score, also compressed: lines of text, or records (.jsonl, .json, .csv, .parquet) of {text}, {prompt,
    response} or {messages}; "ended": false says that a text was cut. '-' is standard input"""
    form: Form | None = None
    """what `prompt` in a record is: chat: what the user said; text: the text that `response` continues; unset: what the
    reward model reads, else chat"""
    closed: Closing | None = None
    """how a reward model reads a text that was cut: line: to its last whole line, and ended; end: ended where it was
    cut; as_is: unended; unset: as its folder says"""
    explain: NonNegativeInt = 0
    """of a reward by words: show the N words and runs of words that say most, with what each adds to the score"""
    batch_size: PositiveInt = 256
    """texts that are read and scored at a time; changes memory, not scores"""
    hardware: HardwareConfig = HardwareConfig()

    @model_validator(mode="after")
    def _one_source(self) -> "ScoreConfig":
        if (self.text is None) == (self.file is None):
            raise ValueError("give a text to score, or --file FILE; - is standard input")
        return self


class ChatConfig(WritingConfig):
    """Talk with a model in the terminal."""

    first = ("system", "max_new_tokens", "temperature", "seed")

    max_new_tokens: PositiveInt = 256
    """maximum number of tokens of an answer, at most half of the model's context"""
    system: str | None = None
    """system prompt"""
    conversation: Path | None = None
    """a conversation that /save wrote, to go on with: JSON with `messages`"""
    history: bool = True
    """remember messages for the arrow keys, in the user's state folder; only in a terminal"""


class ImportConfig(ModelConfig):
    """Import a model: open and check it, and write it as a model folder that every command accepts."""

    first = ("adapter", "ignore_config_keys", "overwrite")

    out: Path
    """model folder to write"""
    overwrite: bool = False
    """replace existing files"""


class ExportConfig(ModelConfig):
    """Export a model: to a Hugging Face folder, or to a GGUF file for llama.cpp and programs based on it."""

    first = ("to", "dtype", "overwrite")

    out: Path
    """folder (--to hf) or .gguf file (--to gguf) to write"""
    to: Literal["hf", "gguf"] = "hf"
    """hf: config.json, safetensors, tokenizer.json. gguf: one file"""
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float32"
    """dtype of the stored weights; only float32 is lossless; q8_0 (8 bits, one scale per 32 weights): GGUF only"""
    overwrite: bool = False
    """replace existing files"""


class RunConfig(Config):
    """Run a recipe: its stages in order, finished ones skipped, then the report."""

    first = ("plan", "minutes", "depth", "set", "seed")

    recipe: str
    """a recipe file, or the name of a built-in recipe (`trine recipes` lists them)"""
    out: Path
    """folder for the run folders of all stages and the report"""
    plan: str | None = None
    """which of the recipe's plans to follow, where it has some; unset: the largest that takes about its minutes here"""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """of a recipe with plans: follow the largest that takes about this many minutes on this machine. Of another: scale
    its budget to about this many minutes on two CPU cores with bf16 instructions; unset: as written"""
    depth: PositiveInt | None = None
    """pretrain at this many blocks; the recipe's batch size, learning rates and number of tokens are scaled to match"""
    set: tuple[str, ...] | dict[str, Annotated[Any, AS_WRITTEN]] = ()
    """step.key=value, to change a key of a step's config: --set pretrain.tokens=2e6 ppo.iterations=5; or
    name=value, for what a recipe asks for: --set reviews=reviews.jsonl"""
    push_to_hub: str | None = None
    """owner/name on the Hugging Face hub to upload the recipe's last model to (log in with `hf auth login`)"""
    seed: NonNegativeInt = 0
    """random seed of all stages"""
    overwrite: bool = False
    """start a stage over if its run folder was made with another config, instead of refusing"""
    hardware: HardwareConfig = HardwareConfig()


class QuickstartConfig(Config):
    """The three steps that made ChatGPT on Python code: tokenizer, GPT, reward model, PPO, report."""

    first = ("out", "plan", "minutes", "seed")

    out: Path = Path("runs/quickstart")
    """folder for the run folders of all stages and the report"""
    plan: str | None = None
    """small, medium or large: how much of everything, counted in tokens and iterations, so that the same plan and seed
    give the same models on every machine, up to rounding; unset: by --minutes, or as the folder was begun"""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """follow the largest plan that takes about this many minutes on this machine, as fast as it is now; unset: 10, or
    the smallest plan where none is that quick"""
    seed: NonNegativeInt = 0
    """random seed of all stages"""
    overwrite: bool = False
    """start a stage over if its run folder was made with another config, instead of refusing"""
    hardware: HardwareConfig = HardwareConfig()


class PushConfig(Config):
    """Upload a finished model to the Hugging Face hub, with a model card: never checkpoints or data."""

    first = ("private",)

    model: Path
    """run or model folder"""
    repository: str
    """owner/name on the hub; created if it does not exist (log in with `hf auth login`)"""
    private: bool = False
    """create the repository as private, if it does not exist"""


class ReportConfig(Config):
    """Draw the report of a recipe's run folders: report.html, and the same as text."""

    first = ("plots",)

    out: Path
    """folder that `trine run` or `trine quickstart` wrote, or runs of `trine control`"""
    plots: bool = False
    """also write each plot to its own file, plots/*.svg"""


class RecipesConfig(Config):
    """List the built-in recipes."""


class ShowRecipeConfig(Config):
    """Print a built-in recipe, to copy and change: trine recipes show quickstart > my.yaml"""

    recipe: str
    """its name"""


class VerifyConfig(Config):
    """Check the files below a folder: shards against their digests, weights against their headers."""

    folder: Path
    """run folder, recipe folder or model folder; everything below it is read"""


class EnvConfig(Config):
    """Print what a bug report needs: versions, processor, threads, compiler, memory, extras, GPU."""


class CompletionConfig(Config):
    """Print a shell's completion of `trine`: source <(trine completion bash)"""

    shell: Literal["bash", "zsh", "fish"]
    """for bash and zsh: source <(trine completion bash); for fish: trine completion fish | source"""
