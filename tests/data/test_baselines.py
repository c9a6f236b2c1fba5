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
