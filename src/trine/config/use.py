"""Configs of the commands that use a model: generate and chat."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from trine.config.base import Config, HardwareConfig, NonNegativeInt, PositiveInt


class GenerateConfig(Config):
    """Write with a model: continue a text, or answer a question with --chat true."""

    model: Path
    """run or model folder"""
    prompt: str
    """the text to continue or the question to answer; '-' reads standard input"""
    chat: bool = False
    """put the prompt into the chat format and answer it"""
    max_new_tokens: PositiveInt = 64
    """token budget of the answer"""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    """0 is greedy; 1 samples the model as it is"""
    samples: PositiveInt = 1
    """how many answers"""
    seed: NonNegativeInt = 0
    """the same seed gives the same answers"""
    hardware: HardwareConfig = HardwareConfig()


class ChatConfig(Config):
    """Talk with a model in the terminal."""

    model: Path
    """run or model folder"""
    max_new_tokens: PositiveInt = 64
    """token budget of an answer"""
    temperature: Annotated[float, Field(ge=0)] = 0.8
    """0 is greedy; 1 samples the model as it is"""
    seed: NonNegativeInt = 0
    """the same seed and the same questions give the same conversation"""
    hardware: HardwareConfig = HardwareConfig()


class RunConfig(Config):
    """Run a recipe: its stages in order, finished ones skipped, then the report."""

    recipe: str
    """a recipe file, or the name of a built-in recipe"""
    out: Path
    """folder to put every stage's run folder and the report in"""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """scale the recipe's budget to about this many minutes on two CPU cores; unset runs it as written"""
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


class ReportConfig(Config):
    """Draw the report of a recipe's run folders: report.html, and the same as text."""

    out: Path
    """folder that `trine run` or `trine quickstart` wrote"""
