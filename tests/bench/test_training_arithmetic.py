"""What the training half of the bench counts and lays out: FLOPs, batches, and our own step."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from bench.batching import packed_rows, packed_steps, padded_rows, padded_steps
from bench.encoding_runs import encoding_work
from bench.flops import flops_per_token, product_shapes
from bench.our_step import optimizers_of, training_step
from bench.training_runs import training_work

from trine.data.rows import window_batch
from trine.model.config import ModelConfig, gpt2_config, qwen3_config
from trine.model.transformer import Transformer, initialize
from trine.records import TokenSpan
from trine.stages.language_modelling import LanguageModelLoss, loss_sum

GPT2 = gpt2_config(vocab_size=96, context=64, layers=2, width=32, heads=2)
QWEN3 = qwen3_config(vocab_size=96, context=64, layers=2, width=64, heads=4)
LENGTHS = [3, 17, 30, 5, 9, 31, 2, 12, 24, 8, 6, 40]


def model_of(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    initialize(model, seed=1)
    return model


def spans(lengths: list[int]) -> list[TokenSpan]:
    return [TokenSpan(tuple(range(1, length + 1)), (True,) * length) for length in lengths]


def test_gpt2_small_costs_what_it_is_known_to_cost() -> None:
    """6 x 123.65M + 12 x 12 x 256 x 768: the 771 million behind the limits in the lab notebook."""
    per_token = flops_per_token(gpt2_config(vocab_size=50304), 256)
    assert per_token == pytest.approx(770.2e6, rel=1e-3)


def test_a_causal_kernel_needs_half_of_the_attention() -> None:
    whole, causal = (flops_per_token(GPT2, 48, causal=causal) for causal in (False, True))
    assert whole - causal == 6 * GPT2.layers * 48 * GPT2.width


@pytest.mark.parametrize("config", [GPT2, QWEN3])
def test_the_products_are_those_of_every_matrix_forward_and_backward(config: ModelConfig) -> None:
    model = Transformer(config)
    matrices = [value for name, value in model.named_parameters() if "blocks." in name and value.dim() == 2]
    matrices.append(model.output_weight)
    products = sum(3 * 2 * m * k * n for m, k, n in product_shapes(config, 10))
    assert products == 6 * 10 * sum(matrix.numel() for matrix in matrices)


def test_every_example_is_trained_once_however_batches_are_formed() -> None:
    for steps in (
        packed_steps(LENGTHS, 40, 80),
        padded_steps(LENGTHS, 80, grouped=False),
        padded_steps(LENGTHS, 80, grouped=True),
    ):
        assert sorted(chain.from_iterable(chain.from_iterable(steps))) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_padded_step_holds_as_many_rows_as_fit(grouped: bool) -> None:
    steps = padded_steps(LENGTHS, 80, grouped=grouped)
    assert all(len(step) * max(LENGTHS[item] for (item,) in step) <= 80 for step in steps)


def test_grouping_by_length_needs_fewer_steps_and_packing_fewer_still() -> None:
    padded, grouped = (len(padded_steps(LENGTHS, 80, grouped=grouped)) for grouped in (False, True))
    assert len(packed_steps(LENGTHS, 40, 80)) <= grouped <= padded


def test_packed_and_padded_rows_have_the_same_targets_and_the_same_loss() -> None:
    lengths, module = [9, 5, 12, 3], LanguageModelLoss(model_of(GPT2))
    examples = spans(lengths)
    packed = packed_rows(examples, [[0, 1], [2, 3]], 16)
    padded = padded_rows(examples, [[0], [1], [2], [3]])
    assert packed.count == padded.count == sum(length - 1 for length in lengths)
    assert float(loss_sum(module, packed).detach()) == pytest.approx(float(loss_sum(module, padded).detach()), rel=1e-6)


def test_our_step_does_not_depend_on_micro_batches() -> None:
    windows = torch.randint(0, 96, (4, 17), generator=torch.Generator().manual_seed(0))
    weights = []
    for size in (4, 1):
        model = model_of(GPT2)
        batches = [window_batch(part) for part in windows.split(size)]
        training_step(LanguageModelLoss(model), optimizers_of(model), batches)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.allclose(*weights, atol=2e-6)


def test_sides_see_the_same_batches_in_the_same_order() -> None:
    seen: list[list[torch.Tensor]] = [[], []]
    for batches, turns in zip(seen, ((1, 2), (2, 1)), strict=True):
        train = training_work(lambda windows, batches=batches: batches.append(windows) or 1.5, 96)  # type: ignore[misc]
        replies = [train(rows=2, tokens=4, steps=steps, seed=0) for steps in turns]
        assert [reply["tokens"] for reply in replies] == [8 * steps for steps in turns]
    assert all(torch.equal(first, second) for first, second in zip(*seen, strict=True))


def test_encoding_counts_bytes_and_tells_other_ids_apart(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "abc"}\n{"text": "d\\u00e9"}\n')
    right = encoding_work(tmp_path, lambda texts: [[len(text)] for text in texts], lambda ids: ids)
    wrong = encoding_work(tmp_path, lambda texts: [[0] for _ in texts], lambda ids: ids)
    pieces, whole = right(at_a_time=1, seed=0), right(at_a_time=9, seed=1)
    assert pieces["megabytes"] == pytest.approx(6e-6)
    assert (pieces["tokens"], pieces["digest"]) == (whole["tokens"], whole["digest"])
    assert wrong(at_a_time=9, seed=0)["digest"] != whole["digest"]
