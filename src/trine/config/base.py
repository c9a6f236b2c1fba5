"""What every stage's config shares. Every default is stated once, in these classes; a field's doc is its `--help`.

These modules import nothing heavy, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from trine.config.resumption import ChangesBits, MayChange
from trine.config.values import BYTES, WORD, Refused, expanded, read_fields

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveBytes = Annotated[int, Field(gt=0), BYTES]
# A short name; lists of them may be written with commas.
Word = Annotated[str, WORD]


def _as_name(value: object) -> object:
    """A path in its plainest spelling, so that a/b/ and a/b are the same model in a run folder's record.

    What has a colon and is no path is the name of a reward, a function or an address, and stays as it is.
    """
    path = expanded(value)
    if isinstance(path, Path) and ":" in str(value) and not path.exists():
        return str(value)
    if isinstance(path, Refused):
        raise ValueError(path.reason)
    return str(path) if isinstance(path, Path) else value


# Run or model folder, .gguf file, smollm2, or owner/name on the Hugging Face hub: what `trine chat --model` takes too.
ModelName = Annotated[str, BeforeValidator(_as_name)]


class Config(BaseModel):
    """Immutable; a key that is not a field is an error. Values are read by their fields' types (`config/values.py`)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    first: ClassVar[tuple[str, ...]] = ()
    """(dotted) names of the options that `--help` shows besides the required ones; the rest is under `--help all`"""
    unnamed: ClassVar[tuple[str, ...]] = ()
    """optional fields whose values may stand without their names, behind those of the required ones"""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Values are read before any validator sees them, those of subclasses included."""
        schema = handler(source)
        if cls.__pydantic_complete__:  # a field of another config: pydantic hands out the schema that was made before
            return schema
        return core_schema.no_info_before_validator_function(lambda values: read_fields(source, values), schema)

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, values: Any) -> Any:
        """A nested config given in part keeps its owner's defaults for the rest, as `--help` shows them."""
        if not isinstance(values, dict):
            return values
        owners = {name: field.default for name, field in cls.model_fields.items() if isinstance(field.default, Config)}
        parts = {name: values[name] for name in owners if isinstance(values.get(name), dict)}
        return values | {name: owners[name].model_dump(exclude_unset=True) | part for name, part in parts.items()}


class HardwareConfig(Config):
    """Where and how precisely to compute."""

    device: ChangesBits[str] = "auto"
    """auto, cpu, cuda, cuda:1 or mps. auto: TRINE_DEVICE if it is set, else the GPU where there is one"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """dtype of matrix products; master weights are always fp32. auto: TRINE_PRECISION if it is set, else bf16 where the
    hardware has it"""
    threads: ChangesBits[NonNegativeInt] = 0
    """CPU threads; 0 takes all cores"""


class StageConfig(Config):
    """What every stage takes."""

    out: MayChange[Path]
    """run folder to write; the same command again resumes an unfinished run"""
    seed: NonNegativeInt = 0
    """random seed of everything in this stage"""
    overwrite: MayChange[bool] = False
    """delete a run with other settings that is in the run folder, and start over, instead of refusing"""
    hardware: HardwareConfig = HardwareConfig()


class OptimizerConfig(Config):
    """Optimizer and schedule."""

    kind: Literal["muon", "adamw"] = "muon"
    """muon: Muon for matrices and AdamW for the rest; adamw: AdamW for all"""
    learning_rate: PositiveFloat = 0.02
    """peak learning rate of Muon's matrices (or of everything, with adamw)"""
    learning_rate_rest: PositiveFloat = 0.003
    """peak learning rate of embeddings, norms and biases when kind is muon"""
    learning_rate_head: PositiveFloat = 0.003
    """peak learning rate of a head (reward, value, labels), with either kind"""
    beta1: Share = 0.9
    """AdamW: decay of the first moment"""
    beta2: Share = 0.95
    """AdamW: decay of the second moment"""
    epsilon: PositiveFloat = 1e-8
    """AdamW: term added to the denominator for numerical stability"""
    momentum: Share = 0.95
    """Muon: momentum"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """weight decay of matrices; norms, biases and embeddings have none"""
    newton_schulz: Literal["compute", "fp32"] = "compute"
    """Muon: dtype of the Newton-Schulz products; compute is the model's (bf16 where hardware has it); fp32 is slower"""
    clip_norm: PositiveFloat = 1.0
    """maximum gradient norm over all parameters; larger gradients are scaled down to it"""
    warmup_share: Share = 0.05
    """warm-up: share of all steps over which the learning rate rises from 0"""
    warmup_steps: NonNegativeInt | None = None
    """warm-up in steps; overrides warmup_share"""
    decay: Literal["cosine", "linear", "constant", "wsd"] = "linear"
    """learning-rate schedule after the warm-up; wsd (warm-up, stable, decay): constant until the last decay_share"""
    decay_share: Share = 0.2
    """wsd: share of all steps, at the end, over which the learning rate falls linearly"""
    final_share: Share = 0.0
    """learning rate of the last step, as a share of the peak; 0 is reached after it, so that no step is wasted"""


class LoopConfig(Config):
    """Evaluation and checkpointing."""

    evaluate_every: MayChange[NonNegativeInt] = 0
    """steps between evaluations; 0 evaluates at the end only"""
    save_every: MayChange[NonNegativeInt] = 100
    """steps between checkpoints; 0 saves only when stopped by a signal"""
    keep_checkpoints: MayChange[PositiveInt] = 2
    """how many checkpoints stay on disk while training"""
    keep_last: MayChange[bool] = True
    """keep the last checkpoint of a finished run, so that the run can be extended; with the schedule wsd, the one from
    before the decay"""
    on_bad_step: MayChange[Literal["stop", "skip"]] = "stop"
    """what to do when the loss or gradient is not finite or, in pretraining, spikes: stop the run, or skip the update
    and count it; either way bad_step.json identifies the batch, for debugging"""
    max_skips: MayChange[PositiveInt] = 10
    """with on_bad_step skip: stop when more than this many of the last spike_window steps were skipped"""
    spike_window: MayChange[PositiveInt] = 100
    """number of preceding steps that a spike is measured against; none is detected before there are as many"""
    spike_loss_factor: MayChange[NonNegativeFloat] = 2.0
    """a loss this many times the window's median, and far outside the window's spread, is a spike; 0 detects none"""
    spike_norm_factor: MayChange[NonNegativeFloat] = 20.0
    """the same for the gradient norm, before clipping; 0 detects none"""
    trackers: MayChange[tuple[Literal["tensorboard", "wandb", "trackio"], ...]] = ()
    """experiment trackers to log to besides metrics.jsonl; each is an extra: pip install 'trine[tensorboard]'"""
