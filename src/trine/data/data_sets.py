"""Hugging Face data sets, by name on the hub or from a folder, through the `datasets` library (Lhoest et al. 2021).

A data set on the hub is read at one commit, resolved when the corpus is opened and part of the corpus's fingerprint;
for a local folder, the files are. With streaming, data is read over the network on demand; otherwise `datasets` stores
it in its cache and memory-maps it. No code of a data set is executed: `datasets` refuses that since version 4.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trine.config.corpus import SourceConfig
from trine.data.account import Tally
from trine.data.readers import named_fields, record_document
from trine.data.record_files import RecordForm, columns_of
from trine.data.units import Unit
from trine.records import Document
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of

_COMMIT = re.compile("[0-9a-f]{40}")


def data_set_units(source: SourceConfig) -> Iterator[Unit]:
    """The single unit of a data set."""
    _datasets()
    name = source.dataset or ""
    folder = Path(name)
    files: tuple[Path, ...] = ()
    commit = ""
    if folder.is_dir():
        files = tuple(sorted(path for path in folder.rglob("*") if path.is_file()))
    else:
        commit = _commit(name, source.revision)
    identity = sha256_of(name if commit else "", source.configuration or "", source.split, commit)
    names = "\n".join(path.relative_to(folder).as_posix() for path in files)
    yield Unit(name, partial(_documents, source, commit), files, sha256_of(identity, names))


def data_set_commit(name: str) -> str:
    """The commit that owner/name or owner/name@revision on the hub stands for now."""
    try:
        _datasets()
    except TrineError:
        raise TrineError(
            f"{name} is no file here; to read the data set of this name on the hub: pip install 'trine[hub]'"
        ) from None
    base, _, revision = name.partition("@")
    return _commit(base, revision or None)


def data_set_records(name: str, configuration: str | None, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(owner/name:number, record) of every record of a data set on the hub; `name` may be owner/name@revision."""
    base = name.partition("@")[0]
    source = SourceConfig(dataset=base, configuration=configuration, split=split)
    for number, record in enumerate(_records(source, data_set_commit(name), every_column=True), 1):
        yield f"{base}:{number}", record


def _documents(source: SourceConfig, commit: str, tally: Tally) -> Iterator[Document]:
    """A document per record, numbered from 1. Names do not contain the path of a local folder."""
    title = source.dataset if commit else Path(str(source.dataset)).resolve().name
    for number, record in enumerate(_records(source, commit), 1):
        name = f"{title}:{number}"
        document = record_document(record, name, name, source, "data set", tally)
        if document:
            yield document


def _records(source: SourceConfig, commit: str, *, every_column: bool = False) -> Iterator[dict[str, Any]]:
    try:
        data_set = _opened(source, commit)
        if data_set.column_names and not every_column:
            fields = named_fields(source)
            columns = columns_of(RecordForm(tuple(fields), fields), data_set.column_names, f"data set {source.dataset}")
            data_set = data_set.select_columns(columns)
        yield from data_set
    except TrineError:
        raise
    except Exception as error:  # from the network, a parser of any format, or `datasets` itself
        raise TrineError(f"data set {source.dataset} cannot be read: {type(error).__name__}: {error}") from error


def _opened(source: SourceConfig, commit: str) -> Any:
    datasets = _datasets()
    name = str(source.dataset)
    if any((Path(name) / file).exists() for file in ("dataset_dict.json", "state.json")):
        saved = datasets.load_from_disk(name)
        return saved[source.split] if isinstance(saved, dict) else saved
    return datasets.load_dataset(
        name, source.configuration, split=source.split, revision=commit or None, streaming=source.streaming
    )


def _commit(name: str, revision: str | None) -> str:
    """The commit that `revision` refers to now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if revision and _COMMIT.fullmatch(revision):
        return revision
    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except HFValidationError as error:
        reason = f"is neither a folder here nor a name the hub could have: {error}"
    except RevisionNotFoundError:
        reason = f"has no revision {revision!r}"
    except RepositoryNotFoundError:
        reason = "is no folder here, and the hub has no such data set (if it is private: `hf auth login`)"
    except OSError as error:
        reason = f"cannot be looked up on the hub ({error}); connect to the network, or give a commit as revision"
    raise TrineError(f"data set {name} {reason}")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise TrineError("a source with `dataset` needs datasets: pip install 'trine[hub]'") from None
    return datasets
