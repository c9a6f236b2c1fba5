"""The kernels built for ARM and run under qemu: the results of x86, of every operation of training and decoding.

Needs Debian's g++-aarch64-linux-gnu, qemu-user and, for what stands for Apple's compiler, clang; skipped without.
armv8-a is what every chip has, armv8.6-a has products of bf16 pairs (BFDOT). How fast they are, an emulator does not
say.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.native.recording import Block, Check, Recording
from tests.tiny import ragged_prompts, random_tensor, tiny_config, tiny_model
from trine.engine.native import library as decoding
from trine.engine.native import runner as native_runner
from trine.engine.native.runner import NativeRunner, Precision
from trine.engine.quantization import rounded_weights
from trine.engine.runner import Chunk, DecodeRow, SamplingState
from trine.engine.torch_runner import TorchRunner
from trine.model import products, training_library
from trine.model import training_kernels as training
from trine.model.kernels import rotary_table
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer
from trine.runtime.native_library import OPTIONS, NativeSource

HERE = Path(__file__).parent
QEMU = ("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu")
CLANG_FOR_ARM = ("clang++", "--target=aarch64-linux-gnu")
ARM_PANEL = 16
BOUNDS = {torch.float32: 3e-5, torch.float64: 3e-5, torch.bfloat16: 0.02, torch.int64: 0.0}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Target:
    """A compiler with its architecture, and what runs programs of it. `pairs`: it multiplies pairs of bf16."""

    compiler: tuple[str, ...]
    architecture: str
    emulator: tuple[str, ...] = QEMU
    pairs: bool = False

    def compile(self, source: Path, out: Path, *options: str) -> Path:
        command = [*self.compiler, *options, f"-march={self.architecture}", str(source), "-o", str(out), "-ldl"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return out

    def build(self, source: NativeSource, folder: Path) -> Path:
        """The library of `source`, with the options that it has everywhere, but without OpenMP."""
        folders = sorted({f"-I{file.parent}" for file in source.files})
        return self.compile(source.files[0], folder / f"{source.name}.so", *OPTIONS, *folders)

    def replay(self, library: Path, recording: Recording, folder: Path) -> str:
        """What the replayed calls said; raises unless all agree."""
        program = self.compile(HERE / "replay.cpp", folder / "replay", "-O2", "-std=c++17")
        recording.write(folder / "recording")
        command = [*self.emulator, str(program), str(library), str(folder / "recording")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


ARM = {
    "g++, armv8-a": Target(("aarch64-linux-gnu-g++",), "armv8-a"),
    "g++, armv8.6-a": Target(("aarch64-linux-gnu-g++",), "armv8.6-a", pairs=True),
    "clang, armv8.6-a": Target(CLANG_FOR_ARM, "armv8.6-a", pairs=True),
}
TARGETS = {**ARM, "clang, here": Target(("clang++",), "native", emulator=())}


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    chosen = TARGETS[request.param]
    needed = [chosen.compiler[0], *chosen.emulator[:1], *(["aarch64-linux-gnu-g++"] if chosen.emulator else [])]
    if absent := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(absent)}")
    return chosen


# Training


@pytest.fixture(scope="module")
def training_calls() -> Recording:
    """Every operation of a step, forward and backward, on this processor."""
    if training_library.training_library() is None:
        pytest.skip("no C++ compiler for this processor")
    recording, original = Recording(), training_library.call

    def recorded(name: str, dtype: torch.dtype, *arguments: Any) -> None:
        tensors = {each.data_ptr(): each for each in arguments if isinstance(each, Tensor)}
        blocks = {place: recording.memory(tensor) for place, tensor in tensors.items()}
        original(name, dtype, *arguments)
        checks = [Check(blocks[place], 0, each.clone(), BOUNDS[each.dtype]) for place, each in tensors.items()]
        given = [each for each in (*arguments, 2) if not isinstance(each, float)]
        passed = [_passed(each, blocks) for each in given]
        real = next((each for each in arguments if isinstance(each, float)), 0.0)
        recording.call(f"trine_{name}_{str(dtype).removeprefix('torch.')}", passed, real, checks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(products.VARIABLE, "own")
        for module in (training, products):
            patch.setattr(module, "call", recorded)
        for dtype in (torch.float32, torch.bfloat16):
            run_operations(dtype)
    return recording


def _passed(argument: Any, blocks: dict[int, int]) -> "int | Block":
    if argument is None:
        return Block(-1)
    return Block(blocks[argument.data_ptr()]) if isinstance(argument, Tensor) else int(argument)


def run_operations(dtype: torch.dtype) -> None:
    def values(*shape: int, seed: int) -> Tensor:
        return random_tensor(*shape, seed=seed).to(dtype).requires_grad_()

    def weights(*shape: int, seed: int) -> Tensor:
        return (random_tensor(*shape, seed=seed) * 0.1 + (len(shape) == 1)).requires_grad_()

    x, delta = values(3, 7, 96, seed=1), values(3, 7, 96, seed=2)
    scale, shift = weights(96, seed=3), weights(96, seed=4)
    for bias in (shift, None):
        backward(training.add_norm(x, delta, scale, bias, 1e-5), x, delta, scale)
    backward(training.gelu(x), x)
    backward(training.swiglu(x), x)
    cos, sin = rotary_table(torch.linspace(1, 0.01, 16), torch.arange(7).unsqueeze(0), dtype)
    heads = values(2, 7, 8, 32, seed=5)
    backward(training.apply_rotary(heads, weights(2, 32, seed=6), (cos, sin), (4, 2), 1e-5), heads)
    starts = torch.tensor([[0] * 37, [0] * 20 + [20] * 17])
    attended = values(2, 37, 8, 32, seed=7)
    segments = torch.tensor([[0] * 9 + [1] * 11 + [2] * 17, [0] * 3 + [1] * 30 + [-1] * 4])
    for seen in ((None, None), (starts, None), (None, segments)):
        backward(training.causal_attention(attended, *seen, 4), attended)
    rows, matrix = values(131, 64, seed=8), weights(160, 64, seed=9)
    backward(training.linear(rows, matrix, weights(160, seed=10)), rows, matrix)
    with torch.no_grad():
        targets = torch.tensor([3, 95, 0, 41, 50])
        training.cross_entropy_(values(5, 96, seed=11).detach().clone(), targets, torch.linspace(0, 2, 5))
        logits, outer = values(5, 96, seed=12).detach().clone(), (torch.linspace(-1, 1, 5), torch.linspace(0, 1, 5))
        _, *found = training.token_log_probs(logits, targets, 0.7)
        training.token_log_probs_gradient_(logits, targets, tuple(found), outer, 0.7)


def backward(result: Tensor | tuple[Tensor, Tensor], *inputs: Tensor) -> None:
    """Gradients of the inputs, for gradients of the results that are all different."""
    results = [result] if isinstance(result, Tensor) else list(result)
    outer = [random_tensor(*each.shape, seed=20 + index).to(each.dtype) for index, each in enumerate(results)]
    torch.autograd.grad(results, list(inputs), outer)


@pytest.mark.parametrize("target", TARGETS, indirect=True)
def test_operations_of_training_are_those_of_x86(target: Target, training_calls: Recording, tmp_path: Path) -> None:
    told = target.replay(target.build(training_library.SOURCE, tmp_path), training_calls, tmp_path)
    for kind in ("float32", "bfloat16"):
        assert f"trine_cross_entropy_{kind}" in told
        for name in ("norm", "gelu", "swiglu", "rotary", "attention", "linear", "token_log_probs"):
            assert f"trine_{name}_forward_{kind}" in told
            assert f"trine_{name}_backward_{kind}" in told


# Decoding


class RecordingLibrary:
    """In the place of the compiled step: notes calls, with what `expected` says of their results."""

    def __init__(self, target: Target) -> None:
        self.pairs, self.recording = target.pairs, Recording()
        self.expected: Any = None
        self.bound = 0.0
        self._model = -1
        self.runner: Any = None

    def trine_panel(self) -> int:
        return ARM_PANEL

    def trine_has_bf16_product(self) -> int:
        return int(self.pairs)

    def trine_forward(self, model: Any, batch: Any) -> None:
        record = batch._obj
        for field, count in (("ids", record.tokens), ("select", record.selected)):
            self.array(getattr(record, field), np.int64, count)
        chunks = ctypes.cast(record.chunk, ctypes.POINTER(decoding.ChunkRecord * record.chunks)).contents
        for chunk in chunks:
            self.array(chunk.pages, np.int32, (chunk.start + chunk.count - 1) // 16 + 1)
        self.recording.record(chunks)
        logits, width = self.runner._kept["logits"], self.runner._kept["logits"].shape[1]
        self.remember_model()
        block, _ = self.recording.place_of(logits.data_ptr())
        checks = [Check(block, 4 * width * row, each, self.bound) for row, each in enumerate(self.expected)]
        self.recording.call("trine_forward", [Block(self._model), Block(self.recording.record(record))], checks=checks)

    def trine_decode(self, model: Any, rows: Any, steps: int, ids: int, log_probs: int) -> int:
        record, count = rows._obj, rows._obj.count
        for field, kind, size in (
            ("ids", np.int64, count), ("positions", np.int64, count), ("counters", np.int64, count),
            ("seeds", np.int64, count), ("ends", np.int64, 1), ("end_offsets", np.int64, count + 1),
            ("temperatures", np.float32, count),
        ):  # fmt: skip
            self.array(getattr(record, field), kind, size)
        table = (ctypes.c_int64 * count).from_address(record.pages)
        pages = self.array(record.pages, np.int64, count)
        for index, address in enumerate(table):
            self.recording.pointers.append((pages, 8 * index, self.array(address, np.int32, 8), 0))
        made, told = self.expected
        blocks = [self.array(ids, np.int64, steps * count), self.array(log_probs, np.float32, steps * count)]
        checks = [Check(blocks[0], 0, torch.tensor(made), 0.0), Check(blocks[1], 0, torch.tensor(told), self.bound)]
        given = [Block(self._model), Block(self.recording.record(record)), steps, *map(Block, blocks)]
        self.recording.call("trine_decode", given, checks=checks)
        return steps

    def array(self, address: int, kind: Any, count: int) -> int:
        """A block of what lies at an address now, which may have held something else in an earlier call."""
        size = count * np.dtype(kind).itemsize
        number = self.recording.add(ctypes.string_at(address, size))
        self.recording.places.insert(0, (address, max(1, size), number))
        return number

    def remember_model(self) -> None:
        """Blocks of all that the model points to, once."""
        if self._model < 0:
            for tensor in (*self.runner._kept.values(), self.runner._arena._room):
                self.recording.memory(tensor)
            self.recording.record(self.runner.layers)
            self._model = self.recording.record(self.runner.model)


def recorded_decoding(
    target: Target, model: Transformer, precision: Precision, bound: float, monkeypatch: pytest.MonkeyPatch
) -> Recording:
    """Prompts of unequal lengths in one call, a token of each, then sampled ones; expected is the plain runner's."""
    noted = RecordingLibrary(target)
    monkeypatch.setattr(native_runner, "native_library", lambda: noted)
    runner = NativeRunner(model.config, rows=4, pages=24, precision=precision, threads=2)
    noted.runner, noted.bound = runner, bound
    runner.load(plain_weights(model))
    plain = TorchRunner(model, 24)
    plain.load(rounded(plain_weights(model), precision))
    pages = [np.arange(1 + 8 * row, 9 + 8 * row, dtype=np.int32) for row in range(3)]
    prompts = ragged_prompts((17, 1, 40))
    after = [Chunk(page, [7], len(prompt)) for page, prompt in zip(pages, prompts, strict=True)]
    for chunks in ([Chunk(*each, 0) for each in zip(pages, prompts, strict=True)], after):
        noted.expected = plain.forward(chunks)
        runner.forward(chunks)
    if precision == "fp32":
        noted.expected = plain.decode(decode_rows(pages, prompts), 5)
        runner.decode(decode_rows(pages, prompts), 5)
    return noted.recording


