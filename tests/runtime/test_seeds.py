"""Counter-based randomness: against SplitMix64 in plain Python, and what a sampler needs of it."""

import numpy as np
import pytest
import torch

from trine.runtime.seeds import derive_seed, generator_for, uniform

MASK = 2**64 - 1


def split_mix_64(seed: int, counter: int) -> float:
    """Steele et al. 2014 with unbounded integers: state, two multiplications, three shifts."""
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**62, 2**63 - 1])
def test_uniform_is_split_mix_64(seed: int) -> None:
    counters = torch.tensor([0, 1, 2, 255, 10**9])
    expected = [split_mix_64(seed, counter) for counter in counters.tolist()]
    assert uniform(torch.full_like(counters, seed), counters).tolist() == expected


def test_the_first_output_of_seed_zero_is_the_published_one() -> None:
    first = uniform(torch.tensor([0]), torch.tensor([0]))
    assert float(first) == (0xE220A8397B1DCDAF >> 11) * 2.0**-53


@pytest.mark.parametrize("stream", ["counters", "seeds"])
def test_uniform_fills_the_unit_interval_evenly(stream: str) -> None:
    count, bins = 200_000, 100
    running, fixed = torch.arange(count), torch.full((count,), 7)
    values = uniform(fixed, running) if stream == "counters" else uniform(running, fixed)
    assert float(values.min()) >= 0 and float(values.max()) < 1
    found = torch.histc(values, bins, 0, 1)
    chi_square = float(((found - count / bins) ** 2 / (count / bins)).sum())
    assert 60 < chi_square < 149  # 99 degrees of freedom: the middle 99.8 %


def test_neighbouring_streams_are_uncorrelated() -> None:
    counters = torch.arange(100_000)
    one, other = (uniform(torch.full_like(counters, seed), counters) for seed in (1, 2))
    assert abs(float(torch.corrcoef(torch.stack((one, other)))[0, 1])) < 0.015
    assert abs(float(torch.corrcoef(torch.stack((one[1:], one[:-1])))[0, 1])) < 0.015


def test_a_row_does_not_depend_on_its_batch() -> None:
    seeds, counters = torch.arange(50) * 977, torch.arange(50) * 13
    alone = [float(uniform(seeds[row : row + 1], counters[row : row + 1])) for row in range(50)]
    assert uniform(seeds, counters).tolist() == alone


def test_purposes_get_seeds_of_their_own() -> None:
    seeds = {derive_seed(seed, name, index) for seed in range(3) for name in ("epoch", "rows") for index in range(50)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_derived_seed_is_the_same_for_ever() -> None:
    assert derive_seed(0, "windows") == 5094180118143005348


def test_a_generator_depends_on_seed_and_purpose_only() -> None:
    draws = [generator_for(*key).permutation(100) for key in ((1, "epoch", 0), (1, "epoch", 0), (1, "epoch", 1))]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
