"""Queries of plain text: seeded prefixes of whole characters."""

import json
from pathlib import Path

import pytest

from tests.tiny import tiny_chat, tiny_tokenizer
from trine.records import Example
from trine.runtime.errors import TrineError
from trine.stages.rl.prompts import Prompt, query_of, read_prompts
from trine.tokenizer.text_format import TextFormat, answer_format

FORM = TextFormat(tiny_tokenizer())
TEXTS = [f"The cat number {n} sat on the mat, and the other cat sat too." for n in range(40)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": 1}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_a_query_is_a_prefix_of_its_texts_tokens_of_every_length_between_the_two(texts: Path) -> None:
    found = read_prompts(texts, FORM, 100, (2, 8), seed=1)
    assert len(found) == len(TEXTS)
    for query, text in zip(found, TEXTS, strict=True):
        assert list(query.ids) == FORM.tokenizer.encode(text)[: len(query.ids)]
        assert query.query is not None
        assert text.startswith(query.query)
        assert query.columns == {"label": 1, "response": text.removeprefix(query.query)}
    assert {len(query.ids) for query in found} == set(range(2, 9))


def test_the_seed_alone_decides_how_long_each_is(texts: Path) -> None:
    lengths = [[len(one.ids) for one in read_prompts(texts, FORM, 100, (2, 8), seed)] for seed in (1, 1, 2)]
    assert lengths[0] == lengths[1] != lengths[2]


def test_without_query_tokens_a_query_is_the_whole_text(texts: Path) -> None:
    assert [one.query for one in read_prompts(texts, FORM, 1000)] == TEXTS


def test_texts_that_are_too_short_or_too_long_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "The"}\n{"text": ""}\n' + json.dumps({"text": TEXTS[0]}) + "\n", encoding="utf-8")
    assert len(read_prompts(path, FORM, 100, (5, 5))) == 1
    assert "2 of 3 texts are shorter than their query and left out" in capsys.readouterr().err
    assert len(read_prompts(path, FORM, 4)) == 1
    assert "1 of 2 prompts are too long and left out" in capsys.readouterr().err
    with pytest.raises(TrineError, match=r"no text has as many tokens as query_tokens=\[90, 90\] asks for"):
        read_prompts(path, FORM, 100, (90, 90))


def test_a_character_is_never_cut() -> None:
    """In a byte-level vocabulary a Chinese character is several tokens here."""
    text = "猫坐在垫子上"
    assert len(FORM.tokenizer.encode(text)) == 3 * len(text)
    for size in range(1, 3 * len(text) + 1):
        query = query_of(Example((), text), FORM, size)
        assert query.query is not None
        assert text.startswith(query.query)
        assert len(query.ids) == 3 * len(query.query) >= size


def test_chat_and_text_are_two_forms_of_one_model() -> None:
    assert isinstance(answer_format(tiny_tokenizer(), "text"), TextFormat)
    assert answer_format(tiny_tokenizer(), "chat").end_ids == tiny_chat().end_ids
    assert Prompt((1,)).query is None
