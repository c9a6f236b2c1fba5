"""Keys and values of a ragged batch: every row has its own length, all rows share one preallocated block.

Rows are right-padded while prompts are read, so causality alone keeps padding out; while decoding, a row's new
key is written at that row's own length, over whatever padding lay there.
Shapes: B rows, K key/value heads, S slots, d head_dim.
"""

import torch
from torch import Tensor

from trine.model.config import ModelConfig


class RaggedCache:
    """A `KeyValueCache` for `rows` rows of at most `slots` tokens."""

    def __init__(self, config: ModelConfig, rows: int, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (rows, config.kv_heads, slots, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, K, T, d]: T > 1 while reading prompts (from slot 0), T = 1 while decoding (at each length)."""
        keys, values = self.keys[layer], self.values[layer]
        tokens = key.shape[2]
        if self.decoding:
            rows = torch.arange(len(key), device=key.device)
            keys[rows, :, self.lengths] = key[:, :, 0]
            values[rows, :, self.lengths] = value[:, :, 0]
            return keys[:, :, : self.longest + 1], values[:, :, : self.longest + 1]
        keys[:, :, :tokens] = key
        values[:, :, :tokens] = value
        return key, value

    decoding = False
    longest = 0

    def begin_decoding(self, lengths: Tensor) -> None:
        """Prompts are read: row b holds `lengths[b]` tokens."""
        self.lengths = lengths
        self.longest = int(lengths.max())
        self.decoding = True

    def bias(self, dtype: torch.dtype) -> Tensor:
        """[B, 1, S]: 0 for the slots a row has filled and the one it writes next, -inf beyond."""
        slots = torch.arange(self.longest + 1, device=self.lengths.device)
        hidden = slots > self.lengths.unsqueeze(1)  # B, S
        return (
            torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            .masked_fill_(hidden, float("-inf"))
            .unsqueeze(1)
        )

    def advance(self) -> None:
        """Every row has written one token."""
        self.lengths = self.lengths + 1
        self.longest += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (indices, in order)."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max())
