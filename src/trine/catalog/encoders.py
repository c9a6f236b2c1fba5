"""Classifiers of Hugging Face's form that are no model of Trine's: opened by `transformers`, with their own tokenizer.

Nothing is unpickled and no code of a repository is run: weights are safetensors, or the model is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import torch

from trine.model.families import FAMILIES
from trine.records import Closing, Form
from trine.rewards.encoder import EncoderReward, EncoderSettings, Unit, good_label, use_own_products
from trine.runtime.device import Hardware
from trine.runtime.errors import TrineError
from trine.runtime.json_object import read_json_object

MAX_TOKENS = 512
UNLIMITED = 100_000
"""what a tokenizer says that says nothing is more than this"""


def is_encoder(folder: Path) -> bool:
    """Whether `folder` holds a classifier that `transformers` has to open."""
    if not (folder / "config.json").exists():
        return False
    described = read_json_object(folder / "config.json")
    names = described.get("architectures")
    classifier = isinstance(names, list) and bool(names) and str(names[0]).endswith("ForSequenceClassification")
    return classifier and described.get("model_type") not in FAMILIES


def open_encoder(
    folder: Path, hardware: Hardware, *, positive_logit: bool = False, closed: Closing | None = None
) -> EncoderReward:
    """The classifier in `folder` as a reward: of two labels the log-odds; with `positive_logit` the good one's logit.

    Raises `TrineError` for one of more than two labels, and where `transformers` is missing or cannot open it.
    """
    model, tokenizer = load_encoder(folder)
    settings = settings_of(folder, model, tokenizer, positive_logit=positive_logit, closed=closed)
    model = model.to(hardware.device)
    if hardware.compute_dtype != torch.float32:
        use_own_products(model, hardware.compute_dtype, int(model.config.num_labels))
    return EncoderReward(model, tokenizer, settings, hardware.compute_dtype)


def load_encoder(folder: Path, labels: int | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) of `transformers`, fp32; with `labels`, a new head of as many where it has none of them."""
    if find_spec("transformers") is None:
        raise TrineError(f"{folder} is opened by transformers, which is not installed: pip install 'trine[hf]'")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    if labels is not None:
        options |= {"num_labels": labels, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = str(error).strip().split("\n")[0]
        raise TrineError(f"{folder} cannot be opened by transformers as a sequence classifier: {first:.200}") from error
    if tokenizer.pad_token_id is None:
        raise TrineError(f"{folder}: its tokenizer has no padding token, so that texts of unlike length fit no batch")
    return model, tokenizer


def settings_of(
    folder: Path, model: Any, tokenizer: Any, *, positive_logit: bool = False, closed: Closing | None = None
) -> EncoderSettings:
    """How the classifier in `folder` is read: as its config.json says under `trine`, else as its labels are named."""
    labels = int(model.config.num_labels)
    if labels > 2:
        names = ", ".join(str(name) for name in model.config.id2label.values())
        raise TrineError(f"{folder} tells {labels} labels apart ({names:.120}); a reward model has one label, or two")
    if positive_logit and labels == 1:
        raise TrineError(f"{folder} has one label, whose logit is the score; positive_logit is of two labels")
    of_labels = [str(model.config.id2label.get(place, place)) for place in range(labels)]
    unit: Unit = "score" if labels == 1 else "positive_logit" if positive_logit else "log_odds"
    ours = getattr(model.config, "trine", None) or {}
    form, own = ours.get("form", "text"), ours.get("closed", "end")
    if form not in get_args(Form) or own not in get_args(Closing):
        raise TrineError(f"{folder}/config.json: trine={ours!r:.120} must have a form and a closed that Trine knows")
    return EncoderSettings(
        max_tokens=_max_tokens(ours.get("max_tokens"), model, tokenizer),
        unit=unit,
        good=good_label(of_labels) if labels == 2 else 0,
        form=cast(Form, form),
        closed=closed or cast(Closing, own),
    )


def _max_tokens(own: object, model: Any, tokenizer: Any) -> int:
    """What it was trained on; else what it can read."""
    if type(own) is int and own > 0:
        return own
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", UNLIMITED)]
    known = [int(limit) for limit in limits if 0 < limit < UNLIMITED]
    return min([*known, MAX_TOKENS])


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and words about heads that are new, which is what was asked for."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
