"""The pairs of the group dpo: the same for every side, and within the context of mini."""

from bench.cases import GROUPS, SIDES
from bench.pairs import LONGEST, random_pairs, tokens_of


def test_pairs_are_a_function_of_their_seed_and_fit_a_row() -> None:
    pairs = random_pairs(200, 8192)
    assert pairs == random_pairs(200, 8192) != random_pairs(200, 8192, seed=1)
    lengths = [len(pair["prompt"]) + max(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs]
    assert max(lengths) <= LONGEST and min(lengths) > 18
    assert tokens_of(pairs[:1]) == sum(len(pairs[0]["prompt"]) + len(pairs[0][side]) for side in ("chosen", "rejected"))


def test_every_contender_of_the_case_has_a_side() -> None:
    (case,) = GROUPS["dpo"]("mini")
    assert {contender.side for contender in case.contenders} <= SIDES.keys() and GROUPS["dpo"]("small") == []
