"""Where a row is measured and how large its work is; clocks and rates of a device."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from bench.models import SHAPES
from trine.model.config import ModelConfig
from trine.model.transformer import Transformer, initialize
from trine.runtime.device import Hardware, choose_hardware

Figures = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """`device` cuda, cuda:1 or cpu; `tiny`: as little work as shows that the code runs."""

    device: str
    tiny: bool = False

    @property
    def hardware(self) -> Hardware:
        """bf16 on a GPU; whatever the processor has elsewhere."""
        return choose_hardware(self.device, "bf16" if self.device != "cpu" else "auto")

    @property
    def shape(self) -> ModelConfig:
        """GPT-2 of 124M parameters, its vocabulary padded to 50304, with a context of 1024."""
        return SHAPES["tiny" if self.tiny else "small"]

    def model(self, hardware: Hardware) -> Transformer:
        """Random weights: speed does not depend on training."""
        model = Transformer(self.shape, hardware.compute_dtype)
        initialize(model, seed=0)
        return model.to(hardware.device)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize(torch.device(self.device))

    def seconds(self, work: Callable[[], Any]) -> float:
        """That `work` takes, the device's share included."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def in_turns(self, works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
        """Seconds of each, round by round: A B A B, since clocks of a chip wander."""
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                found[name].append(self.seconds(work))
        return found

    def copy_bandwidth(self) -> float:
        """Bytes a second, read and written both counted, of copying within the device's memory."""
        size = 1 << (24 if self.tiny else 32)
        source, target = (torch.zeros(size, dtype=torch.uint8, device=self.hardware.device) for _ in range(2))
        target.copy_(source)
        return 2 * size / median(self.seconds(lambda: target.copy_(source)) for _ in range(5))
