"""A case of the speed table: sides, the work of each, and the target ratio."""

from dataclasses import dataclass, field
from typing import Any

from trine.runtime.waiting import SHORT_WAITS

# glibc reads these at start-up and keeps freed memory, as with trine.runtime.allocator.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)
}  # fmt: skip

# `import trine` sets these, as long as PyTorch is not imported before it; bench modules import PyTorch first.
AS_OUR_COMMANDS = SHORT_WAITS


@dataclass(frozen=True)
class Side:
    """One process: `python -m module options`, in a minimal environment plus `environment`."""

    module: str
    options: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    warm_ups: int = 1


@dataclass(frozen=True)
class Contender:
    """A side and what it is asked to do."""

    side: str
    work: str
    arguments: dict[str, Any]
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.side}, {self.variant}" if self.variant else self.side


@dataclass(frozen=True)
class Comparison:
    """Ours against the best of `contenders`; `target` is the target ratio of speeds."""

    label: str
    contenders: tuple[Contender, ...]
    target: float | None = None


@dataclass(frozen=True)
class Case:
    """`counts` names the field of a sample that is divided by its seconds, and with "/s" the unit."""

    group: str
    name: str
    ours: Contender
    comparisons: tuple[Comparison, ...]
    counts: str = "tokens"

    @property
    def contenders(self) -> list[Contender]:
        """Ours first, then every peer once."""
        peers = [contender for comparison in self.comparisons for contender in comparison.contenders]
        return list({contender.name: contender for contender in (self.ours, *peers)}.values())
