"""Files of judgements: read in the forms of `judgement_forms.py`, and written as JSON Lines.

    {"prompt": [{"role", "content"}, ...], "answers": [{"response", "ended"}, ...], "ranking": [[0], [1, 2]],
     "judge", "weight", "margin", "probability", "name", "group"}

is a `Judgement` as it is written: `query` stands in place of `prompt` for plain text, `label` or `score` in place of
`ranking`, and what has its default is left out; other fields are the answers' columns.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from trine.data.class_folders import class_folder_records, is_class_folder
from trine.data.files import read_records
from trine.data.judgement_forms import judgements_in, kinds_of, renamed
from trine.data.judgement_texts import ANSWERS, FIELDS, Reading, form_of
from trine.data.record_files import is_record_file
from trine.data.sources import is_held_out
from trine.records import Form, Judgement, JudgementKind
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl

KINDS: tuple[JudgementKind, ...] = ("label", "score", "pair", "ranking")
Places = Sequence[tuple[str, Mapping[str, Any]]]


def read_judgements(
    path: Path, kinds: Collection[JudgementKind] = KINDS, reading: Reading | None = None
) -> list[Judgement]:
    """The judgements of `kinds` in a file, in the files of a folder, or in folders named by labels (aclImdb), in order.

    Without `reading` the form is what the records are in. Raises `TrineError` naming file, line and field.
    """
    records = list(judgement_records(path))
    return judgements_of(records, kinds, reading or Reading(form=common_form(records)))


def judgement_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of everything in a file or folder."""
    if is_class_folder(path):
        return class_folder_records(path)
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and is_record_file(each.name))
    return chain.from_iterable(read_records(file, FIELDS) for file in files)


def judgements_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], kinds: Collection[JudgementKind], reading: Reading
) -> list[Judgement]:
    """The same of (place, record) pairs. A record that says several of `kinds` (label and score) gives each of them.

    >>> record = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    >>> judgements_of([("pairs.jsonl:1", record)], ["pair"], Reading())[0].answers[0].response
    'So.'
    """
    found: list[Judgement] = []
    for place, record in records:
        named = renamed(record, reading.fields)
        there = [kind for kind in kinds_of(named) if kind in kinds or (kind == "ranking" and _of_two(named, kinds))]
        if not there:
            raise TrineError(
                f"{place}: the record has the fields {', '.join(map(str, record)):.120}, of which none is a "
                f"{' or a '.join(kinds)}; name yours by fields, such as --fields {_example(kinds)}"
            )
        for kind in there:
            found += judgements_in(named, kind, reading, place)
    return found


def _of_two(record: Mapping[str, Any], kinds: Collection[JudgementKind]) -> bool:
    """Whether a ranking is a pair, which is asked for."""
    return "pair" in kinds and any(len(record.get(name) or ()) == 2 for name in ANSWERS)


def _example(kinds: Collection[JudgementKind]) -> str:
    named = {"label": "label=sentiment", "score": "score=rating", "pair": "chosen=better rejected=worse"}
    return named.get(next(iter(kinds)), "answers=candidates ranks=places")


def common_form(records: Places, fields: Mapping[str, str] | None = None) -> Form:
    """The form that all records can be read as, chat where both can be. Raises `TrineError` where neither can."""
    seen: dict[Form, str] = {}
    for place, record in records:
        form = form_of(renamed(record, fields or {}))
        if form is not None:
            seen.setdefault(form, place)
    if len(seen) == 2:
        raise TrineError(
            f"{seen['chat']} is a conversation, and {seen['text']} a text without a prompt: one model reads one form. "
            "Train two, or give the text a prompt"
        )
    return "text" if "text" in seen else "chat"


def group_of(judgement: Judgement) -> str:
    """What keeps a judgement with others, on one side of the split: its group, else its prompt, else its texts."""
    texts = "\0".join(sorted(answer.response for answer in judgement.answers))
    return judgement.group or asked_of(judgement) or texts


def asked_of(judgement: Judgement) -> str:
    """The prompt as one text; empty where there is none."""
    return judgement.answers[0].query or "\0".join(message.content for message in judgement.prompt)


def divided(judgements: Sequence[Judgement], share: float) -> tuple[list[Judgement], list[Judgement]]:
    """(to train on, held out): a share of the groups, by a hash of their names, as a corpus is divided."""
    parts: tuple[list[Judgement], list[Judgement]] = ([], [])
    for judgement in judgements:
        parts[is_held_out(group_of(judgement), share)].append(judgement)
    return parts


def counted(judgements: Iterable[Judgement]) -> dict[JudgementKind, int]:
    """How many there are of each kind, in the order of `KINDS`."""
    counts = Counter(judgement.kind for judgement in judgements)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Write a line for each, which `read_judgements` gives back as it was."""
    write_jsonl(path, [judgement_row(judgement) for judgement in judgements])


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """A `Judgement` as a record."""
    first = judgement.answers[0]
    asked = [asdict(message) for message in judgement.prompt]
    row: dict[str, Any] = dict(first.columns) | ({"prompt": asked} if first.query is None else {"query": first.query})
    row["answers"] = [
        {"response": answer.response} | ({} if answer.ended else {"ended": False}) for answer in judgement.answers
    ]
    for name in ("label", "score", "ranking", "probability"):
        value = getattr(judgement, name)
        if value is not None:
            row[name] = [list(group) for group in value] if name == "ranking" else value
    defaults = {"judge": "", "weight": 1.0, "margin": 0.0, "name": "", "group": ""}
    return row | {key: getattr(judgement, key) for key, value in defaults.items() if getattr(judgement, key) != value}
