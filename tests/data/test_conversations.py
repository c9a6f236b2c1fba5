"""Conversations in the forms that people have: recognised by their keys, and every mistake named with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from trine.data.conversations import read_conversations
from trine.records import Conversation, Message
from trine.runtime.errors import TrineError

TURNS = [
    {"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
]  # fmt: skip
SHARED = [
    {"from": {"user": "human", "assistant": "gpt"}.get(t["role"], t["role"]), "value": t["content"]} for t in TURNS
]
MESSAGES = tuple(Message(turn["role"], turn["content"]) for turn in TURNS)  # type: ignore[arg-type]
ANSWERS = (2, 4)
ASKED = (Message("user", "p"), Message("assistant", "r"))
# What stands in the file, the form's name, the messages, and the places of the trained ones.
FORMS: list[tuple[dict[str, Any], str, tuple[Message, ...], tuple[int, ...]]] = [
    ({"messages": TURNS}, "OpenAI messages", MESSAGES, ANSWERS),
    ({"messages": SHARED}, "OpenAI messages", MESSAGES, ANSWERS),
    ({"conversations": SHARED}, "ShareGPT conversations", MESSAGES, ANSWERS),
    ({"conversations": SHARED[1:], "system": "S"}, "ShareGPT conversations", MESSAGES, ANSWERS),
    ({"prompt": "p", "response": "r"}, "prompt and response", ASKED, (1,)),
    ({"prompt": TURNS[:4], "response": "d"}, "prompt and response", MESSAGES, (4,)),
    ({"prompt": "p", "completion": "r"}, "prompt and completion", ASKED, (1,)),
    ({"prompt": TURNS[:4], "completion": TURNS[4:]}, "prompt and completion", MESSAGES, (4,)),
    ({"question": "p", "answer": "r"}, "question and answer", ASKED, (1,)),
    ({"instruction": "i", "input": "", "output": "o", "text": "whole"}, "Alpaca",
     (Message("user", "i"), Message("assistant", "o")), (1,)),
    ({"instruction": "i", "input": "n", "output": "o"}, "Alpaca",
     (Message("user", "i\nn"), Message("assistant", "o")), (1,)),
    ({"instruction": "i", "input": "n", "response": "o"}, "Alpaca with response",
     (Message("user", "i\nn"), Message("assistant", "o")), (1,)),
    ({"instruction": "i", "context": "n", "response": "o"}, "Alpaca with response",
     (Message("user", "i\nn"), Message("assistant", "o")), (1,)),
    ({"instruction": "c", "output": "d", "system": "S", "history": [["a", "b"]]}, "Alpaca", MESSAGES, ANSWERS),
]  # fmt: skip


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


def only(path: Path) -> Conversation:
    (conversation,) = read_conversations(path).items
    return conversation


@pytest.mark.parametrize("record, form, messages, answers", FORMS)
def test_a_form_is_recognised_by_its_keys(
    tmp_path: Path, record: dict[str, Any], form: str, messages: tuple[Message, ...], answers: tuple[int, ...]
) -> None:
    found = read_conversations(write(tmp_path / "a.jsonl", record))
    assert found.words == form
    assert found.items[0].messages == messages and found.items[0].answers == answers


def test_a_plain_text_is_all_there_is_to_learn(tmp_path: Path) -> None:
    found = only(write(tmp_path / "a.jsonl", {"text": "Once.", "name": "n", "source": "web"}))
    assert (found.messages, found.text, found.name, found.columns) == ((), "Once.", "n", {"source": "web"})


def test_several_forms_in_one_file_are_counted(tmp_path: Path) -> None:
    found = read_conversations(write(tmp_path / "a.jsonl", {"messages": TURNS}, {"text": "t"}, {"messages": TURNS}))
    assert found.forms == {"OpenAI messages": 2, "plain text": 1}
    assert found.words == "OpenAI messages (2), plain text (1)"


@pytest.mark.parametrize("no", [{"train": False}, {"weight": 0}, {"train": "false"} | {"train": False}])
def test_a_message_may_say_that_it_is_not_trained(tmp_path: Path, no: dict[str, Any]) -> None:
    record = {"messages": [*TURNS[:2], TURNS[2] | no, *TURNS[3:]]}
    assert only(write(tmp_path / "a.jsonl", record)).answers == (4,)


def test_an_answer_within_a_prompt_is_trained_where_it_says_so(tmp_path: Path) -> None:
    prompt = [*TURNS[:2], TURNS[2] | {"train": True}, TURNS[3]]
    assert only(write(tmp_path / "a.jsonl", {"prompt": prompt, "response": "d"})).answers == (2, 4)


def test_compressed_parquet_and_folders_are_read_alike(tmp_path: Path) -> None:
    """Parquet fills absent keys with null, which says nothing."""
    records = [{"messages": [*TURNS[:2], TURNS[2] | {"train": False}, *TURNS[3:]]}, {"messages": TURNS[1:3]}]
    plain = read_conversations(write(tmp_path / "a.jsonl", *records)).items
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "0.jsonl.gz").write_bytes(gzip.compress(json.dumps(records[0]).encode()))
    parquet.write_table(pa.Table.from_pylist(records[1:]), folder / "1.parquet")
    (folder / "README.md").write_text("about")
    found = read_conversations(folder)
    assert [(each.messages, each.answers) for each in found.items] == [(each.messages, each.answers) for each in plain]
    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "b.parquet")
    assert [each.answers for each in read_conversations(tmp_path / "b.parquet").items] == [(4,), (1,)]


def test_parts_that_are_texts_are_joined_and_json_in_a_table_is_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    found = only(write(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": parts}, TURNS[2]]}))
    assert found.messages[0].content == "xy"
    parquet.write_table(pa.table({"messages": [json.dumps(TURNS)]}), tmp_path / "b.parquet")
    assert only(tmp_path / "b.parquet").messages == MESSAGES


def test_the_group_is_the_field_or_the_first_question(tmp_path: Path) -> None:
    assert only(write(tmp_path / "a.jsonl", {"messages": TURNS})).group == "a"
    assert only(write(tmp_path / "a.jsonl", {"messages": TURNS, "group": 3})).group == "3"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "field 'messages' must be a list of messages"),
    ({"messages": "hello"}, "field 'messages' must be a list of messages"),
    ({"messages": [TURNS[1], "b"]}, r"field 'messages\[1\]' must be a message"),
    ({"messages": [{"role": "robot", "content": "x"}]}, r"field 'messages\[0\].role' must be one of .*found 'robot'"),
    (
        {"messages": [TURNS[1], {"role": "tool", "content": "x"}]},
        r"messages\[1\].role.*calls of tools are not trained on",
    ),
    ({"conversations": [{"from": "ape", "value": "x"}]}, r"field 'conversations\[0\].from' must be one of"),
    (
        {"messages": [TURNS[1], {"role": "assistant", "content": None}]},
        r"'messages\[1\].content' must be a string, found N",
    ),
    ({"conversations": [{"from": "human", "value": 3}]}, r"'conversations\[0\].value' must be a string, found 3"),
    ({"messages": [TURNS[1], TURNS[2] | {"tool_calls": [1]}]}, r"field 'messages\[1\].tool_calls' is not trained on"),
    ({"messages": [TURNS[1], TURNS[2] | {"train": "yes"}]}, r"field 'messages\[1\].train' must be true or false"),
    ({"messages": [TURNS[1] | {"train": True}, TURNS[2]]}, r"'messages\[0\].train' is true, but only the assistant's"),
    ({"messages": [TURNS[1]]}, "nothing to train on: no message is the assistant's .*'messages'"),
    ({"messages": [TURNS[1], TURNS[2] | {"train": False}]}, 'nothing to train on: every answer says "train": false'),
    ({"text": ""}, "nothing to train on: it has no messages, and no text"),
    ({"prompt": 1, "response": "r"}, "field 'prompt' must be a string"),
    ({"prompt": "p", "response": None}, "field 'response' must be a string"),
    ({"instruction": "i", "output": 3}, "field 'output' must be a string"),
    ({"instruction": "i", "output": "o", "history": ["x"]}, r"field 'history\[0\]' must be \[question, answer\]"),
    ({"prompt": "p", "chosen": "c", "rejected": "r"}, "a preference pair: `trine reward` learns from those"),
    ({"prompt": "p", "completion": "c", "label": True}, "TRL's unpaired preference form"),
    ({"body": "x"}, "the record has the fields body, which are of no form that is known: prompt and response"),
    ({"messages": [{"role": "user", "content": "\ud800"}, TURNS[2]]}, r"'messages\[0\].content' is not UTF-8"),
]


@pytest.mark.parametrize("record, words", WRONG)
def test_a_mistake_is_named_with_file_line_and_field(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "fine"}, record)
    with pytest.raises(TrineError, match=rf"a\.jsonl:2: .*{words}"):
        read_conversations(path)
