"""How many records of task tokens a model answers exactly, greedily, by the tokens that their prompts have.

    python -m bench.task_tokens runs/gpt2/tasks

reads the run's own examples, those with an answer. Printed as JSON: exact answers, records, 95 % intervals of Wilson.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from trine.algorithms.statistics import wilson_interval
from trine.catalog.loading import open_hardware, open_model
from trine.config.finetuning import FinetuneConfig
from trine.config.loading import read_config_file
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.runtime.files import read_jsonl
from trine.tokenizer.task_format import task_prompt_ids

MAX_NEW_TOKENS = 32


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.task_tokens", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of trine finetune with task_tokens")
    run = parser.parse_args().run
    config = FinetuneConfig(**read_config_file(run / "config.yaml", FinetuneConfig))
    model, tokenizer = open_model(str(run), open_hardware(config.hardware))
    asked = [parts_of(row) for row in read_jsonl(config.examples) if "prompt" in row]
    ids = [task_prompt_ids(tokenizer, parts) for parts, _ in asked]
    sampling = Sampling(MAX_NEW_TOKENS, temperature=0.0, eos_ids=tokenizer.stop_ids)
    answers = [tokenizer.decode(each.response_ids) for each in Engine(model, rows=len(ids)).generate(ids, sampling)]
    right: dict[str, list[bool]] = defaultdict(list)
    for (parts, answer), found in zip(asked, answers, strict=True):
        right[" ".join(name for name, _ in parts if name) or "no token"].append(found == answer)
    sys.stdout.write(json.dumps({name: figures(each) for name, each in right.items()}, indent=1, ensure_ascii=False))
    return 0


def parts_of(row: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """(token, text behind it) of a record's prompt, the first without a token; and the answer."""
    start = [("", row["prompt"])]
    if "slots" not in row:
        return start + ([(row["task"], "")] if "task" in row else []), row["response"]
    *before, (last, answer) = row["slots"].items()
    return [*start, *before, (last, "")], answer


def figures(right: list[bool]) -> dict[str, Any]:
    interval = wilson_interval(sum(right), len(right))
    return {"exact": sum(right), "records": len(right), "interval": [round(interval.low, 3), round(interval.high, 3)]}


if __name__ == "__main__":
    sys.exit(main())
