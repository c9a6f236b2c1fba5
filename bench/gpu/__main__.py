"""Measure the GPU rows of the speed table and run the tests marked `gpu`, within eight minutes; write one JSON."""

import argparse
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import trine
from bench.gpu.plan import BUDGET, ROWS, Result, Row, comparisons, run_in_process, run_rows
from bench.gpu.row import result_of
from bench.gpu.setting import Setting
from bench.gpu.stand_ins import standing_in
from trine.runtime.files import write_json

RESULTS = Path(__file__).parents[1] / "results"


def main(given: Sequence[str] | None = None) -> int:
    arguments = _parse(given)
    if arguments.device != "cpu" and not torch.cuda.is_available():
        sys.stderr.write("error: PyTorch sees no GPU here; --device cpu --tiny tries the script itself\n")
        return 2
    setting = Setting(arguments.device, arguments.tiny)
    options = ["--device", setting.device, *(["--tiny"] if setting.tiny else [])]
    about = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(setting)}

    def run(row: Row, seconds: float) -> Result:
        sys.stderr.write(f"{row.name}: at most {seconds:.0f} s: {row.about} ...\n")
        return result_of(row.name, setting) if arguments.in_process else run_in_process(row, seconds, options)

    def write(results: list[Result]) -> None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, about | {"seconds": arguments.seconds, "rows": results})

    chosen = [row for row in ROWS if row.name in arguments.rows]
    results = run_rows(chosen, run, write, arguments.seconds)
    _print(results, arguments.out)
    return 0 if all(result["status"] in ("done", "skipped") for result in results) else 1


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"{', '.join(names)}; all by default")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, or cpu")
    parser.add_argument("--tiny", action="store_true", help="as little work as shows that the script runs")
    parser.add_argument("--seconds", type=float, default=BUDGET, help=f"of all rows together; {BUDGET:g} by default")
    parser.add_argument("--in-process", action="store_true", help="no process for each row, and so no limit of its own")
    parser.add_argument("--out", type=Path, help="the JSON; bench/results/gpu.json by default, gpu.local.json if tiny")
    arguments = parser.parse_args(given)
    arguments.rows = arguments.rows or names
    arguments.out = arguments.out or RESULTS / ("gpu.local.json" if arguments.tiny else "gpu.json")
    if unknown := set(arguments.rows) - set(names):
        parser.error(f"unknown rows {sorted(unknown)}")
    return arguments


def machine(setting: Setting) -> dict[str, Any]:
    """The chip, and the versions of what ran on it."""
    found: dict[str, Any] = {"device": setting.device, "cuda": torch.version.cuda, "python": platform.python_version()}
    if setting.device != "cpu":
        properties = torch.cuda.get_device_properties(torch.device(setting.device))
        capability = f"{properties.major}.{properties.minor}"
        found |= {"name": properties.name, "memory": properties.total_memory, "capability": capability}
    for package in ("torch", "triton", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"trine": trine.__version__, "stand_ins": standing_in()}


def _print(results: Sequence[Result], out: Path) -> None:
    for result in results:
        told = result.get("error", "").strip().splitlines()
        sys.stdout.write(
            f"{result['row']:<10} {result['status']:<8} {result.get('seconds', 0):>6} s  {told[-1:] or ''}\n"
        )
    for figure, value, target in comparisons(results):
        reached = "reached" if value >= target else "not reached"
        sys.stdout.write(f"{figure}: {value:.3g}, target {target:g}: {reached}\n")
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    sys.exit(main())
