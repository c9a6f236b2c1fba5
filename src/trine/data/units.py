"""What a corpus is read in: a source is a list of units, each read from its beginning and in a fixed order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trine.data.account import Files, Tally
from trine.records import Document

Read = Callable[[Tally], Iterator[Document]]


@dataclass(frozen=True)
class Unit:
    """The smallest thing that is read from its beginning: one file, or the stream of one data set.

    `read` yields its documents in a fixed order, streaming, and can be sent to another process. `files` are the files
    it reads; `identity` stands for what it reads elsewhere (a data set's commit).
    """

    name: str
    read: Read
    files: tuple[Path, ...] = ()
    identity: str = ""


@dataclass(frozen=True)
class Source:
    """Units under one name, how often an epoch goes through them, and what was found beside their files."""

    name: str
    weight: float
    units: tuple[Unit, ...]
    files: Files = field(default_factory=Files)
