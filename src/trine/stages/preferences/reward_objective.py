"""What the training loop is given to train a reward model on: batches of like length, losses, held-out figures."""

from collections.abc import Sequence
from typing import Any

from trine.config.preferences import RewardConfig
from trine.data.judgements import KINDS
from trine.records import Judgement, Term
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for
from trine.stages.preferences.judged import Judged, held_out_figures
from trine.stages.preferences.reward_batches import AnswerScores, pack_items, score_items
from trine.stages.preferences.reward_items import Item
from trine.stages.preferences.reward_losses import counts_of, terms_of
from trine.training.objective import StepObjective
from trine.training.parallel import Parallel

BATCHES_SORTED_TOGETHER = 8


class RewardObjective(StepObjective):
    """Losses of labels, scores, pairs and rankings, per record; evaluation by accuracy, and correlation of scores.

    Of several processes each trains its share of a step's batch elements.
    """

    name = "reward"

    def __init__(
        self,
        model: Any,
        items: list[Item],
        held_out: list[tuple[Judgement, Item]],
        config: RewardConfig,
        *,
        elements: list[list[int]] | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        """`elements`: places of items that a batch takes whole (`batch_elements`); by default each alone.

        `parallel.module` is an `AnswerScores` of `model`, a `ScoreModel`, wrapped for several processes or not; of
        other models (`encoder_reward.py`) `rows` and `scores` are others.
        """
        self.model, self.items, self.held_out, self.config = model, items, held_out, config
        self.elements = elements if elements is not None else [[place] for place in range(len(items))]
        self.parallel = parallel or Parallel(module=AnswerScores(model))
        self.kinds = [kind for kind in KINDS if any(item.kind == kind for item in items)]
        self.judged: list[Judged] = []
        self._epoch, self._order = -1, [[0]]
        if self.parallel.world.size > len(self.elements):
            raise TrineError(f"{len(self.elements)} records are fewer than {self.parallel.world.size} processes")

    def batches(self, step: int) -> Sequence[Any]:
        world = self.parallel.world
        elements = self._batch(step)[world.rank :: world.size]
        micro = self.config.micro_batch_size
        parts = [elements[start : start + micro] for start in range(0, len(elements), micro)]
        items = [[self.items[place] for element in part for place in self.elements[element]] for part in parts]
        return [self.rows(part) for part in items]

    def rows(self, items: Sequence[Item]) -> Any:
        """What `parallel.module` scores: the items as tensors."""
        return pack_items(items, self.model.trunk.config.context).to(self.parallel.world.device)

    def scores(self, items: Sequence[Item]) -> list[tuple[float, ...]]:
        """The scores of each item's answers."""
        assert self.parallel.module is not None
        context, device = self.model.trunk.config.context, self.parallel.world.device
        return score_items(self.parallel.module, items, context, device)

    def _batch(self, step: int) -> list[int]:
        """The batch elements of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_batches(epoch)
        return self._order[place]

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.elements) // self.config.batch_size)

    def _epoch_batches(self, epoch: int) -> list[list[int]]:
        """Batches of elements of like length: shuffled, sorted within a few batches' worth, batches shuffled again."""
        size = self.config.batch_size
        order = generator_for(self.config.seed, "epoch", epoch).permutation(len(self.elements)).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), size * BATCHES_SORTED_TOGETHER):
            near = sorted(order[start : start + size * BATCHES_SORTED_TOGETHER], key=self._tokens)
            batches += [near[at : at + size] for at in range(0, len(near), size)]
        whole = [batch for batch in batches if len(batch) == size] or batches
        return [whole[index] for index in generator_for(self.config.seed, "batches", epoch).permutation(len(whole))]

    def _tokens(self, element: int) -> int:
        return sum(self.items[place].tokens for place in self.elements[element])

    def counts(self, batch: Any) -> dict[str, float]:
        return counts_of(batch.items, self.kinds, self.config)

    def terms(self, batch: Any) -> dict[str, Term]:
        assert self.parallel.module is not None
        return terms_of(batch.items, self.parallel.module(batch), self.kinds, self.config)

    def describe_batch(self, step: int) -> dict[str, Any]:
        records = [self.items[place].record for element in self._batch(step) for place in self.elements[element]]
        return {"epoch": step // self.steps_per_epoch, "records": records}

    def evaluate(self, final: bool) -> dict[str, Any]:
        """Figures of each kind on the held-out records; keeps them with their scores as `judged`."""
        if not self.held_out:
            return {}
        items = [item for _, item in self.held_out]
        scores = self.scores(items)
        self.judged = [
            Judged(judgement, item.kind, found, tuple(map(tuple, item.answers)))
            for (judgement, item), found in zip(self.held_out, scores, strict=True)
        ]
        return held_out_figures(self.judged)
