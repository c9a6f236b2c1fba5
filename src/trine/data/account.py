"""The account of a corpus: what became of every file and every record that was seen.

A `Tally` counts while a source is read; `Account` is the whole, printed by the stage that reads, kept with the shards
and the run, and shown in the report. Its sums are what was seen:

    files    = read + passed over
    records  = kept + left out (by a filter, or for another reason) + broken
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trine.data.filters import KEPT, FilterCounts
from trine.runtime.errors import TrineError

MAX_LISTED = 1000
SHOWN = 8
SHOWN_PLACES = 3


@dataclass
class Tally:
    """The records of a source: `seen`, of these `broken`, of which a thousand are `listed`, and `left_out`, by reason.

    Not counted here: what the filters say of the others (`FilterCounts`). With `strict` a broken record is an error.
    """

    seen: int = 0
    broken: int = 0
    listed: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    strict: bool = False

    def report(self, place: str, reason: str) -> None:
        """Count a record that cannot be read."""
        if self.strict:
            raise TrineError(
                f"{place}: {reason} (or set corpus.max_broken_share, such as 0.01, to leave out and count records that "
                "cannot be read)"
            )
        self.broken += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(f"{place}: {reason}")

    def leave_out(self, reason: str) -> None:
        """Count a record that can be read and is not taken."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def merge(self, other: "Tally") -> None:
        """Add the counts of a later part of the source."""
        self.seen += other.seen
        self.broken += other.broken
        self.listed += other.listed[: MAX_LISTED - len(self.listed)]
        for reason, records in other.left_out.items():
            self.left_out[reason] = self.left_out.get(reason, 0) + records

    def check(self, source: str, max_share: float) -> None:
        """Raise when more than `max_share` of the records were broken."""
        if self.seen and self.broken / self.seen > max_share:
            first = "; ".join(self.listed[:5])
            raise TrineError(
                f"{source}: {self.broken} of {self.seen} records cannot be read ({first}); "
                f"more than {max_share:.0%} is refused: repair the files or raise corpus.max_broken_share"
            )


@dataclass(frozen=True)
class Files:
    """What was found where a source was looked for: `seen` files and folders not entered, `passed_over` by reason."""

    seen: int = 0
    read: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Files") -> "Files":
        passed_over = Counter(self.passed_over) + Counter(other.passed_over)
        return Files(self.seen + other.seen, self.read + other.read, dict(passed_over))

    @property
    def words(self) -> str:
        """`passed over: 40 .rst, 1 linked folder`, or nothing."""
        return f"passed over: {_listed(self.passed_over)}" if self.passed_over else ""


@dataclass(frozen=True)
class Account:
    """All sources of a corpus together. `places`: of the first broken records."""

    files: Files
    records: int
    kept: int
    left_out: Mapping[str, int]
    broken: int
    places: tuple[str, ...] = ()

    @classmethod
    def of(cls, files: Files, tallies: Iterable[Tally], counts: FilterCounts) -> "Account":
        """What the readers and the filters counted."""
        tallies = list(tallies)
        left_out = sum((Counter(tally.left_out) for tally in tallies), Counter[str]())
        for outcomes in counts.sources.values():
            left_out.update({outcome: amount.documents for outcome, amount in outcomes.items() if outcome != KEPT})
        places = [place for tally in tallies for place in tally.listed]
        return cls(
            files, sum(tally.seen for tally in tallies), counts.amount(KEPT).documents,
            {reason: number for reason, number in left_out.items() if number},
            sum(tally.broken for tally in tallies), tuple(places[:SHOWN]),
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Account":
        """The account that `as_json` gave."""
        return cls(**values | {"files": Files(**values["files"]), "places": tuple(values["places"])})

    @property
    def words(self) -> str:
        """`1000 records: 990 kept, 8 empty, 2 broken (a.jsonl:3: ...)`."""
        counted = {"kept": self.kept, **{reason.replace("_", " "): number for reason, number in self.left_out.items()}}
        parts = ", ".join(f"{number} {reason}" for reason, number in counted.items() if number or reason == "kept")
        more = "; ..." if self.broken > SHOWN_PLACES else ""
        broken = f", {self.broken} broken ({'; '.join(self.places[:SHOWN_PLACES])}{more})" if self.broken else ""
        return f"{self.records} records: {parts}{broken}"


def _listed(numbers: Mapping[str, int]) -> str:
    """The largest numbers first; `.rst` stays as it is, and words have an s where there are several."""
    largest = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{number} {reason if number == 1 else plural(reason)}" for reason, number in largest[:SHOWN]]
    rest = sum(number for _, number in largest[SHOWN:])
    return ", ".join(shown + ([f"{rest} others"] if rest else []))


def plural(reason: str) -> str:
    """`linked folders (...)` of `linked folder (...)`; a suffix has no plural."""
    first, bracket, rest = reason.partition(" (")
    several = f"{first}s" if first.endswith(("folder", "file", "link", "environment", "pipe")) else first
    return several + bracket + rest
