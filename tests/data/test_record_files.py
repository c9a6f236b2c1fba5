"""Records as people have them: tables, arrays, lines; what is wrong is named with its line, nothing is swallowed."""

import csv
import gzip
import io
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from trine.config.corpus import SourceConfig
from trine.data.account import Tally
from trine.data.exchanges import read_examples
from trine.data.files import read_preferences, write_examples, write_preferences
from trine.data.licenses import allows
from trine.data.readers import read_file
from trine.records import Document, Example, Message, PreferencePair
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl, sha256_of, write_json, write_jsonl


def read(path: Path, tally: Tally | None = None, **fields: Any) -> list[Document]:
    return list(read_file(path, path.name, SourceConfig(folder=path, **fields), tally or Tally(strict=True)))


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts(path: Path, **fields: Any) -> list[str]:
    return [document.text for document in read(path, **fields)]


@pytest.mark.parametrize("rows", [1, 3, 2000])
@pytest.mark.parametrize("kind", ["unquoted", "quoted", "crlf"])
def test_an_unclosed_quotation_is_an_error_with_the_line_where_it_opens(tmp_path: Path, rows: int, kind: str) -> None:
    """1.6: whether the rest of the file is quoted or not, and however long it is."""
    row = '{},"more words"' if kind == "quoted" else "{},more words"
    lines = ["id,text", '1,"first\nof two lines"', '2,"open', *(row.format(number) for number in range(3, rows + 3))]
    path = written(tmp_path / "a.csv", ("\r\n" if kind == "crlf" else "\n").join(lines) + "\n")
    with pytest.raises(TrineError, match=rf"{path}:4: a quotation that opens here is not closed"):
        read(path)


@pytest.mark.parametrize("rows, numbered", [(1, True), (4, True), (300, True), (4, False), (300, False)])
def test_a_quotation_that_an_accident_closes_is_an_error_too(tmp_path: Path, rows: int, numbered: bool) -> None:
    """1.6: a mark at the end of a later row makes one field of all between."""
    names = [str(number) if numbered else f"name {number}" for number in range(rows + 3)]
    swallowed = "".join(f"{name},more words\n" for name in names[2:-1])
    path = written(tmp_path / "a.csv", f'id,text\n{names[0]},first\n{names[1]},"open\n{swallowed}{names[-1]},end"\n')
    with pytest.raises(
        TrineError, match=rf"{path}:3: a quotation that opens in this row holds {rows + 1} lines that are"
    ):
        read(path)


@pytest.mark.parametrize("seed", range(40))
def test_wherever_a_quotation_mark_is_lost_or_added_rows_do_not_vanish(tmp_path: Path, seed: int) -> None:
    """1.6: an error, or as many records as before, give or take the one that was harmed."""
    random_ = random.Random(seed)
    file = io.StringIO(newline="")
    quoting = random_.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    writer = csv.writer(file, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("id", "text"), *((number, f"some words {number}, here") for number in range(30))])
    data = file.getvalue()
    marks = [place for place, letter in enumerate(data) if letter == '"']
    place = random_.choice(marks)
    harmed = data[:place] + data[place + 1 :] if random_.random() < 0.5 else data[:place] + '"' + data[place:]
    tally = Tally()
    try:
        found = read(written(tmp_path / "a.csv", harmed), tally)
    except TrineError as error:
        assert f"{tmp_path}/a.csv:" in str(error)
    else:
        assert len(found) + tally.broken == 30 and tally.broken <= 1


def test_quotations_that_are_right_are_read(tmp_path: Path) -> None:
    """1.6: long ones, those that hold other tables, marks within a field, and doubled ones."""
    poem = "Roses are red,\nviolets, too, are blue\nand so on,\nwithout end\nand without, well, a table"
    other = "a;b;c\n1;2;3\n4;5;6\n7;8;9\n1;1;1\n2;2;2"
    rows = [("id", "text"), ("1", poem), ("2", other), ("3", 'a "quoted" word'), ("4", "x\n" * 5000), ("5", '5" pipe')]
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    assert texts(written(tmp_path / "a.csv", file.getvalue())) == [row[1] for row in rows[1:]]
    assert texts(written(tmp_path / "a.csv", 'id,text\n1,5" pipe\n2,6" pipe\n')) == ['5" pipe', '6" pipe']


