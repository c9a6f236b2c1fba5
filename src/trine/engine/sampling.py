"""How the next token is drawn: the settings of a request, and sampling by inverse CDF.

One uniform number per row, drawn from (row seed, position) alone, is looked up in the cumulative distribution:
25 times cheaper than Gumbel noise over the vocabulary, and independent of what else is in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trine.runtime.errors import TrineError
from trine.runtime.seeds import uniform


@dataclass(frozen=True)
class Sampling:
    """What to generate. `temperature` 0 is greedy. `eos_ids` end a text by the model's own will, `stop_ids` by the
    caller's; both are kept as the last token of the response."""

    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    eos_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise TrineError(f"max_new_tokens={self.max_new_tokens} asks for nothing; give at least 1")
        if self.temperature < 0:
            raise TrineError(f"temperature={self.temperature} is negative; 0 is greedy, 1 samples the model as it is")


def draw(logits: Tensor, temperature: float, seeds: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
    """Next ids [B] and their log-probabilities [B] (fp32, at `temperature`; greedy reports temperature 1).

    `logits` [B, V]; `seeds`, `counters` [B] int64. A token of probability 0 is never drawn.
    """
    scaled = logits.float() if temperature in (0.0, 1.0) else logits.float() / temperature
    log_probs = torch.log_softmax(scaled, -1)
    if temperature == 0.0:
        ids = logits.argmax(-1)
    else:
        cumulative = log_probs.exp().cumsum(-1)
        points = uniform(seeds, counters).to(cumulative.dtype) * cumulative[:, -1]
        # searchsorted finds the first entry above the point; a point rounded up to the total would find none.
        below_total = torch.nextafter(cumulative[:, -1], torch.zeros_like(points))
        ids = torch.searchsorted(cumulative, torch.minimum(points, below_total).unsqueeze(1), right=True).squeeze(1)
    return ids, log_probs.gather(1, ids.unsqueeze(1)).squeeze(1)
