"""Config of the stage best_of_n: examples to fine-tune on, each the best of n samples."""

from pathlib import Path

from pydantic import model_validator

from trine.config.base import ModelName, NonNegativeInt, PositiveFloat, PositiveInt, StageConfig
from trine.config.queries import check_query_tokens
from trine.config.resumption import ByContent, ChangesBits
from trine.config.rewards import RewardSetting
from trine.records import Closing, Form


class BestOfNConfig(StageConfig):
    """Sample n answers to each prompt; write the best by a reward as examples, and pairs and thumbs for dpo."""

    first = ("samples", "max_prompts", "max_new_tokens", "temperature")

    model: ByContent[ModelName]
    """model to sample from: run, model or adapter folder, .gguf file, smollm2, or owner/name on the Hugging Face hub"""
    adapter: ByContent[ModelName | None] = None
    """LoRA adapter to merge into the model first: folder of PEFT's form, run folder, or owner/name on the hub"""
    prompts: ByContent[Path]
    """what is answered, in any form that trine ppo reads; reward functions may ask for the other fields"""
    form: Form = "chat"
    """chat: prompts are conversations; text: plain text that the answer continues, and the examples are whole texts"""
    query_tokens: tuple[PositiveInt, ...] = ()
    """with form text: two numbers, such as [2, 8]. The query is only the first so many tokens of a record's text, a
    number between these two that the seed draws for each; empty: all of the text"""
    reward: ByContent[RewardSetting]
    """what chooses the best: any reward that trine ppo takes, a sum of several too (docs/reward-models.md)"""
    closed: Closing | None = None
    """how a reward model reads an answer that was cut at max_new_tokens; null: as its folder says"""
    samples: PositiveInt = 8
    """n: answers sampled for each prompt"""
    max_prompts: NonNegativeInt = 0
    """use at most this many prompts, chosen at random; 0 uses all"""
    max_new_tokens: PositiveInt = 64
    """token budget of an answer; one that does not end within it is left out, since it would be taught to end where it
    was cut"""
    keep_cut: bool = False
    """with form text: answers that were cut at max_new_tokens count too; their records say ended=false, so that no end
    is learned from them"""
    temperature: PositiveFloat = 1.0
    """sampling temperature"""
    rows: ChangesBits[PositiveInt] = 256
    """answers generated in parallel; changes speed and memory only"""

    @model_validator(mode="after")
    def _of_text(self) -> "BestOfNConfig":
        check_query_tokens(self.query_tokens, self.form)
        if self.keep_cut and self.form == "chat":
            raise ValueError("keep_cut is of plain text; an answer in a conversation has to end: add form=text")
        return self
