"""Hardware is chosen once; what cannot be had is refused by name."""

from collections.abc import Iterator

import pytest
import torch

from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError


@pytest.fixture(autouse=True)
def keep_thread_count() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_and_precision_are_taken_as_asked() -> None:
    hardware = choose_hardware("cpu", "fp32", 1)
    assert (hardware.device.type, hardware.compute_dtype, hardware.threads) == ("cpu", torch.float32, 1)
    assert hardware.description == "cpu, 1 threads, fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variable", ["fp32", "bf16", "auto", "nonsense"])
def test_what_is_stated_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, precision: str, variable: str
) -> None:
    """1.18: TRINE_PRECISION replaced a precision that was stated, TRINE_DEVICE a device."""
    monkeypatch.setenv("TRINE_DEVICE", "abacus")
    monkeypatch.setenv("TRINE_PRECISION", variable)
    hardware = choose_hardware("cpu", precision, 1)
    assert (hardware.device.type, hardware.precision) == ("cpu", precision)


def test_the_environment_decides_where_nothing_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINE_DEVICE", "cpu")
    monkeypatch.setenv("TRINE_PRECISION", "bf16")
    assert choose_hardware(threads=1).precision == "bf16"
    with pytest.raises(TrineError, match="device='cuda:77' cannot be used here"):
        choose_hardware("cuda:77", threads=1)


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(TrineError, match=r"device='abacus' cannot be used here.*choose auto or cpu"):
        choose_hardware("abacus")


def test_an_unknown_precision_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINE_PRECISION", "fp8")
    with pytest.raises(TrineError, match=r"precision='fp8' is unknown; choose auto, fp32 or bf16"):
        choose_hardware("cpu")


@pytest.mark.parametrize("flags, has", [("fpu sse avx512_bf16", True), ("fpu amx_bf16", True), ("fpu avx2", False)])
def test_bf16_is_chosen_where_the_processor_says_it_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: str, has: bool
) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda self: flags)
    expected = torch.bfloat16 if has else torch.float32
    assert choose_hardware("cpu", "auto", 1).compute_dtype == expected


def test_fp32_products_stay_exact_to_fp32() -> None:
    choose_hardware("cpu", "fp32", 1)
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(200, 200, generator=generator) for _ in range(2))
    assert float(((a @ b).double() - a.double() @ b.double()).abs().max()) < 1e-4
