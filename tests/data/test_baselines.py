"""Figures that a model's stand beside."""

import lzma
import random

import pytest

from trine.data.baselines import verbatim_line_share, xz_bits_per_byte
from trine.records import Document


def document(text: str) -> Document:
    return Document(text, "name", "folder", "group")


def test_xz_is_the_size_of_all_texts_compressed_together() -> None:
    texts = ["def f():\n    return 1\n" * 20, "größer " * 50]
    data = "".join(texts).encode()
    found = xz_bits_per_byte([document(text) for text in texts])
    assert found == 8 * len(lzma.compress(data, preset=9)) / len(data)


def test_repetition_compresses_and_noise_does_not() -> None:
    noise = "".join(random.Random(0).choices([chr(code) for code in range(33, 127)], k=20_000))
    assert xz_bits_per_byte([document("abc" * 7000)]) < 0.1
    assert xz_bits_per_byte([document(noise)]) > 6.5


def test_nothing_has_no_lines_and_does_not_fail() -> None:
    assert verbatim_line_share([], []) == 0.0


def test_only_telling_lines_count_and_indentation_does_not() -> None:
    train = [document("    return the_first_value\nx = 1\n")]
    held_out = [document("return the_first_value\nx = 1\nsomething_else_entirely()\n    elf_letters_\n")]
    assert verbatim_line_share(held_out, train) == pytest.approx(1 / 3)


def test_xz_is_given_no_more_than_it_is_told() -> None:
    texts = ["def f():\n    return 1\n" * 20, "größer " * 50]
    data = "".join(texts).encode()[:500]
    found = xz_bits_per_byte((document(text) for text in texts), max_bytes=500)
    assert found == 8 * len(lzma.compress(data, preset=9)) / 500


def test_a_line_that_stands_twice_counts_twice_and_training_text_may_stream() -> None:
    held_out = [document("the_same_line = 1\nthe_same_line = 1\nanother_line = 2\n")]
    train = (document(text) for text in ("the_same_line = 1", "nothing_like_it()"))
    assert verbatim_line_share(held_out, train) == pytest.approx(2 / 3)
