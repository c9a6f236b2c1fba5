"""Rows come in a seeded order that can be entered anywhere; sources are read as often as their weights say."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trine.data.mixing import MixedOrder, Permutation, RowOrder, RunOrder
from trine.runtime.errors import TrineError

orders = st.builds(
    lambda counts, seed: MixedOrder(counts, [1.0] * len(counts), seed),
    st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any),
    st.integers(0, 3),
)


@given(size=st.integers(1, 2000), seed=st.integers(0, 5))
def test_a_permutation_reaches_every_place_once(size: int, seed: int) -> None:
    assert sorted(Permutation(size, seed)(np.arange(size)).tolist()) == list(range(size))


def test_a_permutation_of_more_than_memory_holds_is_a_function_of_each_place() -> None:
    permutation = Permutation(10**15 + 7, 3)
    places = np.array([0, 1, 10**15])
    moved = permutation(places)
    assert len(set(moved.tolist())) == 3 and (moved < permutation.size).all()
    assert permutation(places[1:2])[0] == moved[1]


def test_a_permutation_looks_random() -> None:
    """Neighbours do not stay neighbours, and the mean distance moved is that of a uniform shuffle, a third."""
    moved = Permutation(100_000, 1)(np.arange(100_000))
    assert np.abs(moved - np.arange(100_000)).mean() / 100_000 == pytest.approx(1 / 3, abs=0.01)
    assert (np.abs(np.diff(moved)) < 10).mean() < 0.001
    assert np.corrcoef(moved[:-1], moved[1:])[0, 1] == pytest.approx(0, abs=0.02)


@given(order=orders, epoch=st.integers(0, 3))
def test_at_weight_1_an_epoch_is_every_row_once(order: MixedOrder, epoch: int) -> None:
    rows = sum(order.counts)
    assert sorted(order.indices(epoch * rows, rows).tolist()) == list(range(rows))


@settings(max_examples=30)
@given(order=orders, start=st.integers(0, 100), count=st.integers(0, 50))
def test_reading_can_begin_at_any_index(order: MixedOrder, start: int, count: int) -> None:
    whole = order.indices(0, 150)
    np.testing.assert_array_equal(order.indices(start, count), whole[start : start + count])


@pytest.mark.parametrize("order", [MixedOrder([50, 50], [1, 1], 1), RunOrder(100, 1)])
def test_every_epoch_and_every_seed_has_an_order_of_its_own(order: RowOrder) -> None:
    other = MixedOrder([50, 50], [1, 1], 2) if isinstance(order, MixedOrder) else RunOrder(100, 2)
    epochs = [each.indices(epoch * 100, 100).tolist() for each in (order, other) for epoch in (0, 1)]
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_sources_are_shuffled_together() -> None:
    first_half = MixedOrder([500, 500], [1, 1], 0).indices(0, 500)
    assert 200 < (first_half < 500).sum() < 300


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([0.1, 0.5, 1, 1.5, 2, 3]), min_size=3, max_size=3),
    epochs=st.integers(1, 12),
)
def test_weights_are_exact_over_epochs(counts: list[int], weights: list[float], epochs: int) -> None:
    """After e epochs of weight w round(w e R) rows of R were read, each as often as any other or once more."""
    order = MixedOrder(counts, weights[: len(counts)], 0)
    expected = [int(weight * epochs * count + 0.5 + 1e-9) for count, weight in zip(counts, weights, strict=False)]
    times = Counter(order.indices(0, sum(expected)).tolist())
    assert order.epochs(sum(expected)) >= epochs
    first = 0
    for count, total in zip(counts, expected, strict=True):
        read = [times[row] for row in range(first, first + count)]
        assert sum(read) == total and max(read) - min(read) <= 1
        first += count


def test_half_a_weight_reads_the_other_half_in_the_next_epoch() -> None:
    order = MixedOrder([10, 4], [0.5, 1], 0)
    epochs = [{row for row in order.indices(epoch * 9, 9).tolist() if row < 10} for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [5, 5] and epochs[0] | epochs[1] == set(range(10))


def test_epochs_are_counted_in_rows() -> None:
    assert RunOrder(8, 0).epochs(12) == MixedOrder([8], [1], 0).epochs(12) == 1.5
    assert MixedOrder([8], [0.5], 0).epochs(12) == 3


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(TrineError, match="no source of the corpus has a row"):
        MixedOrder([0, 5], [1, 0], 0)
