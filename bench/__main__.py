"""Measure Trine beside its peers, print the table, write bench/results/*.json (bench/README.md)."""

import argparse
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import startup
from bench.cases import GROUPS, SIDES
from bench.models import SHAPES, write_model
from bench.protocol import available_cores
from bench.table import Row, print_table, rows_of
from bench.workers import SideError, Workers, run_case
from trine.runtime.files import write_json

RESULTS = Path(__file__).parent / "results"
REPETITIONS, STARTUP_REPETITIONS = 5, 10


def main() -> int:
    arguments = _parse()
    try:
        if "startup" in arguments.groups:
            _startup(arguments)
        for shape in arguments.shape:
            _shape(shape, arguments)
    except SideError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parse() -> argparse.Namespace:
    every = ["startup", *GROUPS]
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"{', '.join(every)}; all by default")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["mini", "small"])
    parser.add_argument("--case", nargs="+", help="only the cases of these names, such as B=16")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES), help="only these sides, such as ours")
    parser.add_argument("--repetitions", type=int, help=f"{REPETITIONS} by default, {STARTUP_REPETITIONS} for startup")
    parser.add_argument("--threads", type=int, default=0, help="of every side; by default each takes what it would")
    arguments = parser.parse_args()
    arguments.groups = arguments.groups or every
    if unknown := set(arguments.groups) - set(every):
        parser.error(f"unknown groups {sorted(unknown)}")
    return arguments


def _startup(arguments: argparse.Namespace) -> None:
    repetitions = arguments.repetitions or STARTUP_REPETITIONS
    result, rows = startup.measure(repetitions, with_peers=set(arguments.only) == set(SIDES))
    _finish("startup", arguments, rows, {"unit": "ms", "repetitions": repetitions, "results": [result]})


def _shape(shape: str, arguments: argparse.Namespace) -> None:
    """All groups of one shape, on one set of weights and with one set of workers."""
    repetitions = arguments.repetitions or REPETITIONS
    with (
        tempfile.TemporaryDirectory(prefix="trine-bench-") as folder,
        Workers(Path(folder), arguments.threads) as workers,
    ):
        for group in (group for group in arguments.groups if group in GROUPS):
            results, rows = [], []
            for case in GROUPS[group](shape):
                if arguments.case and case.name not in arguments.case:
                    continue
                if not (Path(folder) / "config.json").exists():
                    write_model(shape, Path(folder))
                sys.stderr.write(f"{shape}: {group} {case.name} ...\n")
                results.append(run_case(case, workers, repetitions, set(arguments.only)))
                rows += rows_of(case, results[-1])
            record = {"unit": "tokens/s", "repetitions": repetitions, "sides": workers.hellos, "results": results}
            if rows:
                _finish(f"{group}-{shape}", arguments, rows, record)


def _finish(name: str, arguments: argparse.Namespace, rows: list[Row], record: dict[str, Any]) -> None:
    """Print the rows and write the file; a quick look (part of the sides, cases, cores) stays out of git."""
    print_table(name, rows, record["unit"])
    partial = arguments.case or arguments.threads or arguments.repetitions or set(arguments.only) != set(SIDES)
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