@pytest.mark.parametrize(
    "name, delimiter", [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")]
)
def test_the_delimiter_is_found_in_the_header(tmp_path: Path, name: str, delimiter: str) -> None:
    """4.11."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([("id", "text", "n"), ("1", "words, and; more\tof | them", "2")])
    assert texts(written(tmp_path / name, file.getvalue())) == ["words, and; more\tof | them"]


def test_a_delimiter_may_be_stated(tmp_path: Path) -> None:
    """4.11: in the config, or in the file as Excel does."""
    assert texts(written(tmp_path / "a.csv", "id:text\n1:words\n"), delimiter=":") == ["words"]
    assert texts(written(tmp_path / "a.csv", "sep=;\nid;text\n1;words\n")) == ["words"]
    assert texts(written(tmp_path / "a.csv", "\n\nid, text\n1,words\n")) == ["words"]


def test_tables_without_quotation_are_read_when_that_is_said(tmp_path: Path) -> None:
    """4.11: as many .tsv files are."""
    path = written(tmp_path / "a.tsv", 'id\ttext\n1\t"Hello," he said.\n2\tsaid "x\n')
    with pytest.raises(TrineError, match=rf"{path}:2: a quotation .*set quoted: false"):
        read(path)
    assert texts(path, quoted=False) == ['"Hello," he said.', 'said "x']


@pytest.mark.parametrize("data", ["id;body\n1;x\n", "1,first\n2,second\n", "id\tbody\n"])
def test_a_table_without_the_field_is_refused_with_those_it_has(tmp_path: Path, data: str) -> None:
    """4.11: a table without a header too, whose first row is not taken for one silently."""
    with pytest.raises(TrineError, match=r"a\.csv:1: no column 'text'; there are .*: set text_field"):
        read(written(tmp_path / "a.csv", data))


@pytest.mark.parametrize("key", ["license_field", "name_field", "group_field"])
def test_a_named_column_that_is_not_there_is_refused(tmp_path: Path, key: str) -> None:
    """1.8: a group that is misspelt would silently split by line."""
    with pytest.raises(TrineError, match=rf"no column 'repo'; there are text: set {key}"):
        read(written(tmp_path / "a.csv", "text\nx\n"), **{key: "repo"})


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match="the column 'text' appears twice"):
        read(written(tmp_path / "a.csv", "text,text\na,b\n"))


def test_dotted_fields_lead_into_records(tmp_path: Path) -> None:
    """4.11: in JSON, in Parquet, and as the plain name of a column."""
    rows = [{"data": {"text": "one", "meta": {"repo": "r"}}}, {"data": {"text": "two", "meta": {"repo": "s"}}}]
    fields = {"text_field": "data.text", "group_field": "data.meta.repo"}
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a.parquet", "a.jsonl"):
        assert [(d.text, d.group) for d in read(tmp_path / name, **fields)] == [("one", "r"), ("two", "s")]
    assert texts(written(tmp_path / "a.csv", "data.text,x\nthree,1\n"), text_field="data.text") == ["three"]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_records_and_never_one_document(tmp_path: Path, indent: int | None) -> None:
    """1.8: under any of the names that people give it."""
    rows = [{"text": f"text {number}", "n": [1, {"a": None}]} for number in range(5)]
    for name in ("a.json", "a.jsonl", "a.json.gz"):
        data = json.dumps(rows, indent=indent).encode()
        found = read(written(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data))
        assert [d.text for d in found] == [row["text"] for row in rows]
        assert len({d.group for d in found}) == 5  # each of its own, also where all stand in one line


def test_what_else_is_called_json(tmp_path: Path) -> None:
    """1.8: records a line, and one record over several lines."""
    assert texts(written(tmp_path / "a.json", '{"text": "one"}\n{"text": "two"}\n')) == ["one", "two"]
    assert texts(written(tmp_path / "a.json", '{\n "text": "one"\n}\n')) == ["one"]
    with pytest.raises(TrineError, match=r"a\.json:3: not JSON"):
        read(written(tmp_path / "a.json", '{\n "text": "one",\n}\n'))


@pytest.mark.parametrize(
    "data, line, words",
    [
        ('[\n{"text": "a"},\n{"text": "b"}', 3, "expected ',' or ']' after record 2 of the array; is it whole?"),
        ('[\n{"text": "a"},\n', 3, "Expecting value"),
        ('[{"text": "a"}]\n{"text": "b"}', 2, "something follows the array"),
        ('[\n{"text": "a"\n{"text": "b"}]', 3, "Expecting ',' delimiter"),
        ('[\n{"text": "a", "text": "b"}]', 2, "the key 'text' appears more than once"),
        ("[\n" + "[" * 100_000, 2, "nested too deeply"),
        ('[\n{"text": "a"},\n5]', 3, "not a JSON object but int"),
    ],
)
def test_a_damaged_array_is_named_with_its_line(tmp_path: Path, data: str, line: int, words: str) -> None:
    """1.8."""
    with pytest.raises(TrineError) as caught:
        read(written(tmp_path / "a.json", data))
    assert str(caught.value).startswith(f"{tmp_path}/a.json:{line}: ") and words in str(caught.value)


LINES = [
    ('{"text": "a", "text": "b"}', "the key 'text' appears more than once"),
    ('{"text": "a", "n": {"k": 1, "k": 2}}', "the key 'k' appears more than once"),
    ("[" * 100_000, "nested too deeply"),
    ('{"a":' * 100_000, "nested too deeply"),
    ('{"text": "a", "n": ' + "9" * 5000 + "}", "a number has too many digits"),
    ('{"text": "\\ud800"}', "half of a surrogate pair"),
    ('{"text": "a"', "it is the last line: is the file whole?"),
    ("NaN", "not a JSON object but float"),
    ('{"text": NaN}', "not text but float"),
]


@pytest.mark.parametrize("line, words", LINES)
def test_lines_that_many_parsers_cannot_take_are_named(tmp_path: Path, line: str, words: str) -> None:
    """3.8, 4.11: in a corpus."""
    path = written(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line)
    with pytest.raises(TrineError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:2: ") and words in str(caught.value)


@pytest.mark.parametrize("line, words", [pair for pair in LINES if 'text": NaN' not in pair[0]])
def test_lines_of_examples_are_named_the_same_way(tmp_path: Path, line: str, words: str) -> None:
    """3.8: in examples."""
    good = '{"prompt": "fine", "response": "yes"}\n'
    line = line.replace('"text": "\\ud800"', '"prompt": "a", "response": "\\ud800"')
    path = written(tmp_path / "a.jsonl", good + line)
    with pytest.raises(TrineError) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}:2: ") and words in str(caught.value)


def test_a_number_that_is_none_is_a_value(tmp_path: Path) -> None:
    """3.8: Python and pandas write NaN; it comes back where it was."""
    path = written(tmp_path / "a.jsonl", '{"prompt": "a", "response": "b", "score": NaN, "far": -Infinity}\n')
    (example,) = read_examples(path)
    assert str(example.columns["score"]) == "nan" and example.columns["far"] == float("-inf")


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".jsonl": bytes, ".jsonl.gz": gzip.compress, ".txt": bytes,
    ".jsonl with a mark": lambda data: b"\xef\xbb\xbf" + data,
    ".jsonl in UTF-16": lambda data: data.decode().encode("utf-16"),
    ".json": lambda data: b"[" + b",".join(data.splitlines()) + b"]",
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_examples_come_back_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    """3.8: BOM, UTF-16, compression and arrays, as a corpus has them."""
    rows = [{"prompt": f"Größe {number}?", "response": "ja"} for number in range(3)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = read_examples(written(tmp_path / f"rows{kind.split(' ', maxsplit=1)[0]}", PACKED[kind](data)))
    assert [example.prompt[0].content for example in found] == [row["prompt"] for row in rows]


def test_examples_and_preferences_may_be_tables(tmp_path: Path) -> None:
    """3.8: what a table has none of, such as dates and flags, becomes text and flags."""
    path = written(tmp_path / "a.csv", "prompt;chosen;rejected;chosen_ended\nWhy?;So.;No.;False\n")
    pair = PreferencePair(
        (Message("user", "Why?"),), "So.", "No.", chosen_ended=False, name=f"{path}:2", group=f"{path}:2"
    )
    assert read_preferences(path) == [pair]
    rows = pa.table({"prompt": ["a"], "response": ["b"], "when": pa.array([0], pa.timestamp("s")), "raw": [b"\xff"]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    (example,) = read_examples(tmp_path / "a.parquet")
    assert example.columns == {"when": "1970-01-01 00:00:00", "raw": "\udcff"}
    write_examples(tmp_path / "again.jsonl", [example])
    assert read_examples(tmp_path / "again.jsonl")[0].columns == example.columns


@pytest.mark.parametrize(
    "row, name",
    [
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "the conversation form",
        ),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "the ShareGPT form"),
        ({"instruction": "a", "input": "", "output": "b"}, "the Alpaca form"),
        ({"prompt": "a", "completion": "b"}, "the prompt-completion form"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}, "form"),
        ({"prompt": "a", "completion": "b", "label": True}, "unpaired preference form"),
        ({"question": "a", "answer": "b"}, "the question-answer form"),
    ],
)
def test_the_forms_that_people_have_are_examples_and_no_preferences(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    """4.7: read as examples are (4.7 named them and said what to do); unpaired preferences are not, half being bad."""
    path = written(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    if "label" in row:
        with pytest.raises(TrineError, match=r"a\.jsonl:1: the record is TRL's unpaired preference form"):
            read_examples(path)
    else:
        (example,) = read_examples(path)
        assert (example.prompt, example.response) == ((Message("user", "a"),), "b")
    with pytest.raises(TrineError, match=rf"the record is in .*{re.escape(name)}.*taken here is {{prompt, chosen, rej"):
        read_preferences(path)


def test_preferences_of_whole_conversations_are_named(tmp_path: Path) -> None:
    """4.7: TRL's, with and without a prompt of their own."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row in ({"chosen": turns, "rejected": turns}, {"prompt": "a", "chosen": turns, "rejected": turns}):
        path = written(tmp_path / "a.jsonl", json.dumps(row) + "\n")
        with pytest.raises(TrineError, match=r"a\.jsonl:1: the record is in TRL's preference form.*last answer"):
            read_preferences(path)


SURROGATES = ["caf\udce9.txt", "half \ud800", "\udfff", "\udce9\udce8 and 日本 😀", "\\udce9"]


@pytest.mark.parametrize("text", SURROGATES)
def test_any_string_is_written_as_json_and_comes_back(tmp_path: Path, text: str) -> None:
    """3.4: file names that are no UTF-8, halves of a pair, as keys and as values, in every writer."""
    write_json(tmp_path / "a.json", {text: [text, {"deep": text}]})
    assert read_json(tmp_path / "a.json") == {text: [text, {"deep": text}]}
    write_jsonl(tmp_path / "a.jsonl", [{text: text}])
    assert read_jsonl(tmp_path / "a.jsonl") == [{text: text}]
    prompt = (Message("user", "a"),)
    write_examples(tmp_path / "e.jsonl", [Example(prompt, "b", name=text, group=text, columns={"k": text})])
    (example,) = read_examples(tmp_path / "e.jsonl")
    assert (example.name, example.group, example.columns) == (text, text, {"k": text})
    write_preferences(tmp_path / "p.jsonl", [PreferencePair(prompt, "b", "c", name=text, group=text)])
    assert read_preferences(tmp_path / "p.jsonl")[0].name == text
    assert len(sha256_of(text)) == 64


def test_a_file_name_that_is_no_utf8_reaches_every_message(tmp_path: Path) -> None:
    """3.4: as part of a record's place, in the tally and in an error."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    path.write_text('{"text": "a"}\n{"caf\\ud800": 1}\n')
    tally = Tally()
    assert len(read(path, tally)) == 1
    write_json(tmp_path / "listed.json", tally.listed)
    assert read_json(tmp_path / "listed.json") == tally.listed
    with pytest.raises(TrineError, match="there are caf"):
        read(path)


def test_a_licence_of_any_depth_is_no_traceback() -> None:
    """3.8: a field of strangers' records."""
    assert allows("(" * 100_000, ("MIT",)) is None
    assert allows("(" * 10 + "MIT" + ")" * 10, ("MIT",)) is True
