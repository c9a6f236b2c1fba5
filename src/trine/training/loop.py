"""The one training loop: next batches, loss, backward, step, log; now and then evaluate or save.

A stage brings an `Objective`. The loop divides every term of its loss by that term's count over the whole step,
so that gradients do not depend on how a step is cut into micro-batches, packed or padded. Everything random is a
function of the step, so a checkpoint is weights, optimizer moments, the objective's own state and one number: a resumed
run is bitwise the run that was never stopped.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from trine.config.base import LoopConfig, OptimizerConfig
from trine.records import Term
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar, say
from trine.runtime.signals import stop_request
from trine.training.checkpoints import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from trine.training.optimizers import set_learning_rates
from trine.training.run_folder import RunFolder

Batch = TypeVar("Batch")


class Objective(Protocol[Batch]):
    """What a stage trains: where its batches come from and what their loss is."""

    name: str

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of one optimizer step, a function of `step` (and, for PPO, of the weights)."""
        ...

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many tokens, pairs, ... each term of `batch` sums over."""
        ...

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The loss of `batch` as named sums. Terms of weight 0 are only logged."""
        ...

    def evaluate(self, final: bool) -> dict[str, Any]:
        """Figures on held-out data."""
        ...

    def may_save(self, step: int) -> bool:
        """Whether everything needed to go on after `step` steps is in weights, moments and `state`."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def observations(self) -> dict[str, float]:
        """More figures of the last step, for the log."""
        ...


class StepObjective:
    """What objectives share whose batches are a function of the step alone: nothing to save but the step."""

    def may_save(self, step: int) -> bool:
        return True

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """The data position is the step."""

    def observations(self) -> dict[str, float]:
        return {}


class Loop:
    """Trains `model` on `objective` for `steps` steps inside a run folder."""

    def __init__(
        self,
        objective: Objective[Any],
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        steps: int,
        settings: tuple[LoopConfig, OptimizerConfig],
        run: RunFolder,
    ) -> None:
        self.objective, self.model, self.optimizers, self.steps, self.run = objective, model, optimizers, steps, run
        self.config, self.optimizer_config = settings

    def train(self) -> dict[str, Any]:
        """Run to the end, from the last checkpoint if there is one; returns the final evaluation."""
        step = self._resume()
        with progress_bar(self.objective.name, self.steps, step) as bar:
            while step < self.steps:
                started = time.perf_counter()
                row = self._step(step)
                step += 1
                self.run.log({"step": step, **row, "seconds": time.perf_counter() - started})
                bar.advance(note=f"loss {row['loss']:.3f}")
                if self._due(step, self.config.evaluate_every):
                    self.run.log({"step": step, **self._evaluate(final=False)})
                stopping = stop_request.received is not None
                if self.objective.may_save(step) and (stopping or self._due(step, self.config.save_every)):
                    self._save(step)
                    stop_request.check()
        results = self._evaluate(final=True)
        if results:
            self.run.log({"step": step, **results})
        return results

    def _step(self, step: int) -> dict[str, float]:
        """One optimizer step over all its micro-batches."""
        self.model.train()
        batches = self.objective.batches(step)
        totals = _add_up([self.objective.counts(batch) for batch in batches])
        sums: dict[str, float] = {}
        for batch in batches:
            terms = self.objective.terms(batch)
            loss = sum(_mean_part(term, totals[name]) for name, term in terms.items() if term.weight)
            loss.backward()  # type: ignore[union-attr]
            sums = _add_up([sums, {name: float(term.sum.detach()) for name, term in terms.items()}])
            weights = {name: term.weight for name, term in terms.items()}
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.optimizer_config.clip_norm)
        if not math.isfinite(float(norm)):
            raise TrineError(
                f"{self.objective.name}: the gradient of step {step + 1} is not finite (terms {sums}); lower "
                "optimizer.learning_rate or look at the batch; the last checkpoint is as it was"
            )
        rate = set_learning_rates(self.optimizers, step, self.steps, self.optimizer_config)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        means = {name: value / max(totals[name], 1.0) for name, value in sums.items()}
        total = sum(weights[name] * mean for name, mean in means.items())
        observed = self.objective.observations()
        return {"loss": total, **means, "gradient_norm": float(norm), "learning_rate": rate, **observed}

    def _evaluate(self, *, final: bool) -> dict[str, Any]:
        self.model.eval()
        with torch.no_grad():
            return self.objective.evaluate(final)

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and step % every == 0 and step < self.steps

    def _save(self, step: int) -> None:
        tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in self._trained()}
        for index, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(optimizer, f"optimizer{index}")
        tensors["torch_random_state"] = torch.get_rng_state()
        state = {"objective": self.objective.state()}
        save_checkpoint(self.run.checkpoints, step, tensors, state, self.config.keep_checkpoints)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """A frozen parameter is what the stage opened, now as when it resumes: it is not saved."""
        return [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]

    def _resume(self) -> int:
        loaded = load_checkpoint(self.run.checkpoints)
        if loaded is None:
            self.run.forget_after(-1)
            return 0
        tensors, state = loaded
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(tensors[f"model/{name}"])
        for index, optimizer in enumerate(self.optimizers):
            restore_optimizer(optimizer, f"optimizer{index}", tensors)
        torch.set_rng_state(tensors["torch_random_state"])
        self.objective.restore(state["objective"])
        step = int(state["step"])
        self.run.forget_after(step)
        say(f"{self.objective.name}: continuing after step {step} of {self.steps}")
        return step


def _mean_part(term: Term, total: float) -> Tensor:
    part: Tensor = term.weight / max(total, 1.0) * term.sum
    return part


def _add_up(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + value
    return total
