"""The peer's side of the race: `transformers.Trainer` with codeparrot's settings, fp32 or bf16 autocast.

AdamW at 5e-4, weight decay 0.1, warm-up and cosine; dropout 0, as ours. Same rows in the same order, same batch.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from bench.race_log import RaceLog
from bench.race_rows import RaceRows
from trine.model.config import ModelConfig
from trine.model.families import to_hugging_face_config

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "attention_dropout": 0.0}
NO_NAMED_TOKENS = {"bos_token_id": None, "eos_token_id": None}
MAX_WARM_UP, WARM_UP_SHARE = 1000, 0.05
"""codeparrot's warm-up steps, and their maximum share of a shorter run."""


class OrderedRows(IterableDataset[dict[str, Tensor]]):
    """The rows of the race in its order."""

    def __init__(self, rows: RaceRows, steps: int) -> None:
        self.rows, self.steps = rows, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for index in range(self.steps * self.rows.batch_size):
            yield inputs_of(self.rows.row(index))


def inputs_of(windows: Tensor) -> dict[str, Tensor]:
    """Every token but the first is a target, as in ours: the targets are given already shifted."""
    targets = windows[..., 1:].contiguous()
    return {"input_ids": windows[..., :-1], "labels": targets, "shift_labels": targets}


class Evaluation(TrainerCallback):
    """Stops the clock every `every` steps and at the end, evaluates, writes the log."""

    def __init__(self, rows: RaceRows, log: RaceLog, every: int, validation_rows: int, autocast: bool) -> None:
        self.rows, self.log, self.every = rows, log, every
        self.validation_rows, self.autocast = validation_rows, autocast

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.log.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if step % self.every and step != state.max_steps:
            return
        self.log.stop()
        loss = self._validation_loss(kwargs["model"])
        self.log.write(step, step * self.rows.batch_size * self.rows.row_tokens, loss)
        self.log.start()

    @torch.no_grad()
    def _validation_loss(self, model: Any) -> float:
        model.eval()
        total, count = 0.0, 0
        for windows in self.rows.validation(self.validation_rows):
            targets = windows[:, 1:]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                logits = model(input_ids=windows[:, :-1], use_cache=False).logits
            nats = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
            total += float(nats)
            count += targets.numel()
        model.train()
        return total / count


def run(
    shape: ModelConfig, rows: RaceRows, log: RaceLog, steps: int, every: int, validation_rows: int, *, autocast: bool
) -> None:
    """Train `steps` steps, evaluating every `every` and at the end."""
    set_seed(0)
    described = to_hugging_face_config(shape)
    config = AutoConfig.for_model(described.pop("model_type"), **(NO_DROPOUT | NO_NAMED_TOKENS | described))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with tempfile.TemporaryDirectory(prefix="trine-race-") as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=rows.batch_size, learning_rate=5e-4,
            weight_decay=0.1, lr_scheduler_type="cosine", warmup_steps=warm_up_steps(steps), bf16=autocast,
            use_cpu=True, save_strategy="no", report_to="none", logging_steps=every, disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        callback = Evaluation(rows, log, every, validation_rows, autocast)
        dataset: Any = OrderedRows(rows, steps)
        Trainer(model=model, args=arguments, train_dataset=dataset, callbacks=[callback]).train()


def warm_up_steps(steps: int) -> int:
    return min(MAX_WARM_UP, max(1, round(WARM_UP_SHARE * steps)))
