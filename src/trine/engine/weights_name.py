"""A name for weights: SHA-256 over every tensor's name, shape, type and bytes, the same in every process.

Computed once when weights are loaded; 1.8 GB a second where the processor has instructions for it.
"""

from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor


@torch.no_grad()
def name_weights(weights: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits."""
    digest = sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
