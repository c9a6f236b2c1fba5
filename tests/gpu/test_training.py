"""A training step on a GPU: the numbers of a CPU in fp32; compiled, in bf16 and under DDP and FSDP those of itself."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close

from tests.gpu.device import DEVICE, GPU
from tests.tiny import random_ids, tiny_config, tiny_model
from trine.config.base import OptimizerConfig
from trine.data.rows import Batch, window_batch
from trine.model.transformer import Transformer, initialize
from trine.runtime.distributed import World
from trine.stages.language_modelling import LanguageModelLoss, loss_sum
from trine.training.optimizers import make_optimizers, set_learning_rates
from trine.training.parallel import Kind, whole_weights, wrapped

pytestmark = GPU

CPU = torch.device("cpu")
OPTIMIZERS = {
    "adamw": OptimizerConfig(kind="adamw", learning_rate=0.003, weight_decay=0.1, warmup_share=0.0),
    "muon": OptimizerConfig(kind="muon", newton_schulz="fp32", weight_decay=0.1, warmup_share=0.0),
}


def model_of(family: str, dtype: torch.dtype = torch.float32) -> Transformer:
    """As training begins. (Where every weight is large, a rounding is too.)"""
    model = Transformer(tiny_config(family), dtype)
    initialize(model, seed=3)
    return model


def batches_on(device: torch.device, count: int = 3) -> list[Batch]:
    return [window_batch(random_ids(4, 33, seed=seed).to(device)) for seed in range(count)]


def trained(model: Transformer, module: nn.Module, kind: str, batches: list[Batch]) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of a step per batch."""
    optimizers = make_optimizers(model.named_parameters(), OPTIMIZERS[kind], model.config, torch.float32)
    losses, norms = [], []
    for step, batch in enumerate(batches):
        loss = loss_sum(module, batch) / batch.count
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        losses.append(float(loss.detach()))
        set_learning_rates(optimizers, step, len(batches), OPTIMIZERS[kind])
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return losses, norms


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_steps_in_fp32_have_the_numbers_of_a_cpu(family: str, kind: str) -> None:
    found = []
    for device in (CPU, DEVICE):
        model = model_of(family).to(device)
        figures = trained(model, LanguageModelLoss(model), kind, batches_on(device))
        found.append((figures, whole_weights(model)))
    (expected, weights), (ours, our_weights) = found
    for on_gpu, on_cpu in zip(ours, expected, strict=True):
        assert on_gpu == pytest.approx(on_cpu, rel=1e-4)
    for name, weight in weights.items():
        # AdamW's first steps are the gradient's sign: one that is 0 to rounding goes either way.
        differs = (our_weights[name].cpu() - weight).abs() > 1e-4
        assert float(differs.float().mean()) < 0.01, name


def gradients(module: nn.Module, model: Transformer, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    loss = loss_sum(module, batch) / batch.count
    loss.backward()
    found = {name: each.grad.float().cpu() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found


def assert_close_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], bound: float) -> None:
    """The whole gradient, relative to its norm."""
    assert ours.keys() == theirs.keys()
    flat, other = (torch.cat([each[name].flatten() for name in sorted(each)]) for each in (ours, theirs))
    assert float((flat - other).norm() / other.norm()) < bound


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_bf16_is_near_fp32(family: str) -> None:
    [batch] = batches_on(DEVICE, 1)
    exact, rounded = (model_of(family, dtype).to(DEVICE) for dtype in (torch.float32, torch.bfloat16))
    (loss, expected), (found, ours) = (gradients(LanguageModelLoss(each), each, batch) for each in (exact, rounded))
    assert found == pytest.approx(loss, rel=2e-3)
    assert_close_gradients(ours, expected, 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_compiled_it_is_the_same_step(family: str, dtype: torch.dtype) -> None:
    [batch] = batches_on(DEVICE, 1)
    model = model_of(family, dtype).to(DEVICE)
    loss, expected = gradients(LanguageModelLoss(model), model, batch)
    found, ours = gradients(LanguageModelLoss(model, compiled=True), model, batch)
    assert found == pytest.approx(loss, rel=1e-5 if dtype == torch.float32 else 2e-3)
    assert_close_gradients(ours, expected, 1e-4 if dtype == torch.float32 else 0.05)


def test_rows_packed_by_starts_have_the_loss_of_a_cpu() -> None:
    """Attention restarts within a row, which a GPU is told by a bias."""
    starts = torch.tensor([[0] * 12 + [12] * 20, [0] * 25 + [25] * 7])
    places = torch.arange(32).expand(2, 32) - starts
    found = []
    for device in (CPU, DEVICE):
        model = tiny_model("qwen3").to(device)
        ids = random_ids(2, 33).to(device)
        weights = torch.ones(2, 32, device=device)
        inputs = {"positions": places.to(device), "starts": starts.to(device)}
        found.append(float(LanguageModelLoss(model)(ids[:, :-1], ids[:, 1:], weights, **inputs).detach()))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.fixture
def group() -> Iterator[World]:
    """A process group of this process alone: NCCL's on a GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.set_device(DEVICE)
    store = dist.HashStore()
    dist.init_process_group("nccl" if DEVICE.type == "cuda" else "gloo", store=store, rank=0, world_size=1)
    place = torch.device("cuda", torch.cuda.current_device()) if DEVICE.type == "cuda" else DEVICE
    yield World(device=place)
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_wrapped_for_one_process_it_is_the_same_step(kind: Kind, group: World) -> None:
    batches = batches_on(group.device)
    alone = model_of("gpt2").to(group.device)
    spread = copy.deepcopy(alone)
    parallel = wrapped(LanguageModelLoss(spread), list(spread.blocks), group, kind)
    assert parallel.module is not None
    expected = trained(alone, LanguageModelLoss(alone), "adamw", batches)
    losses, norms = trained(spread, parallel.module, "adamw", batches)
    assert losses == pytest.approx(expected[0], rel=1e-5)
    if kind == "ddp":
        assert norms == pytest.approx(expected[1], rel=1e-5)
    for name, weight in whole_weights(spread).items():
        assert_close(weight, dict(alone.named_parameters())[name].detach(), atol=1e-4, rtol=1e-3)


def test_numbers_are_summed_over_the_group_on_its_device(group: World) -> None:
    """What the loop says to the other processes."""
    world = World(rank=0, size=2, device=group.device)  # as if there were another; the group has this one alone
    assert world.all_reduce_sum({"nats": 1.5, "count": 3.0}) == {"nats": 1.5, "count": 3.0}
    assert world.all_reduce_max({"loss": 2.5}) == {"loss": 2.5}
