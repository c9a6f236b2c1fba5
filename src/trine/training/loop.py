"""The one training loop: next batches, loss, backward, step, log; now and then evaluate or save.

A stage brings an `Objective`. The loop divides every term of its loss by that term's count over the whole step,
so that gradients do not depend on how a step is cut into micro-batches, packed or padded. Everything random is a
function of the step, so a checkpoint is weights, optimizer moments, the objective's own state and one number: a resumed
run is bitwise the run that was never stopped.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from trine.config.base import LoopConfig, OptimizerConfig
from trine.records import Term
from trine.runtime.errors import QuietError, TrineError
from trine.runtime.progress import progress_bar, say
from trine.runtime.signals import stop_request
from trine.training.checkpoints import (
    load_checkpoint,
    optimizer_parameters,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from trine.training.guard import StepGuard
from trine.training.optimizers import set_learning_rates
from trine.training.parallel import Parallel, clip_gradients
from trine.training.run_folder import RunFolder

Batch = TypeVar("Batch")


class Objective(Protocol[Batch]):
    """What a stage trains: where its batches come from and what their loss is."""

    name: str

    def batches(self, step: int) -> Sequence[Batch]:
        """The micro-batches of one optimizer step, a function of `step` (and, for PPO, of the weights)."""
        ...

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many tokens, pairs, ... each term of `batch` that is a sum is over; a maximum has none."""
        ...

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The loss of `batch` as named terms. Those of weight 0 are only logged."""
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
        """More figures of the last step, for the log; `tokens` among them gives the log its speed."""
        ...

    def identity(self, step: int) -> dict[str, Any]:
        """What names the batch of a step to a person who looks for what was wrong with it."""
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

    def identity(self, step: int) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Effort:
    """For the log's `matmul_share`: what training on a token costs, and the machine's rate of matrix products.

    `flops_per_token`: floating-point operations, forward and backward; `machine_flops`: a second, all processes'.
    """

    flops_per_token: float
    machine_flops: float


class Loop:
    """Trains `model` on `objective` for `steps` steps inside a run folder.

    `parallel` says which other processes take part. `watch_spikes`: a sudden jump of loss or gradient norm is a bad
    step too, as what is not finite always is. `log_every`: so many steps make one row of the log, for an objective that
    is saved between rows only.
    """

    def __init__(
        self,
        objective: Objective[Any],
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        steps: int,
        settings: tuple[LoopConfig, OptimizerConfig],
        run: RunFolder,
        *,
        parallel: Parallel | None = None,
        watch_spikes: bool = False,
        effort: Effort | None = None,
        log_every: int = 1,
    ) -> None:
        self.objective, self.model, self.optimizers, self.steps, self.run = objective, model, optimizers, steps, run
        self.config, self.optimizer_config = settings
        self.parallel, self.effort, self.log_every = parallel or Parallel(), effort, log_every
        self.world = self.parallel.world
        self.parameters = list(model.parameters())
        self.guard = StepGuard(self.config, spikes=watch_spikes)
        self._before_step: tuple[dict[str, Any], Tensor] = ({}, torch.get_rng_state())
        self._unlogged: list[dict[str, float]] = []

    def train(self) -> dict[str, Any]:
        """Run to the end, from the last checkpoint if there is one; returns the final evaluation."""
        step, saving = self._resume(), False
        with progress_bar(self.objective.name, self.steps, step) as bar:
            while step < self.steps:
                started = time.perf_counter()
                row = self._step(step)
                step += 1
                self._log(step, {**row, **self._speed(row, time.perf_counter() - started)})
                bar.advance(note=f"loss {row['loss']:.3f}" if "loss" in row else "skipped")
                if self._due(step, self.config.evaluate_every):
                    self.run.log({"step": step, **self._evaluate(final=False)})
                stopping, saving = self._stopping(), saving or self._save_due(step)
                if self.objective.may_save(step) and (stopping or saving):
                    self._save(step)
                    saving = False
                    if stopping:
                        stop_request.check()
        results = self._evaluate(final=True)
        if results:
            self.run.log({"step": step, **results})
        return results

    def _step(self, step: int) -> dict[str, float]:
        """One optimizer step over all its micro-batches, unless the guard finds something wrong with it."""
        if not self.model.training:
            self.model.train()
        if self.objective.may_save(step):
            self._before_step = self.objective.state(), torch.get_rng_state()
        batches = self.objective.batches(step)
        totals = self.world.all_reduce_sum(add_up([self.objective.counts(batch) for batch in batches]))
        terms = self._backward(batches, totals)
        norm = clip_gradients(self.parameters, self.optimizer_config.clip_norm)
        figures = self._reduced(terms, totals)
        loss = sum(term.weight * figures[name] for name, term in terms[-1].items())
        problem = self.guard.problem(step, loss, norm)
        if problem is not None:
            return self._drop(step, problem, {"loss": loss, **figures, "gradient_norm": norm})
        self.guard.take(loss, norm)
        rate = set_learning_rates(self.optimizers, step, self.steps, self.optimizer_config)
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        observed = self.objective.observations()
        return {"loss": loss, **figures, "gradient_norm": norm, "learning_rate": rate, **observed, **self._skipped()}

    def _backward(self, batches: Sequence[Any], totals: dict[str, float]) -> list[dict[str, Term]]:
        """Leave the gradient of the whole step in the parameters; returns each micro-batch's terms, for the log."""
        found: list[dict[str, Term]] = []
        for index, batch in enumerate(batches):
            with self.parallel.gradients(last=index == len(batches) - 1):
                terms = self.objective.terms(batch)
                loss = sum(_mean_part(term, totals[name]) for name, term in terms.items() if term.weight)
                (loss * self.parallel.divides_by).backward()  # type: ignore[union-attr]
            found.append({name: replace(term, value=float(term.value.detach())) for name, term in terms.items()})
        return found

    def _reduced(self, batches: list[dict[str, Term]], totals: dict[str, float]) -> dict[str, float]:
        """Each term over all micro-batches and processes: a sum's mean, or the largest of a maximum."""
        kinds: dict[str, list[dict[str, float]]] = {"sum": [], "max": []}
        for terms in batches:
            for kind, rows in kinds.items():
                rows.append({name: term.value for name, term in terms.items() if term.reduction == kind})
        sums, maxima = self.world.all_reduce_sum(add_up(kinds["sum"])), self.world.all_reduce_max(largest(kinds["max"]))
        return {name: value / max(totals[name], 1.0) for name, value in sums.items()} | maxima

    def _drop(self, step: int, problem: str, figures: dict[str, float]) -> dict[str, float]:
        """Write down which batch it was; then go on without the step, or raise `TrineError`."""
        self.model.zero_grad()
        before = self.guard.state()
        goes_on = self.guard.may_skip(step)
        place = self.run.write_bad_step({"step": step + 1, "problem": problem, "goes_on": goes_on}, figures,
                                        self.objective.identity(step))  # fmt: skip
        if not goes_on:
            if step and self.objective.may_save(step):
                self.guard.restore(before)
                self._save(step, *self._before_step)
            raise (TrineError if self.world.is_main else QuietError)(
                f"{self.objective.name}: {problem}; the checkpoint is as it was before it. {place} names the batch: "
                "look at it and go on without such steps (loop.on_bad_step=skip), or begin anew with a lower "
                "optimizer.learning_rate"
            )
        say(f"{self.objective.name}: {problem}: skipped; {place} names the batch", style="yellow")
        return self._skipped()

    def _log(self, step: int, row: dict[str, float]) -> None:
        """Write a row of every `log_every` steps: the time they took together, and means of all else they say."""
        self._unlogged.append(row)
        if step % self.log_every and step < self.steps:
            return
        rows, self._unlogged = self._unlogged, []
        names = dict.fromkeys(name for each in rows for name in each)
        values = {name: [each[name] for each in rows if name in each] for name in names}
        means = {name: sum(of_name) / len(of_name) for name, of_name in values.items()}
        self.run.log({"step": step, **means, "seconds": sum(values["seconds"]), **self._skipped()})

    def _skipped(self) -> dict[str, float]:
        return {"skipped": float(self.guard.skipped)} if self.guard.skipped else {}

    def _speed(self, row: dict[str, float], seconds: float) -> dict[str, float]:
        """Tokens a second where the objective counts tokens, and their share of the machine's matrix-product rate."""
        if "tokens" not in row:
            return {"seconds": seconds}
        speed = row["tokens"] / seconds
        share = {"matmul_share": speed * self.effort.flops_per_token / self.effort.machine_flops} if self.effort else {}
        return {"seconds": seconds, "tokens_per_second": speed, **share}

    def _stopping(self) -> bool:
        """Whether a signal had come to any process when all looked; then all have it and stop after the same step.

        One that comes later is seen after the next step: it must be neither forgotten nor acted on alone.
        """
        agreed = int(self.world.all_reduce_max({"signal": float(stop_request.received or 0)})["signal"])
        if agreed:
            stop_request.receive(agreed)
        return bool(agreed)

    def _evaluate(self, *, final: bool) -> dict[str, Any]:
        self.model.eval()
        with torch.no_grad():
            return self.objective.evaluate(final)

    def _due(self, step: int, every: int) -> bool:
        return every > 0 and step % every == 0 and step < self.steps

    def _save_due(self, step: int) -> bool:
        """At the last step too: what follows may be long."""
        return self._due(step, self.config.save_every) or (self.config.save_every > 0 and step == self.steps)

    def _save(self, step: int, objective: dict[str, Any] | None = None, random_state: Tensor | None = None) -> None:
        """Write a checkpoint: of now, or with the objective's state and PyTorch's generator as they were before."""
        tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in self._trained()}
        for index, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(optimizer, f"optimizer{index}")
        tensors["torch_random_state"] = torch.get_rng_state() if random_state is None else random_state
        state = {"objective": objective or self.objective.state(), "guard": self.guard.state()}
        save_checkpoint(self.run.checkpoints, step, tensors, state, self.config.keep_checkpoints, self.world)

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """A frozen parameter is what the stage opened, now as when it resumes: it is not saved."""
        return [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]

    def _resume(self) -> int:
        like: dict[str, Tensor] = {f"model/{name}": parameter for name, parameter in self._trained()}
        for index, optimizer in enumerate(self.optimizers):
            like |= optimizer_parameters(optimizer, f"optimizer{index}")
        loaded = load_checkpoint(self.run.checkpoints, like, self.world)
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
        self.guard.restore(state["guard"])
        step = int(state["step"])
        self.run.forget_after(step)
        say(f"{self.objective.name}: continuing after step {step} of {self.steps}")
        return step


def _mean_part(term: Term, total: float) -> Tensor:
    part: Tensor = term.weight / max(total, 1.0) * term.value
    return part


def add_up(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sum of each name's values."""
    total: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, 0.0) + value
    return total


def largest(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The largest value of each name."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: max(row[name] for row in rows if name in row) for name in names}
