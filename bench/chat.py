"""What fine-tuning on conversations changed: held-out loss by record, before and after, and fresh answers.

    python -m bench.chat runs/chat/finetune --records 400 --answers 100

reads the run's own config: the model it began with, its data, its split. The difference is paired over the records, in
nats per trained token; answers are greedy. Printed as JSON.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trine.catalog.loading import open_hardware, open_model
from trine.config.finetuning import FinetuneConfig
from trine.config.loading import read_config_file
from trine.data.packing import pack
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import TokenSpan
from trine.stages.finetuning.examples import read_examples_of
from trine.stages.finetuning.finetune import open_chat
from trine.stages.language_modelling import LanguageModelLoss, loss_sum
from trine.tokenizer.chat_format import Chat


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.chat", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of trine finetune")
    parser.add_argument("--records", type=int, default=400, help="held-out records to compute the loss of")
    parser.add_argument("--answers", type=int, default=100, help="held-out prompts to answer")
    parser.add_argument("--max_new_tokens", type=int, default=512)
    arguments = parser.parse_args()
    config = FinetuneConfig(**read_config_file(arguments.run / "config.yaml", FinetuneConfig))
    chat = open_chat(config)
    _, held_out = read_examples_of(config, chat)
    if held_out is None:
        sys.stderr.write("error: the run has no held-out examples\n")
        return 2
    hardware = open_hardware(config.hardware)
    models = [
        open_model(name, hardware, adapter)[0]
        for name, adapter in ((config.model, config.adapter), (arguments.run, None))
    ]
    spans = held_out.spans[: arguments.records]
    found = loss_figures(models, spans)
    found |= answer_figures(models, chat, spans[: arguments.answers], arguments.max_new_tokens)
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


@torch.no_grad()
def record_losses(model: Transformer, spans: list[TokenSpan]) -> np.ndarray:
    """Nats per trained token of each record."""
    module = LanguageModelLoss(model)
    device = next(model.parameters()).device
    batches = (pack([span], [[0]], len(span.ids), 0.0).to(device) for span in spans)
    return np.array([float(loss_sum(module, batch)) / batch.count for batch in batches])


def loss_figures(models: list[Transformer], spans: list[TokenSpan]) -> dict[str, Any]:
    before, after = (record_losses(model, spans) for model in models)
    change = after - before
    error = change.std(ddof=1) / len(change) ** 0.5
    figures = {"before": before.mean(), "after": after.mean(), "difference": change.mean(), "standard_error": error}
    return {"records": len(spans)} | {name: round(float(value), 5) for name, value in figures.items()}


def answer_figures(models: list[Transformer], chat: Chat, spans: list[TokenSpan], budget: int) -> dict[str, Any]:
    """The share of fresh answers that end by themselves, and five answers, before and after, by index."""
    prompts = [list(span.ids[: span.trained.index(True)]) for span in spans]
    sampling = Sampling(max_new_tokens=budget, temperature=0.0, eos_ids=chat.end_ids)
    both = [Engine(model, rows=64).generate(prompts, sampling) for model in models]
    ended = [sum(each.ended for each in rollouts) / max(len(rollouts), 1) for rollouts in both]
    samples = [
        {"prompt": chat.tokenizer.decode(prompts[index]), "before": chat.text(both[0][index].response_ids),
         "after": chat.text(both[1][index].response_ids)}
        for index in range(min(5, len(prompts)))
    ]  # fmt: skip
    return {"answers": len(prompts), "ended_before": ended[0], "ended_after": ended[1], "samples": samples}


if __name__ == "__main__":
    sys.exit(main())
