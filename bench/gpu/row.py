"""One row in a process of its own: `python -m bench.gpu.row decoding --device cuda`; its result is the last line."""

import argparse
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from typing import Any

from bench.gpu.plan import LAST_WORDS, ROOT, ROWS, Result
from bench.gpu.setting import Setting

A_FEW_TESTS = ["tests/gpu/test_training.py", "-k", "ddp or over_the_group"]


def result_of(name: str, setting: Setting) -> Result:
    """Measure the row, or run the tests."""
    if name == "tests":
        return run_tests(setting)
    module: Any = importlib.import_module(f"bench.gpu.{name}")
    return {"status": "done", "figures": module.measure(setting)}


def run_tests(setting: Setting) -> Result:
    """pytest's count of the tests marked `gpu`; on a CPU the same tests run there (tests/gpu/device.py)."""
    if importlib.util.find_spec("pytest") is None:
        return {"status": "skipped", "error": "pytest is not installed"}
    chosen = A_FEW_TESTS if setting.tiny else ["tests/gpu"]
    command = [sys.executable, "-m", "pytest", "-p", "bench.gpu", "-m", "gpu", "--tb=short", "-rs", *chosen]
    environment = os.environ | {"TRINE_GPU_TESTS_ON": setting.device, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    if done.returncode == 0 and counts.get("passed"):
        return {"status": "done", "figures": counts}
    return {"status": "failed", "figures": counts, "error": done.stdout[-4 * LAST_WORDS :]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.gpu.row", description=__doc__)
    parser.add_argument("name", choices=[row.name for row in ROWS])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(result_of(arguments.name, Setting(arguments.device, arguments.tiny))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
