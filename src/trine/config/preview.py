"""Config of the stage preview."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from trine.config.base import ModelName, NonNegativeInt, PositiveFloat, PositiveInt, StageConfig
from trine.config.queries import check_query_tokens
from trine.config.resumption import ByContent, ChangesBits
from trine.config.rewards import RewardSetting
from trine.records import Closing, Form


class PreviewConfig(StageConfig):
    """Preview over-optimisation before PPO: what of a reward's gain another reward model keeps, by best-of-n."""

    first = ("samples", "max_prompts", "max_new_tokens", "form")

    model: ByContent[ModelName]
    """policy that PPO will start from: run, model or adapter folder, .gguf file, smollm2, or owner/name on the hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    reward: ByContent[RewardSetting]
    """reward that PPO will maximise, which chooses the best of n: a reward model, or any that `trine ppo` takes"""
    other: ByContent[RewardSetting]
    """another reward, which scores what the first one chose: of another seed, other data or another kind"""
    prompts: ByContent[Path]
    """prompts in any form that `trine ppo` reads; best those held out from the reward models"""
    form: Form = "chat"
    """chat: the policy answers conversations in its chat format; text: it continues plain text"""
    query_tokens: tuple[PositiveInt, ...] = ()
    """with form text: two numbers, such as [2, 8]. The query is only the first so many tokens of a record's text, a
    number between these two, both included, that the seed draws for each; empty: all of the text"""
    samples: Annotated[int, Field(ge=2)] = 64
    """answers sampled per prompt; n is 1, 2, 4 ... up to this"""
    max_prompts: NonNegativeInt = 64
    """use at most this many prompts, chosen at random; 0 uses all. Intervals are over prompts"""
    max_new_tokens: PositiveInt = 64
    """token budget of an answer: that of the PPO to come"""
    temperature: PositiveFloat = 1.0
    """sampling temperature: that of the PPO to come"""
    closed: Closing | None = None
    """how reward models read an answer that was cut at max_new_tokens; null: as each one's folder says"""
    rows: ChangesBits[PositiveInt] = 256
    """answers generated in parallel; changes speed and memory only"""

    @model_validator(mode="after")
    def _queries(self) -> "PreviewConfig":
        check_query_tokens(self.query_tokens, self.form)
        return self
