"""Config of tasks whose answers are programs that are run against tests (pass@k)."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trine.config.base import NonNegativeFloat, PositiveInt
from trine.config.sandbox import Limits
from trine.config.tasks import PromptTaskConfig


class ProgramConfig(PromptTaskConfig):
    """Programs that the model writes, run against tests in the sandbox; pass@k, unbiased (Chen et al. 2021)."""

    kind: Literal["program"]
    code: str = "{{ program }}"
    """template of the file that is run; `program` is what the model wrote, or what it wrote in a fence of code"""
    setup: str = ""
    """template of what stands before the tests: their imports, and helpers of theirs that the code may not replace"""
    entry: str | None = None
    """template of the names, with commas, that the tests take from the code even where `setup` or Python has them too;
    null: those that the right answer defines and the tests name"""
    tests: str
    """template of the tests; the code never sees them"""
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1,)
    """each is a figure, pass@k; needs as many samples at least"""
    samples: PositiveInt = 1
    """programs per problem"""
    temperature: NonNegativeFloat = 0.2
    """sampling temperature; 0 is greedy"""
    max_new_tokens: PositiveInt = 512
    """token budget of a program"""
    stop: tuple[str, ...] = ()
    """texts that end a program"""
    limits: Limits = Limits()
    """what each program may use, and the least isolation (docs/sandbox.md)"""
    workers: Annotated[int, Field(ge=0)] = 0
    """programs run at a time; 0: as many as there are cores"""

    @model_validator(mode="after")
    def _enough_samples(self) -> "ProgramConfig":
        if max(self.k) > self.samples:
            raise ValueError(f"k={max(self.k)} needs samples of at least {max(self.k)}, and samples={self.samples}")
        return self
