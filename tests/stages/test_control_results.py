"""Returns of fresh episodes as figures."""

import pytest

from trine.agents.environments import Episode
from trine.stages.control.results import summary


def test_the_deviation_of_returns_is_the_populations() -> None:
    """Of n, not n - 1, as in the tables of the field: one episode deviates by 0."""
    episodes = [Episode(0, 1.0, 10), Episode(1, 3.0, 20), Episode(0, 8.0, 30)]
    assert summary(episodes) == {
        "return_mean": 4.0,
        "return_deviation": pytest.approx((26 / 3) ** 0.5),
        "length_mean": 20.0,
        "returns": [1.0, 3.0, 8.0],
    }
    assert summary(episodes[:1])["return_deviation"] == 0.0
