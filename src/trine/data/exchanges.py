"""What a model is asked: the prompts of PPO and of evaluation, and the answers that people gave, from any file of
records.

A conversation comes in the forms of fine-tuning (`conversations.py`), but the answer may be missing: {"prompt": ...},
{"messages": [...]}, {"question": ...}. Where the last message is the assistant's, it is the answer, and what stands
before it the prompt. A text to go on with is the first of `TEXT_FIELDS` that a record has, or a file in a folder named
by its label, as aclImdb has them. Sources are files of records (compressed or not) and folders of such files;
`catalog/exchanges.py` adds names of data sets on the Hugging Face hub.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from trine.data.class_folders import class_folder_records, is_class_folder
from trine.data.conversations import FORMS, REFUSED, Form, turns_of
from trine.data.files import read_records
from trine.data.record_files import is_record_file
from trine.records import Example
from trine.runtime.errors import TrineError
from trine.runtime.json_values import is_unicode

TEXT_FIELDS = ("query", "prompt", "text", "sentence", "review")
EXCHANGE_FIELDS = tuple(dict.fromkeys(name for form in FORMS for name in form.fields))
_OWN = ("name", "group")

Record = Mapping[str, Any]


def read_examples(path: Path, *, answered: bool = True) -> list[Example]:
    """The conversations of a file or of the files of a folder, each up to its last answer, with that."""
    return exchanges_of(exchange_records(path, EXCHANGE_FIELDS), answered=answered)


def exchanges_of(records: Iterable[tuple[str, Record]], *, answered: bool) -> list[Example]:
    """Conversations up to an answer, with it; where not `answered`, it may be missing. Other fields become `columns`.

    >>> exchanges_of([("a.jsonl:1", {"question": "2 + 2?", "answer": "4"})], answered=True)[0].response
    '4'

    `records` are pairs of place and record. Raises `TrineError` naming place and field of the first that cannot be
    read.
    """
    return [_exchange(record, place, answered) for place, record in records]


def texts_of(records: Iterable[tuple[str, Record]]) -> list[Example]:
    """Texts to go on with, as `response`; their `prompt` is empty, and the other fields are `columns`.

    >>> texts_of([("a.jsonl:1", {"text": "A fine film.", "label": "pos"})])[0].response
    'A fine film.'
    """
    return [_text_example(record, place) for place, record in records]


def exchange_records(source: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of a file, of the files of a folder, or of folders named by labels, in the order of names."""
    source = Path(source)
    if is_class_folder(source):
        return class_folder_records(source)
    files = [source]
    if source.is_dir():
        files = sorted(each for each in source.rglob("*") if each.is_file() and is_record_file(each.name))
        if not files:
            raise TrineError(f"{source} holds no files of records (.jsonl, .json, .csv, .tsv, .parquet)")
    return chain.from_iterable(read_records(file, fields) for file in files)


def _exchange(record: Record, place: str, answered: bool) -> Example:
    form = _form_of(record, place, answered)
    missing = [name for name in form.fields if record.get(name) is None]
    messages = turns_of(form, {**record, **dict.fromkeys(missing, "")}, place)
    response = messages.pop().content if messages and messages[-1].role == "assistant" else None
    if answered and (missing or response is None):
        raise TrineError(f"{place}: field {form.fields[-1]!r} must be a string, found None: an answer is needed here")
    if not messages:
        raise TrineError(f"{place}: field {form.fields[0]!r} asks nothing: there is no message before the answer")
    columns = {key: value for key, value in record.items() if key not in (form.fields[0], "response", *_OWN)}
    return Example(tuple(messages), response or "", *_name_and_group(record, place), columns)


def _form_of(record: Record, place: str, answered: bool) -> Form:
    """The form that a record is of, whole, or but for its answer."""
    why = next((why for fields, why in REFUSED if all(name in record for name in fields)), None)
    if why and answered:
        raise TrineError(f"{place}: the record is {why}")
    form = next((form for whole in (True, False) for form in FORMS if _fits(form, record, whole)), None)
    if form is not None:
        return form
    missing = next((form.fields[0] for form in FORMS if form.begun(record)), None)
    if missing:
        raise TrineError(f"{place}: field {missing!r} must be a string or a list of messages, found None")
    known = "; ".join(f"{{{', '.join(form.fields)}}}" for form in FORMS if form.fields != ("text",))
    raise TrineError(
        f"{place}: the record has the fields {', '.join(record):.200}, which are of no form that is known: {known}"
    )


def _fits(form: Form, record: Record, whole: bool) -> bool:
    """Whether a record is of a form; unless `whole`, its answer may be missing."""
    needed = form.fields if whole else form.fields[:-1] or form.fields
    present = all(record.get(name) is not None for name in needed)
    return form.fields != ("text",) and present and not any(name in record for name in form.without)


def _text_example(record: Record, place: str) -> Example:
    field = next((name for name in TEXT_FIELDS if isinstance(record.get(name), str)), None)
    if field is None:
        raise TrineError(
            f"{place}: no text to go on with: give a string as {', '.join(TEXT_FIELDS[:-1])} or {TEXT_FIELDS[-1]}; the "
            f"record has the fields {', '.join(record) or 'none'}"
        )
    text = str(record[field])
    if not is_unicode(text):
        raise TrineError(f"{place}: field {field!r} is not UTF-8, or has half of a surrogate pair")
    columns = {key: value for key, value in record.items() if key not in (field, *_OWN)}
    return Example((), text, *_name_and_group(record, place), columns)


def _name_and_group(record: Record, place: str) -> tuple[str, str]:
    return str(record.get("name", place)), str(record.get("group", place))
