"""A classifier of Hugging Face's form as a reward, with its own tokenizer, through text.

Any encoder that `transformers` opens as `...ForSequenceClassification`: DistilBERT, BERT, RoBERTa, ... The policy's
tokens mean nothing to it: it reads texts. What a number means is said by name and never mixed:

    score            one label: its logit, which for a model trained on labels is the log-odds
    log_odds         two labels: logit of the good one - logit of the other
    positive_logit   two labels: the logit of the good one alone, about half of the log-odds

A text ends as the tokenizer ends it ([SEP]), cut or not, in training as in scoring; one longer than `max_tokens` loses
its end. In fp32 each text is a batch of its own, so that its score is the same to the bit in any company.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trine.model.kernels import linear
from trine.records import Answer, Closing, Form
from trine.rewards.batches import ROWS_AT_ONCE, finite_scores, score_in_batches

Unit = Literal["score", "log_odds", "positive_logit"]
GOOD = ("pos", "good", "yes", "true", "chosen", "prefer", "accept", "fresh")
"""how the name of the good one of two labels begins"""


@dataclass(frozen=True)
class EncoderSettings:
    """How a classifier is read.

    `unit`: what its number is; `good`: the label that is good; `form`, `closed`: as of any reward model.
    """

    max_tokens: int
    unit: Unit = "score"
    good: int = 0
    form: Form = "text"
    closed: Closing = "end"


class EncoderReward:
    """A classifier of `transformers` with its tokenizer, as `catalog/encoders.py: open_encoder` makes it of a folder.

    `compute_dtype`: of the products; the head is fp32.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, settings: EncoderSettings, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.tokenizer, self.settings = model.requires_grad_(False).eval(), tokenizer, settings
        self.compute_dtype = compute_dtype
        self.reads: Form = settings.form
        self.device = next(model.parameters()).device

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]. Raises `TrineError` where an answer has none."""
        rows = [encoded(self.tokenizer, answer, self.settings) for answer in answers]
        at_once = 1 if self.compute_dtype == torch.float32 else ROWS_AT_ONCE
        scores = score_in_batches(rows, self._scores, self.tokenizer.pad_token_id or 0, self.device, at_once)
        return finite_scores(scores, answers, "the classifier")

    def _scores(self, ids: Tensor, lengths: Tensor) -> Tensor:
        return unit_of(logits_of(self.model, ids, lengths, self.compute_dtype), self.settings)


def encoded(tokenizer: Any, answer: Answer, settings: EncoderSettings) -> list[int]:
    """The ids of an answer: of plain text as a whole, of a conversation as a pair of question and answer."""
    response = answer.response
    if not answer.ended and settings.closed == "line" and "\n" in response.strip():
        response = response[: response.rindex("\n")]
    options = {"truncation": True, "max_length": settings.max_tokens, "return_token_type_ids": False}
    if settings.form == "chat" and answer.query is None:
        asked = "\n\n".join(message.content for message in answer.prompt)
        return list(tokenizer(asked, response, **options)["input_ids"])
    return list(tokenizer((answer.query or "") + response, **options)["input_ids"])


def logits_of(model: nn.Module, ids: Tensor, lengths: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """fp32 logits [B, labels] of right-padded `ids` [B, T]."""
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
    with precision_of(ids.device, compute_dtype):
        logits: Tensor = model(input_ids=ids, attention_mask=mask.long()).logits
    return logits.float()


def precision_of(device: torch.device, compute_dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Products in `compute_dtype`; weights stay fp32."""
    if compute_dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, compute_dtype)


def unit_of(logits: Tensor, settings: EncoderSettings) -> Tensor:
    """[B] of the logits [B, 1 or 2], in the unit of `settings`.

    >>> two = torch.tensor([[-1.3, 1.5]])
    >>> [round(float(unit_of(two, EncoderSettings(512, unit, 1))), 1) for unit in ("log_odds", "positive_logit")]
    [2.8, 1.5]
    """
    if settings.unit == "score":
        return logits[:, 0]
    good = logits[:, settings.good]
    return good if settings.unit == "positive_logit" else good - logits[:, 1 - settings.good]


def good_label(names: Sequence[str]) -> int:
    """Which of two labels is the good one: by its name, or else the second.

    >>> good_label(["NEGATIVE", "POSITIVE"]), good_label(["pos", "neg"]), good_label(["LABEL_0", "LABEL_1"])
    (1, 0, 1)
    """
    good = [place for place, name in enumerate(names) if name.lower().startswith(GOOD)]
    return good[0] if len(good) == 1 else 1


class OwnLinear(nn.Linear):
    """A linear layer with the products of Trine, in `compute_dtype`; weights and their gradients are fp32."""

    compute_dtype: torch.dtype

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.to(self.compute_dtype), self.weight, self.bias)


def use_own_products(model: nn.Module, compute_dtype: torch.dtype, labels: int) -> None:
    """Let the linear layers of a model compute with Trine's products in `compute_dtype`, its head in fp32.

    What the model computes stays the same, and so do the names of its weights.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OwnLinear
            of_head = module.out_features == labels
            module.compute_dtype = torch.float32 if of_head else compute_dtype  # type: ignore[assignment]
