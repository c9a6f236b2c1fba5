"""Tasks that are asked while a model is fine-tuned, and the model of the evaluation that was best in one figure.

Asking changes nothing of the training: the engine reads the weights as they are. The best model so far lies in `best/`,
in Hugging Face form, and `best.json` says which step it is of; a resumed run goes on comparing with it.
"""

from collections.abc import Sequence
from typing import Any

from trine.config.finetuning import FinetuneConfig
from trine.model.folder import save_model
from trine.model.transformer import Transformer
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_json
from trine.runtime.progress import say
from trine.stages.evaluation.evaluate import evaluate_tasks
from trine.stages.evaluation.task_files import make_task, read_tasks
from trine.stages.language_modelling import whole_model
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun

BEST, RECORD = "best", "best.json"


class WatchedTasks:
    """Called at every evaluation: asks the tasks of `config.evaluate_tasks`, and keeps what `config.keep_best` says.

    Models are asked as they are trained, in their chat format or with plain text. Raises `TrineError` before anything
    is trained where a task cannot be read, or has no figure of that name.
    """

    def __init__(
        self, config: FinetuneConfig, stage: StageRun, model: Transformer, tokenizer: Tokenizer, end_ids: Sequence[int]
    ) -> None:
        self.stage, self.model, self.tokenizer, self.end_ids = stage, model, tokenizer, list(end_ids)
        self.keep_best, self.asks_in_chat = config.keep_best, not config.task_tokens
        self.tasks = [make_task(file, config.seed) for file in read_tasks(config.evaluate_tasks, config.task_data)]
        better = {f"{task.name}/{metric.name}": metric.better for task in self.tasks for metric in task.metrics}
        if self.keep_best is not None and self.keep_best not in better:
            there = ", ".join(better) or "none, since evaluate_tasks names no task"
            raise TrineError(f"keep_best={self.keep_best} is no figure of evaluate_tasks; there are {there}")
        self._higher = better.get(self.keep_best or "", "higher") == "higher"

    def __call__(self, final: bool) -> dict[str, Any]:
        """The means of all figures; every process calls it, and the main one asks."""
        model = whole_model(self.model) if self.tasks else self.model
        if not self.tasks or not self.stage.world.is_main:
            return {}
        found = evaluate_tasks(model, self.tokenizer, self.tasks, asks_in_chat=self.asks_in_chat)
        means = {name: figure["mean"] for name, figure in found.items()}
        if self.keep_best is not None:
            self._keep(model, means[self.keep_best])
        return means

    def best(self) -> dict[str, Any] | None:
        """Figure, value and step of the model in `best/`; None where there is none of this figure."""
        record = self.stage.path / RECORD
        if self.keep_best is None or not record.exists() or not (self.stage.path / BEST).exists():
            return None
        best = read_json(record)
        return dict(best) if best.get("figure") == self.keep_best else None

    def _keep(self, model: Transformer, value: float) -> None:
        """Of several alike, the first: what was trained less."""
        before = self.best()
        better = before is None or (value > before["value"] if self._higher else value < before["value"])
        if not better:
            return
        step = self.stage.folder.step
        tokenizer, ends = self.tokenizer, self.end_ids
        self.stage.write_model(
            BEST,
            tokenizer,
            lambda folder: save_model(model, folder, eos_token_id=ends, pad_token_id=tokenizer.pad),
        )
        write_json(self.stage.path / RECORD, {"figure": self.keep_best, "value": value, "step": step})
        say(f"finetune: step {step}: {self.keep_best} {value:.4g}, the best so far, kept as {BEST}/")
