"""The one training loop: next batches, loss, backward, step, log; evaluation and checkpoints at intervals.

A stage brings an `Objective`. The loop divides every term of its loss by that term's count over the whole step,
so that gradients do not depend on how a step is cut into micro-batches, packed or padded. Everything random is a
function of the step, so a checkpoint is weights, optimizer state, the objective's own state and the step: a resumed
run is bitwise the run that was never stopped.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from trine.training.objective import Objective
from trine.training.optimizers import set_learning_rates
from trine.training.parallel import Parallel, clip_gradients, local
from trine.training.run_folder import RunFolder
from trine.training.schedules import schedule_warning, step_before_decay


@dataclass(frozen=True)
class Effort:
    """For the log's `matmul_share`: the cost of training on a token, and how fast the machine multiplies matrices.

    `flops_per_token`: floating-point operations, forward and backward; `machine_flops`: per second, all processes
    together.
    """

    flops_per_token: float
    machine_flops: float


class Loop:
    """Trains `model` on `objective` for `steps` steps inside a run folder.

    >>> loop = Loop(objective, model, optimizers, 100, (LoopConfig(), optimizer_config), run_folder)
    >>> results = loop.train()  # resumes from the last checkpoint, if there is one

    `parallel`: the processes that train together. `watch_spikes`: a spike of loss or gradient norm is a bad step too,
    as a non-finite one always is. `log_every`: steps per row of the log, for an objective that can be saved between
    rows only. `clipped`: parameters whose gradients are clipped together, and their largest norm; by default all are.
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
        clipped: Sequence[tuple[Sequence[nn.Parameter], float]] = (),
    ) -> None:
        self.objective, self.model, self.optimizers, self.steps, self.run = objective, model, optimizers, steps, run
        self.config, self.optimizer_config = settings
        self.parallel, self.effort, self.log_every = parallel or Parallel(), effort, log_every
        self.world = self.parallel.world
        self.parameters = list(model.parameters())
        self.clipped = clipped or [(self.parameters, self.optimizer_config.clip_norm)]
        self.guard = StepGuard(self.config, spikes=watch_spikes)
        self._before_step: tuple[dict[str, Any], Tensor] = ({}, torch.get_rng_state())
        self._unlogged: list[dict[str, float]] = []
        self._maxima: set[str] = set()
        self._before_decay = self._step_before_decay(steps)

    def train(self) -> dict[str, Any]:
        """Train to the last step, from the last checkpoint if there is one; returns the final evaluation."""
        warning = schedule_warning(self.steps, self.optimizer_config)
        if warning:
            say(f"{self.objective.name}: {warning}", style="yellow")
        step, saving = self._resume(), False
        self.run.checkpoint_to_keep = self._before_decay
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
        self._refuse_broken_weights(step)
        results = self._evaluate(final=True)
        if results:
            self.run.log({"step": step, **results})
        return results

    def _step(self, step: int) -> dict[str, float]:
        """One optimizer step over all its micro-batches; dropped if the guard finds it bad."""
        if not self.model.training:
            self.model.train()
        if self.objective.may_save(step):
            self._before_step = self.objective.state(), torch.get_rng_state()
        batches = self._batches(step)
        if not batches:
            return {**self.objective.observations(), **self._skipped()}
        started = time.perf_counter()
        totals = self.world.all_reduce_sum(add_up([self.objective.counts(batch) for batch in batches]))
        terms = self._backward(batches, totals)
        seconds = time.perf_counter() - started
        norm = math.hypot(*(clip_gradients(parameters, largest) for parameters, largest in self.clipped))
        figures = self._reduced(terms, totals)
        self.objective.note({**figures, "gradient_seconds": seconds})
        loss = sum(term.weight * figures.get(name, 0.0) for name, term in terms[-1].items())
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

    def _batches(self, step: int) -> Sequence[Any]:
        """The step's batches. A reward function or an environment that fails loses no update made before it."""
        try:
            return self.objective.batches(step)
        except Exception:
            if step and self.objective.may_save(step) and self.world.size == 1:
                self._save(step, *self._before_step)
            raise

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
        """Each term over all micro-batches and processes: a sum's mean, or the largest of a maximum.

        A sum over nothing has no mean, and no figure.
        """
        kinds: dict[str, list[dict[str, float]]] = {"sum": [], "max": []}
        for terms in batches:
            for kind, rows in kinds.items():
                rows.append({name: term.value for name, term in terms.items() if term.reduction == kind})
        self._maxima |= {name for terms in kinds["max"] for name in terms}
        sums, maxima = self.world.all_reduce_sum(add_up(kinds["sum"])), self.world.all_reduce_max(largest(kinds["max"]))
        return {name: value / max(totals[name], 1.0) for name, value in sums.items() if totals[name]} | maxima

    def _drop(self, step: int, problem: str, figures: dict[str, float]) -> dict[str, float]:
        """Write bad_step.json; then skip the step, or raise `TrineError`."""
        self.model.zero_grad()
        before = self.guard.state()
        goes_on = self.guard.may_skip(step)
        observed = self.objective.observations(taken=False)
        place = self.run.write_bad_step({"step": step + 1, "problem": problem, "goes_on": goes_on},
                                        figures | observed, self.objective.describe_batch(step))  # fmt: skip
        if not goes_on:
            if step and self.objective.may_save(step):
                self.guard.restore(before)
                self._save(step, *self._before_step)
            raise (TrineError if self.world.is_main else QuietError)(
                f"{self.objective.name}: {problem}; the checkpoint is of before that step. {place} identifies the "
                "batch: resume with loop.on_bad_step=skip, or restart with a lower learning rate "
                "(optimizer.learning_rate)"
            )
        say(f"{self.objective.name}: {problem}: skipped; {place} identifies the batch", style="yellow")
        return {name: value for name, value in observed.items() if math.isfinite(value)} | self._skipped()

    def _log(self, step: int, row: dict[str, float]) -> None:
        """Write one row per `log_every` steps: the sum of seconds, the largest of maxima, the mean of all else."""
        self._unlogged.append(row)
        if step % self.log_every and step < self.steps:
            return
        rows, self._unlogged = self._unlogged, []
        names = dict.fromkeys(name for each in rows for name in each)
        values = {name: [each[name] for each in rows if name in each] for name in names}
        joined = {
            name: max(of_name) if name in self._maxima else sum(of_name) / len(of_name)
            for name, of_name in values.items()
        }
        self.run.log({"step": step, **joined, "seconds": sum(values["seconds"]), **self._skipped()})

    def _skipped(self) -> dict[str, float]:
        return {"skipped": float(self.guard.skipped)} if self.guard.skipped else {}

    def _speed(self, row: dict[str, float], seconds: float) -> dict[str, float]:
        """Tokens per second where the objective counts tokens, and as a share of the machine's matrix-product rate."""
        if "tokens" not in row:
            return {"seconds": seconds}
        speed = row["tokens"] / seconds
        share = {"matmul_share": speed * self.effort.flops_per_token / self.effort.machine_flops} if self.effort else {}
        return {"seconds": seconds, "tokens_per_second": speed, **share}

    def _stopping(self) -> bool:
        """Whether any process has received a signal; then all are told, and stop after the same step.

        A signal that arrives after this check is seen after the next step: it must be neither lost nor acted on by one
        process alone.
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
        """At the last step too, since what follows may take long, and at the step that wsd is extended from."""
        always = self.config.save_every > 0 and step in (self.steps, self._before_decay)
        return always or self._due(step, self.config.save_every)

    def _step_before_decay(self, steps: int) -> int:
        return step_before_decay(steps, self.optimizer_config, self.objective.may_save)

    def _save(self, step: int, objective: dict[str, Any] | None = None, random_state: Tensor | None = None) -> None:
        """Write a checkpoint; `objective` and `random_state` replace the current ones, for the state before a step."""
        self._refuse_broken_weights(step)
        tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in self._trained()}
        for index, optimizer in enumerate(self.optimizers):
            tensors |= optimizer_tensors(optimizer, f"optimizer{index}")
        tensors["torch_random_state"] = torch.get_rng_state() if random_state is None else random_state
        tensors |= {f"objective/{name}": tensor for name, tensor in self.objective.tensors(step).items()}
        state = {"objective": objective or self.objective.state(), "guard": self.guard.state(), "steps": self.steps}
        state |= {"rows": dict(self.run.rows)}
        keep, protected = self.config.keep_checkpoints, self._before_decay
        save_checkpoint(self.run.checkpoints, step, tensors, state, keep, self.world, protected=protected)

    def _refuse_broken_weights(self, step: int) -> None:
        """Raise `TrineError` if an update left a weight that is not finite: such a model is never saved."""
        broken = [name for name, each in self._trained() if not bool(local(each.detach()).isfinite().all())]
        if self.world.all_reduce_max({"broken": float(bool(broken))})["broken"]:
            raise (TrineError if self.world.is_main else QuietError)(
                f"{self.objective.name}: after step {step} of {self.steps} weights are not finite "
                f"({', '.join(broken[:3]) or 'in another process'}); they are not saved, and checkpoints before that "
                "step are kept. Lower the learning rate (optimizer.learning_rate)"
            )

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        """Frozen parameters are not saved: a resumed run opens the same ones."""
        return [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]

    def _resume(self) -> int:
        like: dict[str, Tensor] = {f"model/{name}": parameter for name, parameter in self._trained()}
        for index, optimizer in enumerate(self.optimizers):
            like |= optimizer_parameters(optimizer, f"optimizer{index}")
        loaded = load_checkpoint(self.run.checkpoints, like, self.world, self._can_continue_from)
        if loaded is None:
            self.run.forget_after(-1)
            return 0
        tensors, state = loaded
        self._restore(tensors, state)
        step, planned = int(state["step"]), int(state["steps"])
        ended = step == planned  # saved at what was the end, where no evaluation was due but the final one
        self.run.forget_after(step, ended=ended, expected=state["rows"])
        before = "" if planned == self.steps else f" (it was to end after {planned})"
        say(f"{self.objective.name}: continuing after step {step} of {self.steps}{before}")
        if ended and self._due(step, self.config.evaluate_every):
            self.run.log({"step": step, **self._evaluate(final=False)})
        return step

    def _can_continue_from(self, state: dict[str, Any]) -> bool:
        """A run of another length is the same until its decay begins."""
        before_decay = self._step_before_decay(int(state["steps"]))
        return state["steps"] == self.steps or not before_decay or state["step"] <= before_decay

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        odd = [name for name, each in self._trained() if shapes.get(f"model/{name}") != each.shape]
        if odd or int(state["step"]) > self.steps:
            raise TrineError(
                f"the checkpoint of step {state['step']} in {self.run.checkpoints} is of another run than this one of "
                f"{self.steps} steps{f': {odd[0]} differs' if odd else ''}; give another --out"
            )
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(tensors[f"model/{name}"])
        for index, optimizer in enumerate(self.optimizers):
            restore_optimizer(optimizer, f"optimizer{index}", tensors)
        torch.set_rng_state(tensors["torch_random_state"])
        self.objective.restore(state["objective"])
        own = {name: tensor for name, tensor in tensors.items() if name.startswith("objective/")}
        self.objective.restore_tensors({name.removeprefix("objective/"): tensor for name, tensor in own.items()})
        self.guard.restore(state["guard"])


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
