"""Settings of the reward models that are no model of Trine's: by words, and encoders of Hugging Face's form."""

from typing import Any

from trine.config.base import Config, PositiveFloat, PositiveInt

OF_AN_ENCODER: dict[str, Any] = {
    "epochs": 3.0,
    "batch_size": 10,
    "micro_batch_size": 10,
    "too_long": "cut",
    "optimizer": {"kind": "adamw", "learning_rate": 5e-5, "beta2": 0.999, "warmup_share": 0.0, "decay": "linear"},
}
"""What `kind: encoder` takes where nothing else is said: DistilBERT's usual recipe."""


class WordsConfig(Config):
    """A reward model by words (kind: words)."""

    order: PositiveInt = 2
    """longest run of words that is a feature of its own: 2 tells 'not good' from 'good'"""
    min_count: PositiveInt = 2
    """how many of the texts have to have a word or run of words for it to count"""
    penalty: PositiveFloat = 3.0
    """what the squared weights cost; more learns less from rare words"""


def with_defaults_of_kind(values: Any) -> Any:
    """The values of a reward's config with what its `kind` takes where they say nothing."""
    if not isinstance(values, dict) or values.get("kind") != "encoder":
        return values
    optimizer = values.get("optimizer", {})
    if isinstance(optimizer, dict):
        optimizer = OF_AN_ENCODER["optimizer"] | optimizer
    return OF_AN_ENCODER | values | {"optimizer": optimizer}
