"""Prompts, answers and texts, from every form of record that people have."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from trine.catalog.exchanges import read_exchanges, read_texts
from trine.records import Message
from trine.runtime.errors import TrineError

ASKED = (Message("user", "2 + 2?"),)
EARLIER = (Message("system", "Count."), Message("user", "1 + 1?"), Message("assistant", "2"), *ASKED)
TURNS = [{"role": message.role, "content": message.content} for message in EARLIER]


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "2 + 2?"},
        {"prompt": "2 + 2?", "response": None},
        {"prompt": [{"role": "user", "content": "2 + 2?"}]},
        {"messages": [{"role": "user", "content": "2 + 2?"}]},
        {"conversations": [{"from": "human", "value": "2 + 2?"}]},
        {"instruction": "2 + 2?"},
        {"question": "2 + 2?"},
    ],
)
def test_a_prompt_needs_no_answer_in_any_form(tmp_path: Path, record: dict[str, Any]) -> None:
    found = read_exchanges(written(tmp_path / "a.jsonl", record | {"level": 3}), answered=False)[0]
    assert (found.prompt, found.response, found.columns["level"]) == (ASKED, "", 3)
    assert "response" not in found.columns
    with pytest.raises(TrineError, match=r"a.jsonl:1: field .* must be a string, found None: an answer is needed"):
        read_exchanges(tmp_path / "a.jsonl", answered=True)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": TURNS, "response": "4"},
        {"messages": [*TURNS, {"role": "assistant", "content": "4"}]},
        {"prompt": TURNS, "completion": "4"},
        {"question": TURNS, "answer": "4"},
    ],
)
def test_the_last_answer_is_the_response_and_what_stands_before_it_the_prompt(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    for answered in (True, False):
        found = read_exchanges(written(tmp_path / "a.jsonl", record), answered=answered)[0]
        own = {key: value for key, value in record.items() if value == "4"}  # rewards may ask for `answer` by its name
        own.pop("response", None)
        assert (found.prompt, found.response, found.columns) == (EARLIER, "4", own)


def test_tables_compressed_files_and_folders_are_read(tmp_path: Path) -> None:
    records = [{"prompt": f"{n}?", "answer": n} for n in range(3)]
    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "3?", "answer": 3}\n'))
    (tmp_path / "c.csv").write_text("prompt,answer\n4?,4\n", encoding="utf-8")
    assert [each.prompt[0].content for each in read_exchanges(tmp_path, answered=False)] == [f"{n}?" for n in range(5)]
    assert read_exchanges(tmp_path / "a.parquet", answered=False)[2].columns == {"answer": 2}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"texts": "a"}, "the record has the fields texts, which are of no form that is known"),
        ({"text": "a"}, "of no form that is known"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "asks nothing"),
        ({"messages": [{"role": "tool", "content": "a"}]}, r"field 'messages\[0\].role' must be one of"),
        ({"prompt": 7}, "field 'prompt' must be a string"),
    ],
)
def test_what_asks_nothing_is_refused_by_line_and_field(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    with pytest.raises(TrineError, match=words):
        read_exchanges(written(tmp_path / "a.jsonl", record), answered=False)


@pytest.mark.parametrize("field", ["text", "query", "prompt", "review", "sentence"])
def test_a_text_is_the_first_field_that_may_be_one(tmp_path: Path, field: str) -> None:
    found = read_texts(written(tmp_path / "a.jsonl", {"label": 1, field: "A film."}))[0]
    assert (found.prompt, found.response, found.columns) == ((), "A film.", {"label": 1})


def test_folders_named_by_labels_are_texts(tmp_path: Path) -> None:
    for label in ("neg", "pos"):
        (tmp_path / "train" / label).mkdir(parents=True)
        (tmp_path / "train" / label / "0_1.txt").write_text(f"A {label} film.", encoding="utf-8")
    assert [(each.response, each.columns["label"]) for each in read_texts(tmp_path)] == [
        ("A neg film.", "neg"), ("A pos film.", "pos"),
    ]  # fmt: skip


def test_a_record_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"a.jsonl:2: no text to go on with"):
        read_texts(written(tmp_path / "a.jsonl", {"text": "a"}, {"messages": []}))
