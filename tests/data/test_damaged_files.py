"""Damaged copies of every kind of file end in the right result, or in an error that names the file: at least a hundred
copies of each kind, for corpora and for examples alike. Never another exception, never fewer records without account.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.mutations import mutations
from trine.config.corpus import CorpusConfig, SourceConfig
from trine.data.account import Tally
from trine.data.corpus import open_corpus
from trine.data.exchanges import read_examples
from trine.data.files import read_preferences
from trine.data.filters import FilterCounts
from trine.data.readers import read_file
from trine.data.sources import open_source
from trine.runtime.errors import TrineError

ROWS = [{"id": str(number), "text": f"text {number} of some, words\nand a second line"} for number in range(6)]
COPIES = 160


def table(delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["id", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return file.getvalue().encode()


def as_parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), file, write_page_checksum=True)
    return file.getvalue()


def lines() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


KINDS: dict[str, Callable[[], bytes]] = {
    "rows.jsonl": lines,
    "rows.ndjson": lines,
    "rows.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "rows.csv": lambda: table(","),
    "semicolons.csv": lambda: table(";"),
    "rows.tsv": lambda: table("\t"),
    "rows.parquet": as_parquet,
    "text.txt": lambda: "Größe eins\nzwei\n".encode() * 8,
    "code.py": lambda: b"x = 1\ny = 2\n" * 8,
    "rows.jsonl.gz": lambda: gzip.compress(lines(), mtime=0),
}


def records_in(path: Path) -> int | None:
    """How many records there are at least, counted in another way; None where that cannot be said of what is there."""
    data = path.read_bytes()
    if path.suffix not in (".jsonl", ".ndjson") or data[:2] in (b"\x1f\x8b", b"\xff\xfe"):
        return None
    return sum(1 for line in data.split(b"\n") if line.strip())


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_corpus_file_is_read_refused_or_accounted_for(tmp_path: Path, name: str) -> None:
    """1.6, 1.8, 3.8, 4.11: every record that was seen is kept or broken; every error names the file."""
    path = tmp_path / name
    source = SourceConfig(folder=path)
    outcomes = set()
    for case, data in mutations(KINDS[name](), seed=12, count=COPIES):
        path.write_bytes(data)
        tally = Tally()
        try:
            kept = list(read_file(path, name, source, tally))
        except TrineError as error:
            assert str(path) in str(error), case
            outcomes.add("refused")
            continue
        assert tally.seen == len(kept) + tally.broken, case
        assert all(place.startswith(f"{path}:") for place in tally.listed), case
        expected = records_in(path)
        assert expected is None or tally.seen == expected, case
        if name.startswith("rows"):  # no record holds another one, as an open quotation would
            assert all(len(re.findall(r"text \d of some", document.text)) <= 1 for document in kept), case
        outcomes.add("broken" if tally.broken else "read")
    assert {"read"} < outcomes


@pytest.mark.parametrize("name", KINDS)
def test_without_leave_the_first_broken_record_is_an_error(tmp_path: Path, name: str) -> None:
    """1.8: at max_broken_share 0, which is the default, nothing is left out for being broken."""
    path = tmp_path / name
    config = CorpusConfig(folders=(path,), held_out_share=0)
    for case, data in mutations(KINDS[name](), seed=5, count=40):
        path.write_bytes(data)
        lenient = Tally()
        try:
            for unit in open_source(config.all_sources[0], 0).units:
                list(unit.read(lenient))
        except TrineError:
            continue
        tallies: dict[str, Tally] = {}
        counts = FilterCounts()
        corpus = open_corpus(config)
        try:
            kept = list(corpus.documents("train", counts, tallies))
        except TrineError as error:
            assert str(path) in str(error) and (lenient.broken or not lenient.seen or lenient.left_out), case
            continue
        account = corpus.account(tallies.values(), counts)
        assert account.broken == lenient.broken == 0, case
        assert account.records == len(kept) + sum(account.left_out.values()), case


EXAMPLES = [{"prompt": f"{number} + 1?", "response": f"{number + 1}, I think"} for number in range(6)]
PAIRS = [{"prompt": f"{number}?", "chosen": f"yes, {number}", "rejected": "no"} for number in range(6)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("rows, read", [(EXAMPLES, read_examples), (PAIRS, read_preferences)])
def test_damaged_examples_are_read_or_refused(
    tmp_path: Path, suffix: str, rows: list[dict[str, str]], read: Callable[[Path], list[object]]
) -> None:
    """3.8: examples and preferences are read with the care of a corpus, and the first broken record is an error."""
    path = tmp_path / f"rows{suffix}"
    whole = encoded(rows, suffix)
    path.write_bytes(whole)
    assert len(read(path)) == len(rows)
    for case, data in mutations(whole, seed=3, count=60):
        path.write_bytes(data)
        try:
            found = read(path)
        except TrineError as error:
            assert str(path) in str(error), case
            continue
        expected = records_in(path)
        assert expected is None or len(found) == expected, case


def encoded(rows: list[dict[str, str]], suffix: str) -> bytes:
    if suffix == ".parquet":
        file = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), file, write_page_checksum=True)
        return file.getvalue()
    if suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    data = json.dumps(rows).encode() if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows).encode()
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data
