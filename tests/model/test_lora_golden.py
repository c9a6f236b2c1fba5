"""LoRA by hand: golden vectors L2 and L3, a layer of two inputs and two outputs and an adapter of rank 1, alpha 2."""

import torch
from torch import tensor
from torch.testing import assert_close

from trine.model.adapter_merging import set_row_norms
from trine.model.lora import LoraLinear, LoraSettings
from trine.model.transformer import Linear

WEIGHT = tensor([[1.0, 2.0], [3.0, -1.0]])


def layer(b: list[list[float]]) -> LoraLinear:
    linear = Linear(2, 2, bias=False)
    linear.weight.data.copy_(WEIGHT)
    lora = LoraLinear(linear, {"proj": 2}, {"proj"}, LoraSettings(rank=1, alpha=2.0))
    lora.lora_A["proj"].data.copy_(tensor([[1.0, -1.0]]))
    lora.lora_B["proj"].data.copy_(tensor(b))
    return lora


@torch.no_grad()
def test_golden_l2_dora_keeps_the_norms_of_rows() -> None:
    magnitude = WEIGHT.norm(dim=1)
    changed = layer([[0.5], [1.0]]).merged_weight()
    assert_close(changed, tensor([[2.0, 1.0], [5.0, -3.0]]))
    set_row_norms(changed, magnitude)
    assert_close(changed, tensor([[2.0, 1.0], [2.711631, -1.626978]]), atol=1e-6, rtol=0)
    untouched = layer([[0.0], [0.0]]).merged_weight()
    set_row_norms(untouched, magnitude)
    assert_close(untouched, WEIGHT)


def test_golden_l3_the_first_step_moves_b_only() -> None:
    lora = layer([[0.0], [0.0]])
    (lora(tensor([[1.0, 2.0]])) * tensor([[0.3, -0.2]])).sum().backward()
    assert_close(lora.lora_A["proj"].grad, torch.zeros(1, 2))
    assert_close(lora.lora_B["proj"].grad, tensor([[-0.6], [0.4]]))
