"""Config of the stage split."""

import re
from pathlib import Path

from pydantic import Field, model_validator

from trine.config.base import NonNegativeInt, Share, StageConfig
from trine.config.resumption import ByContent
from trine.records import Form

_NAME = re.compile(r"\w[\w.-]*")


class SplitConfig(StageConfig):
    """Divide texts or conversations into parts that have no group in common, such as no film."""

    first = ("parts", "by", "form", "max_records")

    records: ByContent[Path]
    """texts: JSON Lines, JSON, CSV or Parquet (also compressed) with a field text, sentence or review, or a folder of
    such files; folders named by their labels, as aclImdb; or owner/name of a data set on the Hugging Face hub; with
    form chat conversations, or prompts alone, in any form that `trine ppo` reads"""
    form: Form = "text"
    """text: the records are texts, with labels, scores or whatever else; chat: prompts, with or without answers"""
    parts: dict[str, Share] = Field(default={"train": 0.9, "held_out": 0.1})
    """parts to write, as parts/NAME.jsonl, each with its share of the groups; what is left over is in none"""
    by: str | None = None
    """field whose records all go into one part, such as movie; of records without it, and null: the text; of
    prompts their field group, or the prompt"""
    max_records: NonNegativeInt = 0
    """use at most this many records, chosen by seed; 0 uses all"""

    @model_validator(mode="after")
    def _are_shares(self) -> "SplitConfig":
        total = sum(self.parts.values())
        if not self.parts or total > 1 + 1e-9:
            raise ValueError(f"parts={self.parts} are shares of the groups: give at least one, of 1 together at most")
        strange = next((name for name in self.parts if not _NAME.fullmatch(name)), None)
        if strange is not None:
            raise ValueError(f"{strange!r} cannot name a part: a part's name is that of its file")
        return self
