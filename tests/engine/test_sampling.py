"""Drawing one token: the distribution, its reproducibility, and the edges of the unit interval."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import random_tensor
from trine.engine import sampling
from trine.engine.sampling import Sampling, sample
from trine.runtime.errors import TrineError
from trine.runtime.seeds import uniform

SAMPLES = 20_000


def samples(logits: Tensor, temperature: float = 1.0, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Many samples from one distribution, as successive positions of one row."""
    return sample(logits.expand(SAMPLES, -1), temperature, torch.full((SAMPLES,), seed), torch.arange(SAMPLES))


def chi_square(ids: Tensor, probabilities: Tensor) -> float:
    observed = torch.bincount(ids, minlength=len(probabilities)).double()
    expected = probabilities.double() * len(ids)
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature: float, seed: int) -> None:
    """11 outcomes: chi-square of 10 degrees of freedom exceeds 29.6 once in a thousand."""
    logits = random_tensor(11, seed=4)
    ids, _ = samples(logits, temperature, seed)
    assert chi_square(ids, (logits / temperature).softmax(0)) < 29.6


def test_the_chi_square_test_would_notice_a_wrong_temperature() -> None:
    logits = random_tensor(11, seed=4)
    assert chi_square(samples(logits, 1.0)[0], (logits / 0.9).softmax(0)) > 29.6


def test_the_first_token_of_many_rows_follows_the_softmax_too() -> None:
    logits = random_tensor(11, seed=4)
    ids, _ = sample(logits.expand(SAMPLES, -1), 1.0, torch.arange(SAMPLES) * 1_000_003, torch.zeros(SAMPLES).long())
    assert chi_square(ids, logits.softmax(0)) < 29.6


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_the_distribution_drawn_from(temperature: float) -> None:
    logits = random_tensor(11, seed=4)
    ids, log_probs = samples(logits, temperature)
    assert_close(log_probs, (logits / temperature).log_softmax(0)[ids])


def test_temperature_zero_takes_the_likeliest_and_reports_temperature_one() -> None:
    logits = random_tensor(5, 11)
    ids, log_probs = sample(logits, 0.0, torch.zeros(5).long(), torch.zeros(5).long())
    assert torch.equal(ids, logits.argmax(1))
    assert_close(log_probs, logits.log_softmax(1).amax(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_that_holds_no_numbers_has_the_id_minus_1_and_its_neighbours_keep_theirs(
    value: float, temperature: float
) -> None:
    logits, seeds, counters = random_tensor(3, 11), torch.arange(3), torch.arange(3)
    whole, _ = sample(logits, temperature, seeds, counters)
    for place in range(11):
        damaged = logits.clone()
        damaged[1, place] = value
        ids, _ = sample(damaged, temperature, seeds, counters)
        assert ids.tolist() == [int(whole[0]), -1, int(whole[2])]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits, seeds, counters = random_tensor(6, 11), torch.arange(6), torch.arange(6)
    together, _ = sample(logits, 1.0, seeds, counters)
    alone = [sample(logits[i : i + 1], 1.0, seeds[i : i + 1], counters[i : i + 1])[0] for i in range(6)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("point", [0.0, 0.5, 1 - 2**-53])
def test_impossible_tokens_are_not_drawn_at_any_point_of_the_unit_interval(
    monkeypatch: pytest.MonkeyPatch, point: float
) -> None:
    monkeypatch.setattr(sampling, "uniform", lambda seeds, counters: torch.full(seeds.shape, point).double())
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf, -torch.inf]])
    ids, log_probs = sample(logits, 1.0, torch.tensor([0]), torch.tensor([0]))
    assert int(ids) in (1, 3)
    assert log_probs.isfinite().all()


def test_uniform_numbers_are_uniform_and_differ_by_seed_and_counter() -> None:
    numbers = uniform(torch.full((SAMPLES,), 3), torch.arange(SAMPLES))
    assert bool(((numbers >= 0) & (numbers < 1)).all())
    assert chi_square((numbers * 10).long(), torch.full((10,), 0.1)) < 27.9
    assert len(numbers.unique()) == SAMPLES
    assert not torch.isin(numbers, uniform(torch.full((SAMPLES,), 4), torch.arange(SAMPLES))).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_new_tokens": 0}, "max_new_tokens=0"), ({"max_new_tokens": 1, "temperature": -0.5}, "temperature=-0.5")],
)
def test_senseless_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(TrineError, match=message):
        Sampling(**settings)
