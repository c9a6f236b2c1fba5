"""Muon against PyTorch's own, fused weights against separate ones, and who is trained by what."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.tiny import random_tensor, tiny_config, tiny_model, tiny_score_model
from trine.config.base import OptimizerConfig
from trine.training import optimizers as module
from trine.training.optimizers import Muon, grouped, make_optimizers, orthogonalize, set_learning_rates

SHAPES = [(8, 8), (24, 8), (8, 24), (1, 8), (33, 7)]


def muon_over(parameters: list[nn.Parameter], blocks: list[list[int]] | None = None, **options: Any) -> Muon:
    group = {"params": parameters, "blocks": blocks or [[len(parameter)] for parameter in parameters]}
    return Muon([group], options.pop("learning_rate", 0.02), **options)


def matrices(seed: int, shapes: list[tuple[int, int]] = SHAPES) -> list[nn.Parameter]:
    return [nn.Parameter(random_tensor(*shape, seed=seed + index)) for index, shape in enumerate(shapes)]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    for index, parameter in enumerate(parameters):
        parameter.grad = random_tensor(*parameter.shape, seed=1000 * step + index)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_muon_takes_the_steps_of_pytorchs_muon(weight_decay: float, momentum: float) -> None:
    """PyTorch iterates in bf16, and so does ours here; "original" is its name for sqrt(max(1, rows / columns))."""
    ours, theirs = matrices(0), matrices(0)
    reference = torch.optim.Muon(
        theirs, lr=0.02, momentum=momentum, weight_decay=weight_decay, nesterov=True, adjust_lr_fn="original"
    )
    optimizer = muon_over(ours, momentum=momentum, weight_decay=weight_decay, compute_dtype=torch.bfloat16)
    for step in range(1, 6):
        before = [parameter.detach().clone() for parameter in theirs]
        for parameters, one in ((ours, optimizer), (theirs, reference)):
            give_gradients(parameters, step)
            one.step()
        for mine, other, old in zip(ours, theirs, before, strict=True):
            # An update is about 0.02 per singular direction; batched bf16 products round differently.
            assert_close(mine, other, rtol=0, atol=0.03 * float((other - old).detach().norm()))


def test_without_rounding_muon_is_pytorchs_muon_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in fp32, PyTorch's cast to bf16 taken out: then the two agree to fp32 rounding."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())
    ours, theirs = matrices(0), matrices(0)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original")
    optimizer = muon_over(ours, momentum=0.95, weight_decay=0.1, compute_dtype=torch.float32)
    for step in range(1, 6):
        for parameters, one in ((ours, optimizer), (theirs, reference)):
            give_gradients(parameters, step)
            one.step()
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_fused_matrix_moves_as_its_parts_would() -> None:
    parts = matrices(3, [(8, 16), (4, 16), (4, 16)])
    fused = nn.Parameter(torch.cat([part.detach() for part in parts]))
    apart = muon_over(parts, weight_decay=0.1, compute_dtype=torch.float32)
    together = muon_over([fused], [[8, 4, 4]], weight_decay=0.1, compute_dtype=torch.float32)
    for step in range(1, 4):
        give_gradients(parts, step)
        fused.grad = torch.cat([part.grad for part in parts if part.grad is not None])
        apart.step()
        together.step()
    assert_close(fused, torch.cat(list(parts)), rtol=1e-5, atol=1e-6)


def test_a_fused_matrix_does_not_move_as_one() -> None:
    whole, split = (nn.Parameter(random_tensor(16, 16, seed=1)) for _ in range(2))
    for parameter, blocks in ((whole, [16]), (split, [8, 8])):
        optimizer = muon_over([parameter], [blocks], compute_dtype=torch.float32)
        give_gradients([parameter], 1)
        optimizer.step()
    assert float((whole - split).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64, 16), (2, 16, 64), (1, 1, 8)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    """The quintic iteration trades exactness for speed: values end between 0.5 and 1.25, directions are kept."""
    matrices_in = random_tensor(*shape, seed=2)
    result = orthogonalize(matrices_in, 5, torch.float32)
    values = torch.linalg.svdvals(result)
    assert float(values.max()) < 1.25
    assert float(values.median()) > 0.65
    assert float((result * matrices_in).sum((-2, -1)).min()) > 0


def test_a_matrix_of_zeros_stays_finite() -> None:
    assert orthogonalize(torch.zeros(1, 4, 4), 5, torch.float32).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_is_orthogonalised_as_its_matrices_are(dtype: torch.dtype) -> None:
    batch = random_tensor(4, 12, 20, seed=5)
    alone = torch.stack([orthogonalize(batch[index : index + 1], 5, dtype)[0] for index in range(4)])
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert_close(orthogonalize(batch, 5, dtype), alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("most", [1, 300])
def test_matrices_moved_some_at_a_time_move_as_they_do_together(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, blocks = [(24, 8), (8, 8), (24, 8), (8, 24), (8, 8)], [[8, 8, 8], [8], [16, 8], [8], [8]]
    together, apart = matrices(0, shapes), matrices(0, shapes)
    optimizers = [muon_over(each, blocks, weight_decay=0.1, compute_dtype=torch.float32) for each in (together, apart)]
    for step in range(1, 4):
        for parameters, optimizer, bound in zip((together, apart), optimizers, (1 << 20, most), strict=True):
            monkeypatch.setattr(module, "GROUP", bound)
            give_gradients(parameters, step)
            optimizer.step()
    assert_close(apart, together, rtol=1e-5, atol=1e-6)


def test_groups_are_bounded_and_have_every_matrix_once_in_an_order_of_shapes() -> None:
    shapes = [(4, 4), (2, 4), (4, 4), (2, 4), (40, 4), (2, 4)]
    pairs = [(parameter, [len(parameter)]) for parameter in matrices(0, shapes)]
    found = list(grouped(pairs, 24))
    assert [[tuple(parameter.shape) for parameter, _ in bunch] for bunch in found] == [
        [(2, 4), (2, 4), (2, 4)], [(4, 4)], [(4, 4)], [(40, 4)],
    ]  # fmt: skip
    assert {id(parameter) for bunch in found for parameter, _ in bunch} == {id(parameter) for parameter, _ in pairs}
    assert list(grouped([], 24)) == []


def test_a_parameter_without_gradient_stays_where_it_is() -> None:
    moved, kept = matrices(0, [(4, 4), (4, 4)])
    before = kept.detach().clone()
    optimizer = muon_over([moved, kept], weight_decay=0.5)
    moved.grad = torch.ones(4, 4)
    optimizer.step()
    assert torch.equal(kept, before)


def roles(kind: str, model: nn.Module, config: Any) -> dict[str, tuple[str, float, float]]:
    """{parameter: (optimizer, peak learning rate, weight decay)}."""
    settings = OptimizerConfig(
        kind=kind, learning_rate=3.0, learning_rate_rest=2.0, learning_rate_head=1.0, weight_decay=0.5
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (type(optimizer).__name__, group["peak"], group["weight_decay"])
        for optimizer in make_optimizers(model.named_parameters(), settings, config, torch.bfloat16)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest(family: str) -> None:
    model = tiny_model(family)
    found = roles("muon", model, tiny_config(family))
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        is_matrix = "blocks." in name and parameter.dim() == 2
        assert found[name] == (("Muon", 3.0, 0.5) if is_matrix else ("AdamW", 2.0, 0.0))


def test_with_adamw_everything_has_one_rate_and_only_matrices_decay() -> None:
    model = tiny_model("qwen3")
    for name, (kind, peak, decay) in roles("adamw", model, tiny_config("qwen3")).items():
        assert (kind, peak) == ("AdamW", 3.0)
        assert decay == (0.5 if "blocks." in name and "norm" not in name else 0.0)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_scalar_head_has_a_rate_of_its_own(kind: str) -> None:
    model = tiny_score_model("qwen3")
    assert roles(kind, model, model.trunk.config)["head.weight"] == ("AdamW", 1.0, 0.0)


def test_fused_weights_of_a_model_are_known_to_muon() -> None:
    model = tiny_model("qwen3")
    muon = make_optimizers(model.named_parameters(), OptimizerConfig(), model.config, torch.bfloat16)[0]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    group = muon.param_groups[0]
    blocks = {names[id(p)]: rows for p, rows in zip(group["params"], group["blocks"], strict=True)}
    assert blocks["blocks.0.attention.qkv.weight"] == [64, 32, 32]  # 4 query heads, 2 key/value heads of 16
    assert blocks["blocks.0.mlp.up.weight"] == [48, 48]
    assert blocks["blocks.0.attention.out.weight"] == [32]


def test_learning_rates_follow_the_schedule_in_every_group() -> None:
    model = tiny_score_model("qwen3")
    config = OptimizerConfig(learning_rate=3.0, learning_rate_rest=2.0, learning_rate_head=1.0, warmup_share=0.5)
    optimizers = make_optimizers(model.named_parameters(), config, model.trunk.config, torch.bfloat16)
    assert set_learning_rates(optimizers, 0, 8, config) == 0.75
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert rates == [0.75, 0.5, 0.25]


def test_two_optimizers_with_one_history_take_the_same_step() -> None:
    first = matrices(0)
    optimizer = muon_over(first)
    give_gradients(first, 1)
    optimizer.step()
    second = copy.deepcopy(first)
    other = muon_over(second)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameters, one in ((first, optimizer), (second, other)):
        give_gradients(parameters, 2)
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_the_gradient_of_a_lone_parameter_is_clipped_as_pytorch_clips(largest: float) -> None:
    from trine.training.parallel import clip_gradients

    parameters = [torch.nn.Parameter(torch.zeros(1000)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = random_tensor(1000, seed=1)
    norm = clip_gradients(parameters[:1], largest)
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(parameters[1:], largest)), rel=1e-6)
    assert_close(parameters[0].grad, parameters[1].grad)
