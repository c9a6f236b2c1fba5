"""What every stage's config shares. Each default lives here or beside it, once; each field's doc is its `--help`.

These modules import nothing heavy, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Config(BaseModel):
    """Immutable; a key that is not a field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class HardwareConfig(Config):
    """Where and how precisely to compute."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """dtype of matrix products; master weights are always fp32. auto: bf16 where the hardware has it"""
    threads: NonNegativeInt = 0
    """CPU threads; 0 takes all cores"""


class StageConfig(Config):
    """What every stage takes."""

    out: Path
    """run folder to write; continuing an unfinished run is the same command again"""
    seed: NonNegativeInt = 0
    """changes everything random, and nothing else"""
    overwrite: bool = False
    """start over when the run folder was made with another config, instead of refusing"""
    hardware: HardwareConfig = HardwareConfig()


class OptimizerConfig(Config):
    """How weights move."""

    kind: Literal["muon", "adamw"] = "muon"
    """muon: Muon for matrices and AdamW for the rest; adamw: AdamW for all"""
    learning_rate: PositiveFloat = 0.02
    """peak learning rate of Muon's matrices (or of everything, with adamw)"""
    learning_rate_rest: PositiveFloat = 0.003
    """peak learning rate of embeddings, norms and biases when kind is muon"""
    learning_rate_head: PositiveFloat = 0.003
    """peak learning rate of a scalar head (reward, value), with either kind"""
    beta1: Share = 0.9
    """AdamW's first moment decay"""
    beta2: Share = 0.95
    """AdamW's second moment decay"""
    epsilon: PositiveFloat = 1e-8
    """AdamW's epsilon"""
    momentum: Share = 0.95
    """Muon's momentum"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """decay of matrices; norms, biases and embeddings have none"""
    clip_norm: PositiveFloat = 1.0
    """largest norm of the gradient over all parameters"""
    warmup_share: Share = 0.05
    """share of the steps over which the learning rate rises from 0"""
    decay: Literal["cosine", "linear", "constant"] = "linear"
    """how the learning rate falls after the warm-up"""
    final_share: Share = 0.0
    """learning rate at the last step, as a share of its peak"""


class LoopConfig(Config):
    """When to look and when to save."""

    evaluate_every: NonNegativeInt = 0
    """steps between evaluations; 0 evaluates at the end only"""
    save_every: NonNegativeInt = 100
    """steps between checkpoints; 0 saves only when stopped by a signal"""
    keep_checkpoints: PositiveInt = 2
    """how many checkpoints stay on disk"""
