"""`trine ppo --show N`: samples of the first iteration, followed through the first update and printed.

It is the run itself, stopped after the second row of its log: the same prompts, seeds, weights and learning rates. It
runs in a temporary folder; nothing is left.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from trine.catalog.loading import open_hardware
from trine.config.rl import PpoConfig
from trine.runtime.launch import one_process_only
from trine.runtime.seeds import seed_torch
from trine.stages.rl.followed import Done, FollowedSample, FollowedToken, sums
from trine.training.run_folder import SilentRunFolder
from trine.training.stage_run import StageRun

HEADING, QUIET, CLIPPED, FOOT = "bold", "dim", "yellow", "bold green"
BEFORE = ("token", "id", "log π old", "log π ref", "KL", "reward", "value", "advantage", "return", "ratio", "clipped")
AFTER = ("token", "id", "log π", "KL", "ratio", "clipped", "policy loss", "value", "value loss")
LOGGED = (
    "score", "kl", "kl_coefficient", "length", "ended_share", "explained_variance", "policy", "value", "ratio",
    "clip_fraction", "approximate_kl", "entropy", "loss", "learning_rate",
)  # fmt: skip
LEGEND = (
    "KL: log π - log π ref. reward: the score, after penalties and scaling, on the last token; on each, less KL times\n"
    "kl_coefficient, unless KL is in the loss. return: value + advantage before that is whitened over all responses.\n"
    "ratio: exp(log π - log π old)."
)
TOKEN_WIDTH = 24
Line = tuple[str, ...]
Train = Callable[[PpoConfig, StageRun, Done], Any]
"""A stage's work, which gives the followed samples to its last argument."""


class Enough(BaseException):
    """All that is shown is there. No error: nothing on its way may handle it."""


class ShownRun(SilentRunFolder):
    """A run folder that keeps the rows of the first `updates` updates and the followed samples, and ends the run."""

    def __init__(self, path: Path, updates: int) -> None:
        super().__init__(path)
        self.updates = updates
        self.logged: list[dict[str, Any]] = []
        self.followed: Sequence[FollowedSample] = ()

    def log(self, row: dict[str, Any]) -> None:
        self.logged = [*self.logged, row][: self.updates]
        self._check()

    def take(self, samples: Sequence[FollowedSample]) -> None:
        self.followed = samples
        self._check()

    def _check(self) -> None:
        if self.followed and len(self.logged) == self.updates:
            raise Enough


def show(config: PpoConfig, train: Train) -> Path:
    """Print `config.show` samples before training and after one update; returns `config.out`, which is not touched."""
    shown = first_update(config, train)
    print_samples(shown.followed, shown.logged)
    return config.out


def first_update(config: PpoConfig, train: Train) -> ShownRun:
    """The beginning of a run: its followed samples, and the rows of its log that they are part of."""
    one_process_only("ppo --show")
    hardware = open_hardware(config.hardware)
    updates = min(2, config.steps_per_iteration)
    with tempfile.TemporaryDirectory(prefix="trine-show-") as folder:
        run = ShownRun(Path(folder), updates)
        seed_torch(config.seed)
        with suppress(Enough):
            train(config, StageRun(hardware, run), run.take)
    return run


def print_samples(samples: Sequence[FollowedSample], logged: Sequence[dict[str, Any]]) -> None:
    """Print samples on standard output, and below them what the log has; in colour in a terminal, plain elsewhere."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)
    for number, sample in enumerate(samples, 1):
        for line in sample_lines(sample, f"sample {number} of {len(samples)}"):
            console.print(line)
    for line in logged_lines(logged):
        console.print(line)


def sample_lines(sample: FollowedSample, title: str) -> Iterator[Text]:
    """One sample: its texts, then a row for each token, before and after the update."""
    yield Text(title, style=HEADING)
    yield from _story(sample)
    yield Text("\nbefore training", style=HEADING)
    yield Text(LEGEND, style=QUIET)
    yield from _table(BEFORE, [_before(token) for token in sample.before], _before_foot(sample.before), sample.before)
    yield Text("\nafter one update", style=HEADING)
    yield from _table(AFTER, [_after(token) for token in sample.after], _after_foot(sample.after), sample.after)
    yield Text("")


def logged_lines(logged: Sequence[dict[str, Any]]) -> Iterator[Text]:
    """The log's rows, side by side."""
    yield Text("what the log has: of all responses, and of the tokens of each update's minibatch", style=HEADING)
    rows = [
        (name, *(_number(row[name]) if name in row else "" for row in logged))
        for name in LOGGED
        if any(name in row for row in logged)
    ]
    yield from _table(("", *(f"update {number + 1}" for number in range(len(logged)))), rows, None)


