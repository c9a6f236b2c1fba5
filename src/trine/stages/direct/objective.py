"""What `trine dpo` trains: losses of pairs (DPO, IPO, SimPO, ORPO ...) and of single answers (KTO), on the one loop.

Logged beside the loss is what a margin hides: how likely chosen and rejected answers are, per token, against the
reference. Both may fall while the margin grows (Razin et al. 2024); where the chosen ones do, a warning says so.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.text_preferences import (
    PairLogProbs,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log_odds_ratio,
    odds_ratio_loss,
    robust_loss,
    simpo_loss,
)
from trine.algorithms.text_ranking import pair_wins
from trine.config.dpo import DpoConfig
from trine.data.reply_rows import Group, predicted_tokens
from trine.records import Term
from trine.stages.direct.chosen_watch import ChosenWatch
from trine.stages.direct.log_probs import answer_log_probs
from trine.stages.direct.plan import MicroBatch, Plan
from trine.stages.direct.reference import ReferenceLogProbs
from trine.training.objective import StepObjective
from trine.training.parallel import Parallel

Figures = dict[str, tuple[float, float]]
"""name -> (sum, how much it is over)"""


@dataclass(frozen=True)
class Part:
    """The items to train on, or those held out, and what the reference says of them (None: the loss asks for none)."""

    plan: Plan
    reference: ReferenceLogProbs | None


@dataclass(frozen=True)
class Reading:
    """What a micro-batch gives: the loss of each item [B], the chosen answers' nats, and figures to log."""

    losses: Tensor
    chosen_nats: Tensor
    figures: Figures


