"""Weights kept in int8 or bf16: what rounding may cost, and that both runners round alike."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.engine.helpers import finish, trainer_log_probs
from tests.tiny import FAMILY_NAMES, ragged_prompts, random_tensor, tiny_config, tiny_model
from trine.engine.engine import Engine
from trine.engine.native.library import native_library
from trine.engine.quantization import KeptWeights, quantize, rounded_weights
from trine.engine.sampling import Sampling
from trine.engine.torch_runner import PagedCache
from trine.model.lora import plain_weights
from trine.model.transformer import Transformer

families = pytest.mark.parametrize("family", FAMILY_NAMES)
kept_weights = pytest.mark.parametrize("kept", ["bf16", "int8"])
PROMPTS = ragged_prompts((5, 1, 40, 17))


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_no_weight_moves_by_more_than_half_a_factor(seed: int, size: float) -> None:
    weight = random_tensor(7, 33, seed=seed) * size
    whole, scale = quantize(weight)
    assert whole.dtype == torch.int8
    assert int(whole.abs().max()) == 127
    error = (whole.double() * scale.double().unsqueeze(1) - weight.double()).abs()
    assert bool((error <= scale.double().unsqueeze(1) * (0.5 + 1e-4)).all())


def test_every_output_has_its_own_factor() -> None:
    weight = torch.tensor([[127.0, -1.0], [0.0127, 0.0001]])
    whole, scale = quantize(weight)
    assert_close(scale, torch.tensor([1.0, 0.0001]))
    assert whole.tolist() == [[127, -1], [127, 1]]


def test_a_row_of_zeros_stays_zero() -> None:
    whole, scale = quantize(torch.zeros(3, 8))
    assert bool((whole == 0).all())
    assert bool(scale.isfinite().all())


def test_weights_of_the_compute_dtype_are_rounded_like_their_own_values() -> None:
    weight = random_tensor(5, 16).bfloat16()
    assert all(torch.equal(a, b) for a, b in zip(quantize(weight), quantize(weight.float()), strict=True))


@families
@kept_weights
def test_matrices_are_rounded_and_tables_norms_and_biases_are_not(family: str, kept: KeptWeights) -> None:
    weights = plain_weights(tiny_model(family))
    rounded = rounded_weights(weights, kept)
    for name, weight in weights.items():
        changed = not torch.equal(rounded[name], weight)
        assert changed == (weight.dim() == 2 and "embedding" not in name), name
    assert not torch.equal(rounded["head.weight"], weights.get("head.weight", weights["embedding.weight"]))


def rounded_model(model: Transformer, kept: KeptWeights) -> Transformer:
    """The same model with the rounded weights in its place, its output table its own."""
    rounded = Transformer(replace(model.config, tied_embeddings=False))
    rounded.load_state_dict(rounded_weights(plain_weights(model), kept))
    return rounded


def first_distributions(model: Transformer, kept: KeptWeights, native: bool) -> torch.Tensor:
    """Log-probabilities [prompts, V] of the token after each prompt."""
    engine = Engine(model, weights=kept, native=native)
    requests = [engine.submit(prompt, Sampling(1, temperature=0.0, top_log_probs=97)) for prompt in PROMPTS]
    finish(engine, requests)
    return torch.tensor([[value for _, value in sorted(request.top_log_probs[0])] for request in requests])


def has_bf16_product() -> bool:
    library = native_library()
    return library is not None and bool(library.trine_has_bf16_product())


@families
@kept_weights
def test_the_plain_runner_computes_what_the_rounded_weights_compute(family: str, kept: KeptWeights) -> None:
    model = tiny_model(family)
    for rollout in Engine(model, weights=kept, native=False).generate(PROMPTS, Sampling(8, seed=1)):
        expected = trainer_log_probs(rounded_model(model, kept), rollout)
        assert_close(torch.tensor(rollout.log_probs), expected, atol=1e-4, rtol=0)


@families
@kept_weights
def test_the_native_runner_is_the_plain_one_but_for_keys_and_values_kept_in_bf16(
    family: str, kept: KeptWeights, needs_native: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, extend = tiny_model(family), PagedCache.extend
    native, exact = first_distributions(model, kept, True), first_distributions(model, kept, False)

    def extend_rounded(
        cache: PagedCache, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return extend(cache, layer, key.bfloat16().float(), value.bfloat16().float())

    monkeypatch.setattr(PagedCache, "extend", extend_rounded)
    rounded = first_distributions(model, kept, False)
    if not (kept == "bf16" and has_bf16_product()):  # which rounds what enters a product too
        assert float((native - rounded).abs().mean()) < 1e-3
        assert_close(native, rounded, atol=2e-2, rtol=0)  # a key at a border may round the other way
    assert float((native - exact).abs().mean()) < 0.05


@kept_weights
def test_rounded_weights_are_something_else_than_the_weights_themselves(native: bool, kept: KeptWeights) -> None:
    config = replace(tiny_config("llama"), layers=3)
    model = tiny_model(config)
    settings = Sampling(8, seed=1)
    (exact,) = Engine(model, native=native).generate([[1, 2]], settings)
    (rounded,) = Engine(model, weights=kept, native=native).generate([[1, 2]], settings)
    assert exact.log_probs != rounded.log_probs


def test_refresh_rounds_the_new_weights(native: bool) -> None:
    model, other = tiny_model("llama"), tiny_model("llama", seed=1)
    engine, settings = Engine(model, weights="int8", native=native), Sampling(8, temperature=0.0)
    engine.generate(PROMPTS, settings)
    model.load_state_dict(other.state_dict())
    engine.refresh()
    assert engine.generate(PROMPTS, settings) == Engine(other, weights="int8", native=native).generate(
        PROMPTS, settings
    )