def rounded(weights: dict[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """As the runner keeps them."""
    return weights if precision == "fp32" else rounded_weights(weights, precision)


def decode_rows(pages: Sequence[np.ndarray], prompts: Sequence[Sequence[int]]) -> list[DecodeRow]:
    return [
        DecodeRow(page, len(prompt) + 1, 9, SamplingState(0.7 * row, seed=row), np.array([], dtype=np.int64))
        for row, (page, prompt) in enumerate(zip(pages, prompts, strict=True))
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("target", ARM, indirect=True)
def test_decoding_has_the_numbers_of_the_plain_runner(
    target: Target, precision: Precision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = target.build(decoding.SOURCE, tmp_path)
    bound = {"fp32": 1e-4, "bf16": 0.04, "int8": 0.02}[precision]
    for family in ("gpt2", "qwen3", "llama"):
        model = tiny_model(tiny_config(family, context=128))
        recording = recorded_decoding(target, model, precision, bound, monkeypatch)
        assert "trine_forward" in target.replay(library, recording, tmp_path)
        monkeypatch.undo()


@pytest.mark.parametrize("target", ["g++, armv8-a"], indirect=True)
def test_a_difference_is_found(target: Target, training_calls: Recording, tmp_path: Path) -> None:
    """The replay can fail: a changed input is another result."""
    changed = Recording([bytes(len(training_calls.blocks[0])), *training_calls.blocks[1:]])
    changed.calls = training_calls.calls[:1]
    library = target.build(training_library.SOURCE, tmp_path)
    with pytest.raises(AssertionError, match="apart, bound"):
        target.replay(library, changed, tmp_path)
