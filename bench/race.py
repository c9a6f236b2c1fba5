"""A race to a validation loss: our pretraining against `transformers.Trainer`, same shape, rows, batch and tokens.

    python -m bench.race prepare --rows DIR
    python -m bench.race ours|trainer-fp32|trainer-bf16 --rows DIR --out DIR --tokens N     # one after the other
    python -m bench.race table --out DIR

The peer's final validation loss is the finishing line, the share of its wall time that ours needed to get there the
result. Evaluation is in nobody's wall time.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.models import SHAPES
from bench.race_log import RaceLog, read_log, seconds_to_reach
from bench.race_rows import RaceRows, prepare_from_shards, prepare_from_texts
from bench.table import Row, print_table
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.runtime.errors import TrineError
from trine.runtime.files import write_json

TRAINERS = {"trainer-fp32": 0.5, "trainer-bf16": 0.8}
"""The largest share of a peer's wall time aimed at."""
RUNNERS = ("ours", *TRAINERS)


def main() -> int:
    arguments = _parse()
    try:
        if arguments.command == "prepare":
            _prepare(arguments)
        elif arguments.command == "table":
            _table(arguments.out)
        else:
            _run(arguments)
    except TrineError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.race", description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("command", choices=("prepare", *RUNNERS, "table"))
    parser.add_argument("--rows", type=Path, default=Path("runs/race/rows"), help="folder of the token rows")
    parser.add_argument("--out", type=Path, default=Path("runs/race"), help="folder of the logs and the table")
    parser.add_argument("--megabytes", type=float, default=60, help="prepare: how much Python code to take")
    parser.add_argument("--shards", type=Path, help="prepare: take the ids of these shards instead")
    parser.add_argument("--part", default="standard_library", help="prepare: held-out part of the shards")
    parser.add_argument("--vocabulary", type=int, default=8192, help="prepare: vocabulary, of the shards or to train")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="training tokens")
    parser.add_argument("--family", choices=("gpt2", "qwen3"), default="gpt2")
    mini = SHAPES["mini"]
    for name, value in (("layers", mini.layers), ("width", mini.width), ("heads", mini.heads)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--row-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--every", type=int, default=25, help="steps between evaluations")
    parser.add_argument("--validation-rows", type=int, default=128)
    return parser.parse_args()


def _prepare(arguments: argparse.Namespace) -> None:
    if arguments.shards:
        prepare_from_shards(arguments.rows, arguments.shards, arguments.part, arguments.vocabulary)
    else:
        prepare_from_texts(arguments.rows, int(arguments.megabytes * 1e6), arguments.vocabulary)


def _run(arguments: argparse.Namespace) -> None:
    rows = RaceRows(arguments.rows, arguments.row_tokens, arguments.batch_size)
    make = gpt2_config if arguments.family == "gpt2" else qwen3_config
    shape: ModelConfig = make(rows.vocab_size, arguments.row_tokens, arguments.layers, arguments.width, arguments.heads)
    steps = arguments.tokens // (arguments.row_tokens * arguments.batch_size)
    same = ("family", "layers", "width", "heads", "row_tokens", "batch_size", "every", "validation_rows")
    about: dict[str, Any] = {name: getattr(arguments, name) for name in same}
    about |= {"steps": steps, "parameters": shape.parameter_count, "rows": rows.about | {"count": rows.count}}
    log = RaceLog(arguments.out / f"{arguments.command}.jsonl", about, rows.bytes_per_token)
    settings = (shape, rows, log, steps, arguments.every, arguments.validation_rows)
    if arguments.command == "ours":
        from bench import race_ours

        race_ours.run(*settings)
    else:
        from bench import race_trainer  # needs transformers and accelerate

        race_trainer.run(*settings, autocast=arguments.command == "trainer-bf16")


def _table(out: Path) -> None:
    logs = {name: read_log(out / f"{name}.jsonl") for name in RUNNERS if (out / f"{name}.jsonl").exists()}
    if "ours" not in logs:
        raise TrineError(f"{out} holds no ours.jsonl; run `python -m bench.race ours` first")
    rows = race_table(logs)
    print_table("race", rows, "s")
    write_json(out / "race.json", {"about": logs["ours"][0], "rows": [asdict(row) for row in rows]})


def race_table(logs: dict[str, tuple[dict[str, Any], list[dict[str, float]]]]) -> list[Row]:
    """A row a peer: our seconds to its final loss, its own seconds, their ratio (above 1 in our favour)."""
    about, ours = logs["ours"]
    table = []
    for name, max_share in TRAINERS.items():
        if name not in logs:
            continue
        if _same(logs[name][0]) != _same(about):
            raise TrineError(f"{name} ran another race than ours: {logs[name][0]}, not {about}")
        end, seconds = logs[name][1][-1], seconds_to_reach(ours, logs[name][1][-1]["loss"])
        line = f"its final loss {end['loss']:.4f} nats/token, {end['bits_per_byte']:.4f} bits/byte"
        reached = seconds is not None and seconds <= max_share * end["seconds"]
        note = f"{line}; ours ended at {ours[-1]['loss']:.4f} after {ours[-1]['seconds']:.0f} s"
        if seconds is not None:
            note += f"; {seconds / end['seconds']:.2f} of its wall time"
        ratio = None if seconds is None else end["seconds"] / seconds
        target = f"≤ {max_share:g} of its time"
        table.append(Row("race", seconds, name, end["seconds"], ratio, None, target, reached, note))
    return table


def _same(about: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs one race: how often a side looks at its loss is not part of it."""
    return {key: value for key, value in about.items() if key != "every"}


if __name__ == "__main__":
    sys.exit(main())
