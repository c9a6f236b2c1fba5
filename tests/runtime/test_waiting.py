"""2.6: threads that wait sleep, so that a run takes its fair share beside other programs, and no more."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trine.engine.native.library import native_library
from trine.model import kernels
from trine.model.training_library import training_library
from trine.runtime.waiting import SHORT_WAITS

needs_compiler = pytest.mark.skipif(training_library() is None, reason="no C++ compiler")


def run_python(code: str, **environment: str) -> str:
    """What a fresh Python prints that runs `code`."""
    kept = {name: value for name, value in os.environ.items() if name not in (*SHORT_WAITS, "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def test_importing_trine_tells_the_libraries_below_to_sleep() -> None:
    """2.6: before PyTorch is loaded, since its OpenMP reads the variable then."""
    assert run_python(
        f"import trine, os, sys; print('torch' in sys.modules, *(os.environ.get(k) for k in {list(SHORT_WAITS)}))"
    ) == "False " + " ".join(SHORT_WAITS.values())


@pytest.mark.parametrize("name", SHORT_WAITS)
def test_what_the_user_has_set_stays(name: str) -> None:
    assert run_python(f"import trine, os; print(os.environ[{name!r}])", **{name: "7"}) == "7"


def test_a_waiting_policy_of_the_user_stays_alone() -> None:
    code = f"import trine, os; print(sorted(set(os.environ) & set({list(SHORT_WAITS)})))"
    assert run_python(code, OMP_WAIT_POLICY="active") == "[]"


@needs_compiler
def test_the_decoding_step_does_not_use_openmp() -> None:
    """2.6: its threads spin at barriers; without it the library also builds where the compiler has none."""
    contents = Path(library_of(native_library)._name).read_bytes()
    assert b"GOMP_" not in contents and b"__kmpc_" not in contents


def library_of(load: Callable[[], ctypes.CDLL | None]) -> ctypes.CDLL:
    library = load()
    assert library is not None
    return library


def gelu_on(threads: int, x: torch.Tensor) -> torch.Tensor:
    torch.set_num_threads(threads)
    return kernels.gelu(x)


@needs_compiler
def test_any_number_of_callers_and_threads_gets_the_same_numbers() -> None:
    """Every calling thread has a team of its own; teams come and go with the number of threads that is asked for."""
    x = torch.randn(257, 64, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    expected = gelu_on(1, x)
    wrong: list[int] = []

    def call(number: int) -> None:
        for turn in range(200):
            if not torch.equal(gelu_on(1 + (number + turn) % 4, x), expected):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(before)
    assert not wrong


GENERATE = """
import os, threading, time, torch
from tests.tiny import tiny_model
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
torch.set_num_threads(3)
engine = Engine(tiny_model(), rows=4)
def generate():
    rollouts = engine.generate([[1, 2, 3], [4, 5]], Sampling(max_new_tokens=8, temperature=1.0, seed=0))
    return [rollout.response_ids for rollout in rollouts]
"""


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux tells them")
def test_a_team_ends_with_the_thread_that_called_it() -> None:
    printed = run_python(
        GENERATE
        + """
generate()
before = len(os.listdir("/proc/self/task"))
for _ in range(5):
    caller = threading.Thread(target=generate)
    caller.start()
    caller.join()
deadline = time.monotonic() + 20  # a thread that Python has joined may still be on its way out
while len(os.listdir("/proc/self/task")) > before and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(os.listdir("/proc/self/task")) - before)
"""
    )
    assert printed == "0"


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gets_a_team_of_its_own() -> None:
    """A child has none of its parent's threads; waiting for them would never end."""
    printed = run_python(
        GENERATE
        + """
expected = generate()
child = os.fork()
if not child:
    os._exit(0 if generate() == expected else 1)
print(os.waitpid(child, 0)[1], generate() == expected)
"""
    )
    assert printed == "0 True"


@needs_compiler
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processor time as Linux tells it")
def test_idle_threads_take_no_processor_time() -> None:
    """2.6: half a second after the last operation costs next to nothing: OpenMP's threads would spin on."""
    printed = run_python(
        """
        import time, trine, torch
        from trine.model import kernels
        torch.set_num_threads(2)
        x = torch.randn(4096, 256)
        spent = 0.0
        for _ in range(100):
            kernels.gelu(x)
            torch.tanh(x)
            before = time.process_time()
            time.sleep(0.005)
            spent += time.process_time() - before
        print(spent)
        """
    )
    assert float(printed) < 0.1  # 0.03 s; OpenMP's default: 0.5 s
