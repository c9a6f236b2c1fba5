"""Measure Trine beside its peers, print the table, write bench/results/*.json (bench/README.md)."""

import argparse
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import company, loader, memory, ppo_cases, ranks, startup
from bench.cases import GROUPS, SIDES
from bench.chip import CHIPS, chip, limits, stand_in_for
from bench.control_cases import control
from bench.encoder_cases import encoder
from bench.encoder_texts import write_encoder
from bench.models import SHAPES, write_model
from bench.protocol import available_cores
from bench.records import Case
from bench.table import Row, print_table, rows_of
from bench.texts import write_texts, write_tokenizer
from bench.training_cases import encoding
from bench.workers import SideError, Workers, run_case
from trine.runtime.files import write_json

RESULTS = Path(__file__).parent / "results"
REPETITIONS = 5
OWN_REPETITIONS = {"startup": 10, "memory": 2, "packing": 3, "dpo": 3, "ranks": 3, "company": 3}
"""Of groups that need more or fewer."""
LOADER_VOCABULARY = 8192
SHAPELESS = ("startup", "encoding", "loader", "control", "encoder")
EVERY_GROUP = [*SHAPELESS, *GROUPS, "memory", "ranks", "company"]


def main() -> int:
    arguments = _parse()
    stand_in_for(arguments.chip)
    try:
        for group in (group for group in SHAPELESS if group in arguments.groups):
            _SHAPELESS[group](arguments)
        for shape in arguments.shape:
            _shape(shape, arguments)
    except SideError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"{', '.join(EVERY_GROUP)}; all by default")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["mini", "small"])
    parser.add_argument("--case", nargs="+", help="only the cases of these names, such as B=16")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), help="only these sides, such as ours")
    parser.add_argument("--repetitions", type=int, help=f"{REPETITIONS} by default; of some groups {OWN_REPETITIONS}")
    parser.add_argument("--threads", type=int, default=0, help="of every side; by default each takes what it would")
    parser.add_argument("--chip", choices=CHIPS, default=chip(), help="run every side as on this one, and its targets")
    arguments = parser.parse_args()
    arguments.groups = arguments.groups or EVERY_GROUP
    if unknown := set(arguments.groups) - set(EVERY_GROUP):
        parser.error(f"unknown groups {sorted(unknown)}")
    return arguments


def _repetitions(group: str, arguments: argparse.Namespace) -> int:
    return int(arguments.repetitions or OWN_REPETITIONS.get(group, REPETITIONS))


def _startup(arguments: argparse.Namespace) -> None:
    repetitions = _repetitions("startup", arguments)
    result, rows = startup.measure(repetitions, with_peers=set(arguments.only) == set(SIDES))
    _finish("startup", arguments, rows, {"unit": "ms", "repetitions": repetitions, "results": [result]})


def _encoding(arguments: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="trine-bench-") as folder,
        Workers(Path(folder), arguments.threads) as workers,
    ):
        write_texts(Path(folder))
        _in_turns("encoding", "encoding", encoding(), workers, arguments)


def _control(arguments: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="trine-bench-") as folder,
        Workers(Path(folder), arguments.threads) as workers,
    ):
        _in_turns("control", "control", control(), workers, arguments)


def _encoder(arguments: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="trine-bench-") as folder,
        Workers(Path(folder), arguments.threads) as workers,
    ):
        write_encoder(Path(folder))
        _in_turns("encoder", "encoder", encoder(), workers, arguments)


def _loader(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        write_tokenizer(Path(folder), LOADER_VOCABULARY)
        sys.stderr.write("loader ...\n")
        result, rows = loader.measure(Path(folder), arguments.threads)
    _finish("loader", arguments, rows, {"unit": "%", "repetitions": 1, "results": [result]})


_SHAPELESS = {
    "startup": _startup, "encoding": _encoding, "loader": _loader, "control": _control, "encoder": _encoder,
}  # fmt: skip


def _shape(shape: str, arguments: argparse.Namespace) -> None:
    """All groups of one shape, on one set of weights."""
    with (
        tempfile.TemporaryDirectory(prefix="trine-bench-") as folder,
        Workers(Path(folder), arguments.threads) as workers,
    ):
        for group in (group for group in arguments.groups if group not in SHAPELESS):
            cases = GROUPS[group](shape) if group in GROUPS else []
            if (cases or group not in GROUPS) and not (Path(folder) / "config.json").exists():
                write_model(shape, Path(folder))
            name = f"{group}-{shape}"
            if group in GROUPS:
                _in_turns(group, name, cases, workers, arguments)
                continue
            workers.keep_only(set())
            repetitions = _repetitions(group, arguments)
            measure = {"memory": memory.measure, "ranks": ranks.measure, "company": company.measure}[group]
            result, rows = measure(shape, Path(folder), repetitions, arguments.threads)
            unit = {"memory": "MB", "ranks": "tokens/s", "company": "% of alone"}[group]
            _finish(name, arguments, rows, {"unit": unit, "repetitions": repetitions, "results": [result]})


def _in_turns(group: str, name: str, cases: list[Case], workers: Workers, arguments: argparse.Namespace) -> None:
    results, rows = [], []
    repetitions = _repetitions(group, arguments)
    for case in cases:
        if arguments.case and case.name not in arguments.case:
            continue
        sys.stderr.write(f"{name}: {case.name} ...\n")
        results.append(run_case(case, workers, repetitions, set(arguments.only)))
        rows += rows_of(case, results[-1])
        rows += ppo_cases.further_rows(case, results[-1]) if group == "ppo" else []
    if rows:
        unit = {"tokens": "tokens/s", "megabytes": "MB/s", "steps": "steps/s"}[cases[0].counts]
        record = {"unit": unit, "repetitions": repetitions, "sides": workers.hellos, "results": results}
        _finish(name, arguments, rows, record)


def _finish(name: str, arguments: argparse.Namespace, rows: list[Row], record: dict[str, Any]) -> None:
    """Print the rows and write the file; a quick look (part of the sides, cases, cores) stays out of git."""
    print_table(name, rows, record["unit"])
    partial = (
        limits() or arguments.case or arguments.threads or arguments.repetitions or set(arguments.only) != set(SIDES)
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (f"{name}.local.json" if partial or name.endswith("tiny") else f"{name}.json")
    about = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine(arguments.threads)}
    write_json(path, about | record | {"rows": [asdict(row) for row in rows]})


def _machine(threads: int) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    cores = {"processor": processor, "cores": available_cores(), "threads": threads or available_cores()}
    return cores | {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
