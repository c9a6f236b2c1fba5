"""Progress bars with the time left, and messages; outside a terminal no bar is shown."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trine.runtime.launch import launch
from trine.runtime.signals import stop_request

console = Console(stderr=True, highlight=False)


class Bar:
    """The progress of one task; does nothing when no bar is shown."""

    def __init__(self, progress: Progress | None, task: int | None) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Report that `amount` more units are done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount, note=note)  # type: ignore[arg-type]

    def advance_or_stop(self, amount: int = 1) -> None:
        """`advance`, then raise `Interrupted` if a signal has arrived. For work that can be abandoned between units."""
        self.advance(amount)
        stop_request.check()


@contextmanager
def progress_bar(name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
    """A bar of `total` units (None: unknown), `done` of which are already finished."""
    if not console.is_terminal or launch().rank > 0:
        yield Bar(None, None)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=total, completed=done, note="")
        yield Bar(progress, task)


def say(text: str, style: str = "") -> None:
    """Print one line on standard error, so that standard output holds results only.

    In a distributed run only rank 0 prints.
    """
    if launch().rank == 0:
        console.print(text, style=style, soft_wrap=True, markup=False)
