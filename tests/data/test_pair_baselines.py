"""Classifiers that see only length, or only words, find what there is to find in them and nothing else."""

import pytest
import torch

from trine.data.pair_baselines import bag_of_tokens_accuracy, length_accuracy

Sides = list[tuple[list[int], list[int]]]


def random_sides(count: int, seed: int, *, chosen_longer: int = 0, chosen_token: int | None = None) -> Sides:
    generator = torch.Generator().manual_seed(seed)

    def side(more: int, token: int | None) -> list[int]:
        length = 5 + more + int(torch.randint(10, (), generator=generator))
        ids = torch.randint(20, (length,), generator=generator).tolist()
        return ids if token is None else [token, *ids[1:]]

    return [(side(chosen_longer, chosen_token), side(0, None)) for _ in range(count)]


@pytest.mark.parametrize("shift", [20, -4])
def test_length_tells_pairs_apart_whichever_way_it_points(shift: int) -> None:
    if shift > 0:
        train, held_out = (random_sides(100, seed, chosen_longer=shift) for seed in (0, 1))
    else:
        train, held_out = ([(b, a) for a, b in random_sides(100, seed, chosen_longer=20)] for seed in (0, 1))
    assert length_accuracy(train, held_out) == 1.0


def test_a_length_in_the_middle_can_be_the_better_one() -> None:
    """Neither longer nor shorter wins, which a single sign could not express."""
    pairs = [([1] * 20, [1] * 3), ([1] * 20, [1] * 60)] * 20
    assert length_accuracy(pairs, pairs) == 1.0


def test_length_knows_nothing_where_lengths_are_alike() -> None:
    pairs: Sides = [([1] * 5, [2] * 5)] * 10
    assert length_accuracy(pairs, pairs) == 0.5


def test_a_telling_token_is_found() -> None:
    train, held_out = (random_sides(200, seed, chosen_token=20) for seed in (0, 1))
    assert bag_of_tokens_accuracy(train, held_out, 21) > 0.95


def test_pairs_that_differ_by_chance_are_told_apart_by_chance() -> None:
    train, held_out = (random_sides(400, seed) for seed in (0, 1))
    assert 0.4 < bag_of_tokens_accuracy(train, held_out, 21) < 0.6
    assert 0.4 < length_accuracy(train, held_out) < 0.6
