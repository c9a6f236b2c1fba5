"""The prompts and answers that a name stands for: a file, a folder, or a data set on the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trine.catalog.locating import is_hub_data_set
from trine.data.data_sets import data_set_records
from trine.data.exchanges import EXCHANGE_FIELDS, TEXT_FIELDS, exchange_records, exchanges_of, texts_of
from trine.records import Example


def read_exchanges(source: Path, *, answered: bool = True) -> list[Example]:
    """Conversations up to an answer, with it (`data/exchanges.py`); where not `answered`, it may be missing."""
    return exchanges_of(records_of(source, EXCHANGE_FIELDS), answered=answered)


def read_texts(source: Path) -> list[Example]:
    """Texts to go on with, each as the `response` of an example without a prompt."""
    return texts_of(records_of(source, TEXT_FIELDS))


def records_of(source: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of all records of `source`; `fields` are those that are looked for."""
    if is_hub_data_set(source):
        return data_set_records(str(source), None, "train")
    return exchange_records(source, fields)
