"""Runs the sides of a case in turns: each in a process and a clean environment of its own, one at work at a time.

A B C A B C ... on one machine, so that drift (clock, temperature, other processes) affects all of them equally.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

from bench.cases import SIDES
from bench.chip import limits
from bench.records import Case, Contender

KEPT_VARIABLES = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "TRINE_NANOGPT")
PYTHONS = {
    "llama.cpp": "TRINE_LLAMA_PYTHON",
    "trl 0.11": "TRINE_TRL_0_11_PYTHON",
    "trl 0.24": "TRINE_TRL_0_24_PYTHON",
    "trl": "TRINE_TRL_PYTHON",
}
"""Variables that name the interpreters of peers with environments of their own."""
PAUSE_SECONDS = 0.3  # threads of the previous side spin for a moment before they sleep
MAX_LOSS_DIFFERENCE = 0.05  # nats, between sides that train the same weights on the same ids: bf16 is far below
Sample = dict[str, Any]


class SideError(Exception):
    """A side that is not installed, or failed; the message says why."""


def clean_environment() -> dict[str, str]:
    """An environment without variables that change threads, allocators or Python."""
    return {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ} | limits() | {"TRINE_DEVICE": "cpu"}


class Worker:
    """One side's process, from its hello to the end of its input."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.log = folder / f"{name.replace(' ', '-')}.log"
        options = SIDES[name].options | {"folder": str(folder), "threads": threads}
        # A compiler's cache from an earlier run would hide what compiling costs.
        environment = clean_environment() | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        environment |= ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | SIDES[name].environment
        python = next((os.environ.get(variable) for peer, variable in PYTHONS.items() if name.startswith(peer)), None)
        try:
            self.process = subprocess.Popen(
                [python or sys.executable, "-m", SIDES[name].module, json.dumps(options)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("wb"), text=True, bufsize=1,
                env=environment, cwd=Path(__file__).parent.parent,
            )  # fmt: skip
        except OSError as error:
            raise SideError(f"its Python cannot be started: {error.strerror}") from None
        self.hello = self._answer()

    def run(self, contender: Contender, seed: int) -> Sample:
        """Do the work once, after a pause."""
        time.sleep(PAUSE_SECONDS)
        assert self.process.stdin is not None
        request = {"work": contender.work, "arguments": contender.arguments | {"seed": seed}}
        with suppress(BrokenPipeError):  # a side that has exited is reported by _answer
            self.process.stdin.write(json.dumps(request) + "\n")
        return self._answer()

    def _answer(self) -> Sample:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            words = self.log.read_text(errors="replace").strip().splitlines()
            raise SideError(f"ended with exit code {self.process.wait()}; {words[-1] if words else 'no output'}")
        answer: Sample = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def close(self) -> None:
        """The process ends with its input; one that does not is stopped."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Workers(ExitStack):
    """The workers of one model folder, each started when first needed. `hellos`: what each said of itself."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__()
        self.folder, self.threads = folder, threads
        self.hellos: dict[str, Sample] = {}
        self._running: dict[str, Worker] = {}
        self._seeds = count()

    def run(self, contender: Contender) -> Sample:
        """Do the work once, with a new seed each time, because an engine may cache prompts."""
        side = contender.side
        if side not in self._running:
            worker = Worker(side, self.folder, self.threads)
            self.callback(worker.close)
            self._running[side], self.hellos[side] = worker, worker.hello
        return self._running[side].run(contender, next(self._seeds))

    def processor_seconds(self, side: str) -> float:
        """Processor time that a running side has taken so far."""
        fields = Path(f"/proc/{self._running[side].process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def keep_only(self, sides: set[str]) -> None:
        """Close the workers of other sides: memory does not suffice for all of them at once."""
        for side in self._running.keys() - sides:
            self._running.pop(side).close()


def run_case(case: Case, workers: Workers, repetitions: int, sides: set[str]) -> dict[str, Any]:
    """`samples` and `warm_ups` of every contender of `sides`, and `absent`: contender -> why it has none."""
    warm_ups: dict[str, list[Sample]] = {}
    absent: dict[str, str] = {}
    workers.keep_only({contender.side for contender in case.contenders})
    for contender in (contender for contender in case.contenders if contender.side in sides):
        try:
            warm_ups[contender.name] = [workers.run(contender) for _ in range(SIDES[contender.side].warm_ups)]
        except SideError as error:
            absent[contender.name] = str(error)
    present = [contender for contender in case.contenders if contender.name in warm_ups]
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in present}
    for _ in range(repetitions):
        for contender in present:
            samples[contender.name].append(workers.run(contender))
    _check_equal_work(case, [sample for runs in [*warm_ups.values(), *samples.values()] for sample in runs])
    return {"case": case.name, "samples": samples, "warm_ups": warm_ups, "absent": absent}


def _check_equal_work(case: Case, samples: list[Sample]) -> None:
    """As many tokens or environment steps, the same ids where a side encodes, the same first loss where it trains."""
    losses = [sample["first_loss"] for sample in samples if "first_loss" in sample]
    rounding = max((sample.get("loss_step", 0.0) for sample in samples), default=0.0)  # of a side whose loss is in bf16
    same_losses = not losses or max(losses) - min(losses) <= MAX_LOSS_DIFFERENCE + rounding
    work = {(sample.get("tokens"), sample.get("steps"), sample.get("digest")) for sample in samples}
    if not same_losses or len(work) > 1:
        raise SideError(f"{case.group} {case.name}: unequal work: {samples}")