class DirectObjective(StepObjective):
    """A preference loss, and the chosen answers' cross-entropy where it has a weight. `parallel.module` is an
    `AnswerLogProbs`, wrapped for several processes or not."""

    name = "dpo"

    def __init__(
        self, parallel: Parallel, train: Part, held_out: Part | None, config: DpoConfig, *, share_prompt: bool = False
    ) -> None:
        """`share_prompt`: a pair's answers are read behind one prompt, as they were by the reference."""
        assert parallel.module is not None
        self.parallel, self.module, self.world = parallel, parallel.module, parallel.world
        self.train, self.held_out, self.config, self.share_prompt = train, held_out, config, share_prompt
        self.watch = ChosenWatch(against_reference=config.has_reference)
        self._figures: list[Figures] = []

    @abstractmethod
    def read(self, part: Part, batch: MicroBatch) -> Reading:
        """Losses and figures of a micro-batch."""

    # The loop's side

    def batches(self, step: int) -> Sequence[MicroBatch]:
        return self.train.plan.micro_batches(self.train.plan.step(step), self.world)

    def counts(self, batch: MicroBatch) -> dict[str, float]:
        counts = {"preference": sum(batch.weights)}
        if self.config.likelihood_weight:
            counts["chosen_likelihood"] = self._chosen_tokens(batch)
        return counts

    def terms(self, batch: MicroBatch) -> dict[str, Term]:
        found = self.read(self.train, batch)
        self._figures.append(found.figures | {"tokens": (float(self._tokens(batch)), 0.0)})
        terms = {"preference": Term((self._weights(batch) * found.losses).sum(), self._loss_weight)}
        if self.config.likelihood_weight:
            terms["chosen_likelihood"] = Term(found.chosen_nats, self.config.likelihood_weight)
        return terms

    @property
    def _loss_weight(self) -> float:
        """ORPO's lambda is the weight of its odds ratio."""
        return self.config.beta_of_loss if self.config.loss == "orpo" else 1.0

    def observations(self, taken: bool = True) -> dict[str, float]:
        seen, self._figures = self._figures, []
        figures = self._means(seen)
        if taken:
            self.watch.add(figures)
        return figures

    def evaluate(self, final: bool) -> dict[str, Any]:
        """Loss and figures of the held-out items, which the processes deal out among them."""
        if self.held_out is None:
            return {}
        seen = []
        for step in self.held_out.plan.steps:
            for batch in self.prepared(self.held_out, self.held_out.plan.micro_batches(step, self.world)):
                found = self.read(self.held_out, batch)
                loss = float((self._weights(batch) * found.losses).sum())
                seen.append(found.figures | {"preference": (loss, sum(batch.weights))})
        return {f"held_out_{name}": value for name, value in self._means(seen).items()}

    def prepared(self, part: Part, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches of a step, once all is known that its losses ask for."""
        return batches

    def describe_batch(self, step: int) -> dict[str, Any]:
        return {"epoch": step // len(self.train.plan.steps), "items": self.train.plan.step(step)}

    def state(self) -> dict[str, Any]:
        return {"watch": self.watch.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.watch.restore(state["watch"])

    # What both kinds of items share

    def log_probs(self, groups: Sequence[Group]) -> Tensor:
        """Sums [A] over the tokens of each answer."""
        return answer_log_probs(self.module, groups, self.world.device, share_prompt=self.share_prompt)

    def _weights(self, batch: MicroBatch) -> Tensor:
        return torch.tensor(batch.weights, dtype=torch.float32, device=self.world.device)

    def _lengths(self, part: Part, batch: MicroBatch) -> Tensor:
        """Predicted tokens of each answer, [B, answers]."""
        items = [part.plan.items[index] for index in batch.items]
        lengths = [[predicted_tokens(item.prompt, answer) for answer in item.answers] for item in items]
        return torch.tensor(lengths, dtype=torch.float32, device=self.world.device)

    def _reference(self, part: Part, batch: MicroBatch, like: Tensor) -> Tensor | None:
        return None if part.reference is None else part.reference.answers[batch.items].to(like)

    def _chosen_tokens(self, batch: MicroBatch) -> float:
        items = [self.train.plan.items[index] for index in batch.items]
        lengths = [predicted_tokens(item.prompt, item.answers[0]) * item.desirable for item in items]
        return sum(weight * length for weight, length in zip(batch.weights, lengths, strict=True))

    def _tokens(self, batch: MicroBatch) -> int:
        plan = self.train.plan
        return sum(plan.items[i].tokens for i, weight in zip(batch.items, batch.weights, strict=True) if weight)

    def _means(self, seen: Sequence[Figures]) -> dict[str, float]:
        """Each figure over all micro-batches and processes; those over nothing are left out."""
        totals: dict[str, float] = {}
        for figures in seen:
            for name, (value, count) in figures.items():
                totals[name] = totals.get(name, 0.0) + value
                totals[f"count of {name}"] = totals.get(f"count of {name}", 0.0) + count
        totals = self.world.all_reduce_sum(totals)
        names = [name for name in totals if not name.startswith("count of ")]
        means = {name: totals[name] / totals[f"count of {name}"] for name in names if totals[f"count of {name}"]}
        return means | ({"tokens": totals["tokens"]} if "tokens" in totals else {})


def side_figures(side: str, weights: Tensor, sums: Tensor, lengths: Tensor, reference: Tensor | None) -> Figures:
    """Log-probability and log-ratio per token of some answers [B]; those of weight 0 do not count."""
    tokens = float((weights * lengths).sum())
    figures = {f"{side}_log_prob": (float((weights * sums.detach()).sum()), tokens)}
    if reference is not None:
        figures[f"{side}_log_ratio"] = (float((weights * (sums.detach() - reference)).sum()), tokens)
    return figures


class PairObjective(DirectObjective):
    """Losses of a chosen and a rejected answer."""

    def read(self, part: Part, batch: MicroBatch) -> Reading:
        sums = self.log_probs(part.plan.groups(batch)).view(-1, 2)
        weights, lengths = self._weights(batch), self._lengths(part, batch)
        reference = self._reference(part, batch, sums)
        pair = PairLogProbs(
            *sums.unbind(1), *lengths.unbind(1), *([None, None] if reference is None else reference.unbind(1))
        )
        items = [part.plan.items[index] for index in batch.items]
        wrong = torch.tensor([1 - item.probability for item in items], dtype=sums.dtype, device=sums.device)
        losses, margins = pair_losses(pair, self.config, wrong)
        total = sum(batch.weights)
        figures: Figures = {
            "accuracy": (float((weights * pair_wins(margins, torch.zeros_like(margins))).sum()), total),
            "margin": (float((weights * margins.detach()).sum()), total),
        }
        for side, name in enumerate(("chosen", "rejected")):
            of_side = None if reference is None else reference[:, side]
            figures |= side_figures(name, weights, sums[:, side], lengths[:, side], of_side)
        return Reading(losses, -(weights * sums[:, 0]).sum(), figures)


def pair_losses(pair: PairLogProbs, config: DpoConfig, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """The loss named `config.loss` [P], and the margin that it is a function of (of ORPO the log odds ratio).

    `wrong` [P]: how likely it is that a preference is the other way round, by its record; DPO's loss alone asks for it.
    """
    beta = config.beta_of_loss
    if config.loss == "simpo":
        chosen, rejected = pair.means()
        return simpo_loss(chosen - rejected, beta, config.gamma), beta * (chosen - rejected)
    if config.loss == "orpo":
        return odds_ratio_loss(*pair.means()), log_odds_ratio(*pair.means())
    of_means = config.length_normalized or (config.loss == "ipo" and config.ipo_reduction == "mean")
    margins = pair.mean_margins() if of_means else pair.margins()
    losses = {
        "dpo": lambda: dpo_loss(margins, beta, wrong + config.label_smoothing * (1 - 2 * wrong)),
        "robust": lambda: robust_loss(margins, beta, config.label_smoothing),
        "hinge": lambda: hinge_loss(margins, beta),
        "ipo": lambda: ipo_loss(margins, beta),
    }
    return losses[config.loss](), beta * margins


class LabelObjective(DirectObjective):
    """KTO: each answer by itself against z0, which is one for the whole step and has no gradient.

    z0 is taken before the step's update, from answers behind other prompts than their own, over all micro-batches and
    processes.
    """

    def __init__(
        self,
        parallel: Parallel,
        train: Part,
        held_out: Part | None,
        config: DpoConfig,
        class_weights: tuple[float, float],
    ) -> None:
        """`class_weights`: of desirable and of undesirable answers."""
        super().__init__(parallel, train, held_out, config)
        self.class_weights = class_weights
        self.reference_point = 0.0

    def batches(self, step: int) -> Sequence[MicroBatch]:
        return self.prepared(self.train, super().batches(step))

    @torch.no_grad()
    def prepared(self, part: Part, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        assert part.plan.mismatches is not None and part.reference is not None
        assert part.reference.mismatched is not None
        found = {"total": 0.0, "count": 0.0}
        for batch in batches:
            sums = self.log_probs(part.plan.mismatched_groups(batch))
            has = torch.tensor([part.plan.mismatches[index] >= 0 for index in batch.items], device=sums.device)
            weights = self._weights(batch) * has
            found["total"] += float((weights * (sums - part.reference.mismatched[batch.items].to(sums))).sum())
            found["count"] += float(weights.sum())
        found = self.world.all_reduce_sum(found)
        self.reference_point = kto_reference_point(found["total"], found["count"])
        return batches

    def read(self, part: Part, batch: MicroBatch) -> Reading:
        sums = self.log_probs(part.plan.groups(batch))
        weights, lengths = self._weights(batch), self._lengths(part, batch)[:, 0]
        reference = self._reference(part, batch, sums)
        assert reference is not None
        desirable = torch.tensor([part.plan.items[index].desirable for index in batch.items], device=sums.device)
        ratios = sums - reference[:, 0]
        by_class = torch.where(desirable, *self.class_weights)
        losses = by_class * kto_loss(ratios, desirable, self.reference_point, self.config.beta_of_loss)
        right = torch.where(desirable, ratios > self.reference_point, ratios < self.reference_point)
        total = sum(batch.weights)
        figures: Figures = {
            "accuracy": (float((weights * right).sum()), total),
            "reference_point": (self.reference_point * total, total),
        }
        for name, of_side in (("chosen", weights * desirable), ("rejected", weights * ~desirable)):
            figures |= side_figures(name, of_side, sums, lengths, reference[:, 0])
        return Reading(losses, -(weights * desirable * sums).sum(), figures)
