"""What the terminal shows while something runs: a bar with the time left, and nothing when it is not a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trine.runtime.signals import stop_request

console = Console(stderr=True, highlight=False)


class Bar:
    """One task's progress; `advance` and `note` are cheap and safe when nothing is shown."""

    def __init__(self, progress: Progress | None, task: int | None) -> None:
        self._progress = progress
        self._task = task

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Show that `amount` more is done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount, note=note)  # type: ignore[arg-type]

    def advance_or_stop(self, amount: int = 1) -> None:
        """`advance`, where work may be dropped between two units: raises `Interrupted` once a signal has come."""
        self.advance(amount)
        stop_request.check()


@contextmanager
def progress_bar(name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
    """A bar of `total` units (None: nobody knows how many), `done` of them finished before."""
    if not console.is_terminal:
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
    """One line for a person, on standard error so that results on standard output stay clean."""
    console.print(text, style=style, soft_wrap=True, markup=False)
