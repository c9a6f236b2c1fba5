"""Products by whichever library is fastest: all compute the same, and the choice is made once and kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.model import products
from trine.model.training_library import training_library
from trine.runtime.errors import TrineError

needs_compiler = pytest.mark.skipif(training_library() is None, reason="no C++ compiler")
ROWS, INPUTS, OUTPUTS = 150, 64, 96


def three_products() -> list[torch.Tensor]:
    """Output, gradient of the input and of the weight of one linear layer."""
    x, weight, gradient = random_tensor(ROWS, INPUTS), random_tensor(OUTPUTS, INPUTS), random_tensor(ROWS, OUTPUTS)
    out, x_gradient, weight_gradient = torch.empty_like(gradient), torch.empty_like(x), torch.empty_like(weight)
    products.forward(x, weight, random_tensor(OUTPUTS, seed=4), out)
    products.input_gradient(gradient, weight, x_gradient)
    products.weight_gradient(gradient, x, weight_gradient)
    return [out, x_gradient, weight_gradient]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, in which nothing has been measured."""
    monkeypatch.setenv("TRINE_NATIVE_FOLDER", str(tmp_path))
    monkeypatch.delenv(products.VARIABLE, raising=False)
    products.forget()
    yield tmp_path
    products.forget()


@needs_compiler
@pytest.mark.parametrize("library", products.LIBRARIES)
def test_every_library_computes_the_same(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(products.VARIABLE, library)
    found = three_products()
    x, weight, gradient = (
        random_tensor(*shape).double() for shape in ((ROWS, INPUTS), (OUTPUTS, INPUTS), (ROWS, OUTPUTS))
    )
    exact = [x @ weight.T + random_tensor(OUTPUTS, seed=4).double(), gradient @ weight, gradient.T @ x]
    for ours, reference in zip(found, exact, strict=True):
        assert_close(ours.double(), reference, atol=1e-4, rtol=1e-4)


@needs_compiler
def test_each_product_is_timed_once_and_the_fastest_library_is_kept(cache: Path) -> None:
    first = three_products()
    (file,) = cache.glob("*/fastest.json")
    kept = json.loads(file.read_text())
    assert [key.split()[0] for key in kept] == ["forward", "input", "weight"]
    assert set(kept.values()) <= set(products.LIBRARIES)
    assert products.measured_products() == kept
    assert all(torch.equal(a, b) for a, b in zip(first, three_products(), strict=True))


@needs_compiler
def test_what_was_kept_is_what_another_process_uses(cache: Path) -> None:
    """So that a continued run adds in the same order as the one that was broken off."""
    three_products()
    (file,) = cache.glob("*/fastest.json")
    chosen = dict.fromkeys(json.loads(file.read_text()), "onednn")
    file.write_text(json.dumps(chosen))
    products.forget()
    three_products()
    assert products.measured_products() == chosen == json.loads(file.read_text())


@needs_compiler
@pytest.mark.parametrize("content", ["", "[1]", '{"forward 256 64 96 1": 5}', "{"])
def test_a_damaged_file_counts_as_nothing_measured(cache: Path, content: str) -> None:
    three_products()
    (file,) = cache.glob("*/fastest.json")
    file.write_text(content)
    products.forget()
    three_products()
    assert len(json.loads(file.read_text())) == 3


@needs_compiler
def test_an_unknown_library_is_an_error_that_names_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(products.VARIABLE, "blas")
    with pytest.raises(TrineError, match="TRINE_PRODUCTS=blas is unknown; choose own, torch, onednn"):
        three_products()
