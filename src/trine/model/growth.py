"""A vocabulary that grows: rows for new tokens in a trained model's tables, and training of those rows alone.

A new row begins as the mean of the rows that have been trained plus a little noise (Hewitt 2021, "Initializing new
word embeddings for pretrained language models"): far from any token, so that nothing is predicted wildly, and no two
alike. The old rows, and so the numbers of every text without a new token, stay the same but for the softmax's new
entries.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from trine.model.transformer import Embedding, Linear, Transformer
from trine.runtime.seeds import derive_seed

NOISE = 0.1
"""of the standard deviation of the trained rows, in each dimension"""


def grow_vocabulary(model: Transformer, first: int, count: int, seed: int) -> range:
    """Give `model` rows for `count` new tokens with ids from `first`, in place; returns those ids.

    Ids below `first` are those in use. A model may have more rows than its tokenizer has tokens (padding to a round
    number): those come first, and its tables grow only by what is missing.

    >>> new = grow_vocabulary(model, model.config.vocab_size, 3, seed=0)
    >>> model.embedding.weight.shape[0] == new.stop
    True
    """
    new = range(first, first + count)
    rows = max(model.config.vocab_size, new.stop)
    old = model.embedding.weight
    model.embedding = Embedding.from_pretrained(_grown(old, new, rows, derive_seed(seed, "new tokens")), freeze=False)
    if not model.config.tied_embeddings:
        head = Linear(model.config.width, rows, bias=False, device="meta")
        head.weight = nn.Parameter(_grown(model.head.weight, new, rows, derive_seed(seed, "new outputs")))
        model.head = head
    model.config = replace(model.config, vocab_size=rows)
    return new


@torch.no_grad()
def _grown(table: Tensor, new: range, rows: int, seed: int) -> Tensor:
    """`table` [V, D] with `rows` rows, those of `new` set."""
    generator = torch.Generator().manual_seed(seed)
    used = table[: new.start]
    grown = torch.cat((table, table.new_zeros(rows - len(table), table.shape[1])))
    noise = torch.randn(len(new), table.shape[1], generator=generator).to(table.device)
    grown[new.start : new.stop] = used.mean(0) + NOISE * used.std(0) * noise
    return grown


def train_rows(table: Tensor, rows: Sequence[int] | range) -> None:
    """Let `table` [V, D] learn in `rows` only: the gradient of every other row is 0, so that it stays bit for bit.

    (Embeddings have no weight decay, and an optimizer's step of a gradient that was always 0 is 0.)
    """
    table.requires_grad_(True)
    kept = torch.zeros(len(table), 1, dtype=torch.bool, device=table.device)
    kept[list(rows)] = True
    # Before it is accumulated, so that processes that train together exchange the masked gradient.
    table.register_hook(lambda gradient: gradient.masked_fill(~kept, 0.0))
