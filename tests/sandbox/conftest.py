"""The sandbox in each isolation that this kernel offers."""

import pytest

import trine
from trine.sandbox import running
from trine.sandbox.zygote_process import zygote


@pytest.fixture(params=["namespaces", "landlock"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs of this test have this isolation, or the test is skipped where the kernel does not offer it."""
    if zygote(request.param).isolation != request.param:
        pytest.skip(f"this kernel offers no {request.param}")
    monkeypatch.setattr(running, "STRONGEST", request.param)
    return str(request.param)


@pytest.fixture
def offered() -> None:
    """Skip where there is no isolation at all, and `run_tests` refuses."""
    if running.isolation_offered() == "none":
        pytest.skip("this kernel offers no isolation")


def run(code: str, tests: str = "assert f(2) == 4", **limits: object) -> trine.Verdict:
    return trine.run_tests(code, tests, limits)
