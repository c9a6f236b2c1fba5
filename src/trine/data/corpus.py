"""A corpus: documents of all its sources, split into a training and a held-out part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from trine.config.base import CorpusConfig
from trine.data.sources import (
    Damage,
    corpus_fingerprint,
    distribution_documents,
    folder_documents,
    is_held_out,
    standard_library_documents,
)
from trine.records import Document
from trine.runtime.errors import TrineError


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and documents never trained on. `broken` lists records that could not be read."""

    train: list[Document]
    held_out: list[Document]
    broken: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        return corpus_fingerprint(self.train + self.held_out)

    @property
    def description(self) -> str:
        sizes = [sum(len(document.text) for document in part) / 1e6 for part in (self.train, self.held_out)]
        return (
            f"{len(self.train)} documents, {sizes[0]:.1f} MB to train on; {len(self.held_out)}, {sizes[1]:.1f} MB "
            f"held out; fingerprint {self.fingerprint[:16]}"
        )

    def held_out_parts(self) -> dict[str, list[Document]]:
        """The held-out documents under the names a report uses: standard library, packages, folders."""
        parts: dict[str, list[Document]] = {}
        for document in self.held_out:
            name = {"python": "standard_library", "folder": "folders"}.get(document.source, "packages")
            parts.setdefault(name, []).append(document)
        return parts


def load_corpus(config: CorpusConfig) -> Corpus:
    """Read every source of `config`; raises `TrineError` when there is nothing to learn from."""
    documents: list[Document] = []
    broken: list[str] = []
    for name, source in _sources(config).items():
        damage = Damage()
        found = [document for document in source(damage) if document.text.strip()]
        damage.check(name, config.largest_broken_share)
        if not found:
            raise TrineError(
                f"corpus source {name} holds no text; Trine reads .py, .txt, .md and .jsonl (field 'text')"
            )
        broken += damage.broken
        share = config.distributions.get(name, 1.0)
        documents += [
            document
            for document in found
            if is_held_out(document.group, config.held_out_share) or is_held_out(document.name, share)
        ]
    if not documents:
        raise TrineError("the corpus is empty: set corpus.folders, corpus.standard_library or corpus.distributions")
    train = [document for document in documents if not is_held_out(document.group, config.held_out_share)]
    if not train:
        raise TrineError(
            f"all of the corpus ({len(documents)} documents) fell into the held-out part; "
            "give more files or lower corpus.held_out_share"
        )
    held_out = [document for document in documents if is_held_out(document.group, config.held_out_share)]
    return Corpus(train, held_out, tuple(broken))


def _sources(config: CorpusConfig) -> dict[str, Callable[[Damage], Iterator[Document]]]:
    """Every source by name, each a function that reads it."""
    sources: dict[str, Callable[[Damage], Iterator[Document]]] = {}
    for folder in config.folders:
        sources[str(folder)] = partial(folder_documents, folder)
    if config.standard_library:
        sources["standard library"] = standard_library_documents
    for name in config.distributions:
        sources[name] = partial(distribution_documents, name)
    return sources
