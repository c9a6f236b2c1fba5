"""Exact and near duplicates: what is one, what is not, and always the later document is it."""

import random
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.small_corpus import module_source
from trine.config.corpus import FilterConfig
from trine.data import duplicates
from trine.data.duplicates import DuplicateFinder, content_digest, signature

BOTH = FilterConfig(exact_duplicates=True, near_duplicates=True)
WORDS = [f"word_{number}" for number in range(200)]


def found(texts: list[str], config: FilterConfig = BOTH) -> list[str | None]:
    finder = DuplicateFinder(config)
    return [finder.find(content_digest(text), signature(text, config)) for text in texts]


def test_white_space_makes_no_difference_and_a_letter_does() -> None:
    assert content_digest("a b\n\tc") == content_digest("ab c  ") != content_digest("abd")
    assert len(content_digest("")) == 16


def test_the_second_of_two_equal_documents_is_the_duplicate() -> None:
    config = FilterConfig(exact_duplicates=True)
    assert found(["x = 1", "y", "x  =  1\n", "y", "x = 1"], config) == [None, None, "exact", "exact", "exact"]


def test_files_that_differ_in_a_few_lines_are_near_duplicates_and_others_are_not() -> None:
    lines = [f"{name} = {place}" for place, name in enumerate(WORDS)]
    edited = [*lines[:50], "something_else = None", *lines[51:120], "extra_line()", *lines[120:]]
    other = [line.replace("word", "term") for line in lines]
    assert found(["\n".join(text) for text in (lines, edited, other)]) == [None, "near", None]


def test_modules_that_share_their_style_only_are_kept() -> None:
    assert found([module_source(number) for number in range(12)]) == [None] * 12


@pytest.mark.parametrize("shared, near", [(199, True), (190, True), (170, False), (120, False)])
def test_the_threshold_is_on_jaccard_similarity(shared: int, near: bool) -> None:
    """Two sets of 200 words with `shared` in common: 0.99, 0.90, 0.74 and 0.43 against 0.85."""
    other = WORDS[:shared] + [f"other_{number}" for number in range(200 - shared)]
    assert found([" ".join(WORDS), " ".join(other)])[1] == ("near" if near else None)


def test_the_share_of_equal_values_estimates_jaccard_similarity() -> None:
    """Of 200 and 200 words 140 are shared: 140 / 260. Standard error with 4096 values: 0.008."""
    config = FilterConfig(permutations=4096)
    one, two = (signature(" ".join(words), config) for words in (WORDS, [*WORDS[:140], *(f"o{n}" for n in range(60))]))
    assert one is not None and two is not None
    assert float(np.mean(one == two)) == pytest.approx(140 / 260, abs=0.03)


@given(st.lists(st.sampled_from(WORDS), min_size=10))
def test_a_signature_is_datasketchs_own_whatever_the_order_and_repetition(words: list[str]) -> None:
    from datasketch import MinHash

    config = FilterConfig(permutations=64)
    plain = MinHash(64, hashfunc=zlib.crc32)
    for word in words:
        plain.update(word.encode())
    shuffled = random.Random(0).sample(words, len(words))
    assert np.array_equal(signature("; ".join(words), config), plain.hashvalues)  # type: ignore[arg-type]
    assert np.array_equal(signature(" ".join(shuffled), config), plain.hashvalues)  # type: ignore[arg-type]


def test_many_words_are_hashed_a_few_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(WORDS)
    whole = signature(text, BOTH)
    monkeypatch.setattr(duplicates, "WORDS_AT_A_TIME", 7)
    assert np.array_equal(whole, signature(text, BOTH))  # type: ignore[arg-type]
    assert whole is not None and (whole.dtype, whole.shape) == (np.uint32, (256,))


def test_short_texts_have_no_signature_and_only_exact_duplicates() -> None:
    assert signature("one two three four five six seven eight nine", BOTH) is None
    assert found(["a b c", "a b d", "a  b c"]) == [None, None, "exact"]


def test_what_is_found_depends_on_nothing_but_the_order() -> None:
    texts = [" ".join(random.Random(seed // 2).sample(WORDS, 150 - seed % 2)) for seed in range(40)]
    first = found(texts)
    assert first == [None, "near"] * 20
    assert found(texts) == first
    assert found(texts[::-1]) == [None, "near"] * 20


def test_each_switch_alone() -> None:
    text = " ".join(WORDS)
    assert found([text, text], FilterConfig()) == [None, None]
    assert found([text, text], FilterConfig(near_duplicates=True)) == [None, "near"]
    assert found([text, text, text + " more"], FilterConfig(exact_duplicates=True)) == [None, "exact", None]


def test_without_datasketch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from trine.runtime.errors import TrineError

    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(TrineError, match=r"near_duplicates needs datasketch: pip install 'trine\[clean\]'"):
        DuplicateFinder(FilterConfig(near_duplicates=True))
