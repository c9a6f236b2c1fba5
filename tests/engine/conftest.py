"""Every test that takes `native` runs twice: on the plain runner, and on the compiled one where it can be had."""

import pytest

from trine.engine.native.library import native_library


@pytest.fixture(params=["plain", "native"])
def native(request: pytest.FixtureRequest) -> bool:
    if request.param == "native" and native_library() is None:
        pytest.skip("the compiled decoding step is not available here: no C++ compiler, or TRINE_NATIVE=0")
    return request.param == "native"


@pytest.fixture
def needs_native() -> None:
    if native_library() is None:
        pytest.skip("the compiled decoding step is not available here: no C++ compiler, or TRINE_NATIVE=0")
