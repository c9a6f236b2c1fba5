"""Likelihoods by what they are divided by, against the golden vectors E6 and E7."""

import pytest

from trine.algorithms.text_likelihood import Likelihood, best_choice, bits_per_byte

PARIS, CITY, CHINESE = (
    Likelihood(" Paris", -4.0, 1),
    Likelihood(" the city of lights", -6.0, 4),
    Likelihood(" 巴黎", -5.0, 2),
)


@pytest.mark.parametrize(
    ("choice", "per_token", "per_character", "per_byte"),
    [
        (PARIS, -4.0, -0.666667, -0.666667),
        (CITY, -1.5, -0.315789, -0.315789),
        (CHINESE, -2.5, -1.666667, -0.714286),
    ],
)
def test_golden_e6_normalizations(choice: Likelihood, per_token: float, per_character: float, per_byte: float) -> None:
    assert choice.normalized("sum") == choice.log_prob
    assert choice.normalized("per_token") == pytest.approx(per_token, abs=1e-6)
    assert choice.normalized("per_character") == pytest.approx(per_character, abs=1e-6)
    assert choice.normalized("per_byte") == pytest.approx(per_byte, abs=1e-6)


def test_golden_e6_the_best_choice_depends_on_what_one_divides_by() -> None:
    choices = (PARIS, CITY, CHINESE)
    assert best_choice(choices, "sum") == 0
    assert [best_choice(choices, by) for by in ("per_token", "per_character", "per_byte")] == [1, 1, 1]


def test_in_chinese_characters_and_bytes_disagree() -> None:
    english, chinese = Likelihood("Paris", -4.0, 1), Likelihood("巴黎", -3.0, 2)
    assert best_choice((english, chinese), "per_character") == 0
    assert best_choice((english, chinese), "per_byte") == 1


def test_golden_e7_bits_per_byte() -> None:
    assert bits_per_byte(300.0, 200) == pytest.approx(2.164043, abs=1e-6)
