"""Configs of the commands that are no stage: use a model, bring one in or out, run a recipe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trine.config.base import Config, HardwareConfig, NonNegativeInt, PositiveFloat, PositiveInt, Share


class WritingConfig(Config):
    """A model that writes, and how it chooses its words."""

    model: str
    """run or model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    max_new_tokens: PositiveInt = 64
    """token budget of an answer"""
    temperature: Annotated[float, Field(ge=0)] | None = None
    """0 is greedy; 1 samples the model as it is; unset is what the model's makers suggest, else 0.8"""
    top_k: NonNegativeInt | None = None
    """sample among this many likeliest tokens; 0 among all; unset is what the model's makers suggest"""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """sample among the likeliest tokens that have this probability together; unset as above"""
    min_p: Share | None = None
    """sample among tokens at least this share as likely as the likeliest; unset as above"""
    repetition_penalty: PositiveFloat | None = None
    """above 1: what was said before becomes less likely; unset as above"""
    stop_strings: tuple[str, ...] = ()
    """texts that end an answer, and are not shown"""
    weights: Literal["compute", "int8"] = "compute"
    """int8 halves what every token has to read from memory, for a little accuracy"""
    seed: NonNegativeInt = 0
    """the same seed gives the same answers"""
    hardware: HardwareConfig = HardwareConfig()


class GenerateConfig(WritingConfig):
    """Write with a model: continue a text, or answer a question with --chat true."""

    prompt: str
    """the text to continue or the question to answer; '-' reads standard input"""
    chat: bool = False
    """put the prompt into the chat format and answer it"""
    samples: PositiveInt = 1
    """how many answers"""
    json_schema: str | None = None
    """JSON schema, as text, that the answer has to fit"""
    regex: str | None = None
    """regular expression that the whole answer has to match"""


class ChatConfig(WritingConfig):
    """Talk with a model in the terminal."""

    max_new_tokens: PositiveInt = 256
    """token budget of an answer, at most half of the model's context"""
    system: str | None = None
    """what the model is told about itself before the first question"""


class ImportConfig(Config):
    """Bring a model in: open and check it, and write it as a model folder that every command takes."""

    model: str
    """model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub (owner/name/file.gguf for one file)"""
    out: Path
    """model folder to write"""
    overwrite: bool = False
    """replace what is there"""


class ExportConfig(Config):
    """Write a model for other programs: a Hugging Face folder, or a GGUF file for llama.cpp and its kin."""

    model: str
    """run or model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    out: Path
    """folder (--to hf) or .gguf file (--to gguf) to write"""
    to: Literal["hf", "gguf"] = "hf"
    """hf: config.json, safetensors, tokenizer.json. gguf: one file"""
    dtype: Literal["float32", "float16", "bfloat16", "q8_0"] = "float32"
    """how weights are stored; only float32 keeps every bit. q8_0 (8 bits with a scale for every 32) is GGUF's alone"""
    overwrite: bool = False
    """replace what is there"""


class RunConfig(Config):
    """Run a recipe: its stages in order, finished ones skipped, then the report."""

    recipe: str
    """a recipe file, or the name of a built-in recipe"""
    out: Path
    """folder to put every stage's run folder and the report in"""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """scale the recipe's budget to about this many minutes on two CPU cores; unset runs it as written"""
    depth: PositiveInt | None = None
    """the dial: pretrain at this many blocks, the recipe's own batch, learning rates and horizon scaled to match"""
    push_to_hub: str | None = None
    """owner/name on the Hugging Face hub to upload the recipe's last model to (log in with `hf auth login`)"""
    seed: NonNegativeInt = 0
    """changes everything random, and nothing else"""
    overwrite: bool = False
    """start a stage over when its run folder was made with another config, instead of refusing"""
    hardware: HardwareConfig = HardwareConfig()


class QuickstartConfig(Config):
    """The three steps that made ChatGPT on Python code: tokenizer, GPT, reward model, PPO, report."""

    out: Path = Path("runs/quickstart")
    """folder to put every stage's run folder and the report in"""
    minutes: Annotated[float, Field(gt=0)] = 10.0
    """scale the whole budget; counted in tokens and iterations, so the same value gives the same models"""
    seed: NonNegativeInt = 0
    """changes everything random, and nothing else"""
    overwrite: bool = False
    """start a stage over when its run folder was made with another config, instead of refusing"""
    hardware: HardwareConfig = HardwareConfig()


class PushConfig(Config):
    """Upload a finished model to the Hugging Face hub, with a model card: never checkpoints or data."""

    model: Path
    """run or model folder"""
    repository: str
    """owner/name on the hub; made when it does not exist (log in with `hf auth login`)"""
    private: bool = False
    """make the repository private, when it is made"""


class ReportConfig(Config):
    """Draw the report of a recipe's run folders: report.html, and the same as text."""

    out: Path
    """folder that `trine run` or `trine quickstart` wrote, or runs of `trine control`"""
    plots: bool = False
    """write every plot as a file of its own too, plots/*.svg"""
