"""Weights in panels, as the compiled step reads them: as many outputs side by side as a kernel sums (products.h)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class Panels:
    """`size`: outputs of a panel, which depends on the width of the processor's vectors."""

    size: int

    def padded(self, width: int) -> int:
        """`width`, up to whole panels."""
        return -(-width // self.size) * self.size

    def whole(self, rows: Tensor) -> Tensor:
        """`rows` with zero rows behind, to whole panels."""
        missing = self.padded(len(rows)) - len(rows)
        return torch.cat((rows, rows.new_zeros(missing, *rows.shape[1:]))) if missing else rows

    def interleaved(self, rows: Tensor) -> Tensor:
        """Gates above values as panels, half of them gates, half the values they open."""
        half = self.size // 2
        gates, values = rows.chunk(2)
        missing = -len(gates) % half
        parts = [
            torch.cat((part, part.new_zeros(missing, *part.shape[1:]))).view(-1, half, *part.shape[1:])
            for part in (gates, values)
        ]
        return torch.stack(parts, 1).flatten(0, 2)

    def packed(self, weight: Tensor, precision: Precision) -> Tensor:
        """[N, K] as [N / size, K, size]; bf16 as [N / size, K / 2, size, 2]."""
        panels = weight.view(-1, self.size, weight.shape[1])
        if precision == "bf16":
            return panels.bfloat16().view(len(panels), self.size, -1, 2).permute(0, 2, 1, 3).contiguous()
        dtype = torch.float32 if precision == "fp32" else torch.int8
        return panels.to(dtype).permute(0, 2, 1).clone(memory_format=torch.contiguous_format)
