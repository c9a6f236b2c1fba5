"""The examples that docstrings of the engine begin with are run."""

import doctest

import pytest

from tests.tiny import tiny_model
from trine.engine import engine, future, worker
from trine.engine.engine import Engine
from trine.engine.future import RolloutFuture
from trine.engine.sampling import Sampling
from trine.engine.worker import EngineWorker


@pytest.mark.parametrize(("module", "documented"), [(engine, Engine), (worker, EngineWorker), (future, RolloutFuture)])
def test_the_example_of_a_docstring_runs(module: object, documented: type) -> None:
    names = {"model": tiny_model(), "Engine": Engine, "EngineWorker": EngineWorker, "Sampling": Sampling}
    (example,) = doctest.DocTestFinder(recurse=False).find(documented, module=module, globs=names)
    assert len(example.examples) >= 2
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
