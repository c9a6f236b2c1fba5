"""Log-probabilities of answers as one module, for one process or many.

An answer's is the sum over its tokens, its end token too, at temperature 1, added up in float64: a sum of a few hundred
nats in fp32 is known to 1e-5 only, and a preference is a difference of differences of such sums.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trine.algorithms.masked import sum_dtype
from trine.algorithms.text_log_probs import target_log_probs, token_log_probs
from trine.config.dpo import DpoConfig
from trine.data.reply_rows import Group, ReplyRows, lay_out, lay_out_shared
from trine.model.transformer import Transformer


class AnswerLogProbs(nn.Module):
    """The whole of the model's part in one forward pass, which is what DDP and FSDP can wrap."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, rows: Tensor, columns: Tensor, targets: Tensor, **inputs: Any) -> Tensor:
        """Log-probabilities [N] fp32 of `targets`, predicted at (rows, columns) of `ids` [R, T]; nats.

        `inputs` are what else `Transformer.forward` takes. Without gradients the numbers are the same, bit for bit.
        """
        hidden = self.model(ids, **inputs)[rows, columns]
        if torch.is_grad_enabled():
            return token_log_probs(hidden, self.model.output_weight, targets)[0]
        return target_log_probs(hidden, self.model.output_weight, targets)


def shares_prompt(config: DpoConfig, model: Transformer) -> bool:
    """Whether the answers of a pair are read behind one prompt: as the config says, else where that is fast."""
    if config.share_prompt == "auto":
        return config.loss != "kto" and model.can_share_prompts
    return config.share_prompt == "on"


def answer_log_probs(
    module: nn.Module, groups: Sequence[Group], device: torch.device, *, share_prompt: bool = False
) -> Tensor:
    """Log-probabilities [A] of all answers of `groups`, in order: sums over their tokens, float64 where there is one.

    `module` is an `AnswerLogProbs`, which may be wrapped.

    Example::

        groups = [([1, 2], [[3, 4], [5]])]  # a prompt and two answers to it
        sums = answer_log_probs(AnswerLogProbs(model), groups, torch.device("cpu"))
    """
    rows = (lay_out_shared(groups) if share_prompt else lay_out(groups)).to(device)
    return _sums(module(rows.ids, rows.rows, rows.columns, rows.targets, **_seen(rows)), rows.lengths)


def _seen(rows: ReplyRows) -> dict[str, Tensor]:
    if rows.segments is not None:
        return {"positions": rows.positions, "segments": rows.segments}
    assert rows.starts is not None
    return {"positions": rows.positions, "starts": rows.starts}


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums [A] of consecutive runs of `values` [N]; each in one order, so that the bits depend on nothing else."""
    wide: Tensor = torch.segment_reduce(values.to(sum_dtype(values)), "sum", lengths=lengths, initial=0.0)
    return wide
