"""Low-rank adapters (Hu et al. 2021, "LoRA", eq. 3): y = W x + scale * B (A x), W frozen, A and B trained.

Adapters are named after Hugging Face modules, also where several of those are fused in one matrix of ours: an adapter
of `q_proj` acts on its rows of the fused q, k, v. A is random and B is 0 initially, so that a newly adapted model
equals its base. Adapters are stored in fp32 and cast to the compute dtype like every weight.

Invariants: training adapters does not change the base weights; with adapters disabled the model equals its base bit for
bit, so PPO uses it as the reference model without a second copy of the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trine.model.families import family_of, fused_blocks
from trine.model.transformer import Linear, Transformer
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed

ALL_TARGETS = ("all",)


@dataclass(frozen=True)
class LoraSettings:
    """`targets`: Hugging Face module names (`q_proj`, `attn.c_proj`), matched by suffix as in PEFT, or `all`."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = ALL_TARGETS
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TrineError(f"rank={self.rank} of a LoRA adapter must be at least 1")

    @property
    def scale(self) -> float:
        """alpha / rank, or alpha / sqrt(rank) when rank-stabilized (Kalajdzievski 2023)."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)


class LoraLinear(Linear):
    """A frozen linear layer with adapters on some of the matrices fused in it.

    `parts`: name -> number of rows of each fused matrix; `adapted`: names of those with an adapter. The layer shares
    weight and bias, and their names, with `linear`.
    """

    def __init__(self, linear: Linear, parts: dict[str, int], adapted: set[str], settings: LoraSettings) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.parts, self.settings, self.enabled = parts, settings, True
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        like: dict[str, Any] = {"device": linear.weight.device, "dtype": torch.float32}
        for name, rows in parts.items():
            if name in adapted:
                self.lora_A[name] = nn.Parameter(torch.zeros(settings.rank, linear.in_features, **like))
                self.lora_B[name] = nn.Parameter(torch.zeros(rows, settings.rank, **like))

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """For n adapters, all A stacked [n rank, in] and all B as a block-diagonal matrix [out, n rank]."""
        down = torch.cat([self.lora_A[name] for name in self.parts if name in self.lora_A])
        blocks = [
            self.lora_B[name] if name in self.lora_B else down.new_zeros(rows, 0) for name, rows in self.parts.items()
        ]
        return down.to(dtype), torch.block_diag(*blocks).to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        plain = super().forward(input)
        if not self.enabled:
            return plain
        down, up = self.factors(input.dtype)
        return plain + F.linear(F.linear(input, down) * self.settings.scale, up)

    def merged_weight(self) -> Tensor:
        """W + scale * B A [out, in] (Hu et al. 2021, section 4.1); W itself while adapters are disabled."""
        if not self.enabled:
            return self.weight.detach()
        down, up = self.factors(self.weight.dtype)
        return torch.addmm(self.weight, up, down, alpha=self.settings.scale)


def linear_maps(model: Transformer) -> dict[str, tuple[str, ...]]:
    """The layers that can have adapters: our name -> the Hugging Face modules fused in it, in order."""
    table = family_of(model.config).weights
    maps = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name.startswith("blocks."):
            _, layer, place = name.split(".", 2)
            theirs = table[f"blocks.{{i}}.{place}.weight"][0]
            maps[name] = tuple(one.format(i=layer).removesuffix(".weight") for one in theirs)
    return maps


def target_names(model: Transformer, targets: tuple[str, ...] = ALL_TARGETS) -> tuple[str, ...]:
    """`targets` with `all` expanded; raises `TrineError` naming unknown targets and the known ones."""
    modules = [name for names in linear_maps(model).values() for name in names]
    known = tuple(dict.fromkeys(short_name(name) for name in modules))
    if targets == ALL_TARGETS:
        return known
    wrong = [target for target in targets if not any(_is_target(name, (target,)) for name in modules)]
    if wrong or not targets:
        family = family_of(model.config).model_type
        raise TrineError(f"LoRA targets {wrong} are not modules of {family}; choose from {', '.join(known)}, or all")
    return targets


def short_name(module: str) -> str:
    """The last part of a Hugging Face module's name."""
    return module.rsplit(".", 1)[-1]


def _is_target(module: str, targets: tuple[str, ...]) -> bool:
    return any(module == target or module.endswith(f".{target}") for target in targets)


def add_lora(model: Transformer, settings: LoraSettings, seed: int) -> None:
    """Freeze `model` and add trainable adapters to it, in place.

    Example::

        model = load_model(Path("base"), torch.float32, torch.device("cpu"))
        add_lora(model, LoraSettings(rank=8, alpha=16, targets=("q_proj", "v_proj")), seed=0)
        trainable = lora_parameters(model)

    A is uniform within 1 / sqrt(in) (PEFT's Kaiming initialisation), a function of `seed` and the module's name
    alone; B is 0. Raises `TrineError` if a target is not a module of the model, or it has adapters already.
    """
    if has_lora(model):
        raise TrineError("the model has LoRA adapters already; merge them before adding others")
    targets = target_names(model, settings.targets)
    model.requires_grad_(False)
    for ours, theirs in linear_maps(model).items():
        adapted = {short_name(name): name for name in theirs if _is_target(name, targets)}
        if not adapted:
            continue
        linear = model.get_submodule(ours)
        assert isinstance(linear, Linear)
        rows = [linear.out_features] if len(theirs) == 1 else fused_blocks(f"{ours}.weight", model.config)
        parts = dict(zip(map(short_name, theirs), rows or (), strict=True))
        lora = LoraLinear(linear, parts, set(adapted), settings)
        for short, name in adapted.items():
            _initialize(lora.lora_A[short], derive_seed(seed, "lora", name))
        model.set_submodule(ours, lora)


@torch.no_grad()
def _initialize(down: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    down.copy_((2 * torch.rand(down.shape, generator=generator) - 1) / down.shape[1] ** 0.5)


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Every layer with adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def has_lora(model: nn.Module) -> bool:
    return bool(lora_layers(model))


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the adapters, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if _is_adapter(name)}


def _is_adapter(parameter_name: str) -> bool:
    return ".lora_A." in parameter_name or ".lora_B." in parameter_name


@contextmanager
def lora_off(model: nn.Module) -> Iterator[None]:
    """Disable all adapters inside the block: `model` then equals its base bit for bit.

    Example::

        with lora_off(model), torch.no_grad():
            reference_hidden = model(ids)
    """
    layers = [layer for layer in lora_layers(model).values() if layer.enabled]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


@torch.no_grad()
def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of `model` with adapters merged; without adapters, the parameters themselves, not copies."""
    merged = {f"{name}.weight": layer.merged_weight() for name, layer in lora_layers(model).items()}
    parameters = {name: each.detach() for name, each in model.named_parameters() if not _is_adapter(name)}
    return parameters | merged


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Merge the adapters into the weights, in place; every parameter is trainable again."""
    for name, layer in lora_layers(model).items():
        plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(layer.merged_weight()), layer.bias
        model.set_submodule(name, plain)
    model.requires_grad_(True)