def _story(sample: FollowedSample) -> Iterator[Text]:
    ended = {"eos": "ended by the end token", "stop": "ended by a stop", "length": "cut at max_new_tokens"}
    for name, text in (
        ("query", visible(sample.query)),
        (f"{len(sample.query_ids)} ids", " ".join(map(str, sample.query_ids))),
        ("response", visible(sample.response)),
        (f"{len(sample.response_ids)} ids", f"{' '.join(map(str, sample.response_ids))} ({ended[sample.stop]})"),
        ("score", _number(sample.score)),
    ):
        yield Text.assemble((f"{name:<10}", QUIET), text)


def _before(token: FollowedToken) -> Line:
    numbers = (
        token.old_log_prob, token.reference_log_prob, token.kl, token.reward, token.value, token.advantage,
        token.returned, token.ratio,
    )  # fmt: skip
    return (_cell(token.text), str(token.token_id), *map(_number, numbers), _yes(token.clipped))


def _before_foot(tokens: Sequence[FollowedToken]) -> Line:
    found = sums(tokens)
    ends = _number(found["kl"]), _number(found["reward"]), "", "", "", _number(found["ratio"])
    return ("sum; mean of the ratio", "", "", "", *ends, _share(found["clip_fraction"]))


def _after(token: FollowedToken) -> Line:
    losses = _number(token.policy_loss), _number(token.value), _number(token.value_loss)
    moved = _number(token.log_prob), _number(token.kl), _number(token.ratio), _yes(token.clipped)
    return (_cell(token.text), str(token.token_id), *moved, *losses)


def _after_foot(tokens: Sequence[FollowedToken]) -> Line:
    found = sums(tokens)
    means = _number(found["ratio"]), _share(found["clip_fraction"]), _number(found["policy"])
    return ("sum of KL; means", "", "", _number(found["kl"]), *means, "", _number(found["value"]))


def _table(
    columns: Line, rows: Sequence[Line], foot: Line | None, tokens: Sequence[FollowedToken] = ()
) -> Iterator[Text]:
    """Aligned lines: the first column left, numbers right; rows of clipped tokens in a colour."""
    everything = [columns, *rows, *([foot] if foot else [])]
    widths = [max(cell_len(line[place]) for line in everything) for place in range(len(columns))]
    yield Text(_aligned(columns, widths), style=QUIET)
    for place, row in enumerate(rows):
        yield Text(_aligned(row, widths), style=CLIPPED if tokens and tokens[place].clipped else "")
    if foot:
        yield Text(_aligned(foot, widths), style=FOOT)


def _aligned(cells: Line, widths: Sequence[int]) -> str:
    gaps = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([cells[0] + gaps[0], *(gap + cell for gap, cell in zip(gaps[1:], cells[1:], strict=True))])


def _cell(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= TOKEN_WIDTH else shown[: TOKEN_WIDTH - 1] + "…"


def visible(text: str) -> str:
    """`text` on one line: ↵ for a line break, → for a tab, escapes for other characters that a terminal obeys."""
    shown = text.replace("\n", "↵").replace("\t", "→")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)


def _number(value: float) -> str:
    return f"{value + 0.0:.4f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"


def _yes(clipped: bool) -> str:
    return "yes" if clipped else "no"


def _share(value: float) -> str:
    return f"{value:.0%}"
