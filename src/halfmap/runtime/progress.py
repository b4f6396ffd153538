"""Progress of a run on the terminal: a bar during an iteration and a line of a table after it; in a file only the
lines."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from halfmap.runtime import terminal

# Head and width of each column of the table.
COLUMNS = (
    ("iter", 5),
    ("search", 8),
    ("band A", 8),
    ("0.143 A", 8),
    ("0.5 A", 8),
    ("angle deg", 10),
    ("Pmax", 7),
    ("seconds", 9),
)
REPEAT_HEADER = 20  # lines of the table until its heads are printed again


class Progress:
    """Shows a running refinement. Use it as a context manager.

    On a terminal: a bar with iteration, search stage, band, particles done, time left and the resolution so far. When
    the iteration ends, a line of a table takes its place. Elsewhere (a log file, a pipe, TERM=dumb): only the lines of
    the table, without control characters.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or terminal.stream() or sys.stdout
        self._pace: terminal.Pace | None = None
        self._live: Any = _rich_progress(self._stream) if _is_terminal(self._stream) else None
        self._task: Any = None
        self._lines = 0

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        if self._live is not None:
            self._live.stop()

    def start_iteration(
        self,
        number: int,
        stage: str,
        total_particles: int,
        resolution: float | None,
        band: float | None = None,
        done: int = 0,
    ) -> None:
        """Begin a bar.

        resolution: FSC 0.143 of the previous iteration, band: alignment limit, both in A. done: particles that were
        done before the run was stopped.
        """
        self._clear()
        reached_before = resolution if _finite(resolution) else None
        self._pace = terminal.Pace(stage, total_particles, number or None, reached_before, done)
        if self._live is None:
            return
        reach = f" to {band:.1f} Å" if _finite(band) else ""
        reached = f"{resolution:.2f} Å" if _finite(resolution) else ""
        title = f"[bold]iteration {number}[/] {stage}{reach}"
        self._task = self._live.add_task(title, total=total_particles, completed=done, reached=reached)

    def advance(self, count: int = 1) -> None:
        """Count more particles as done. May be called from any thread."""
        if self._task is not None:
            self._live.advance(self._task, count)
        if self._pace is not None:
            self._pace.advance(count)

    def finish_iteration(self, record: Mapping[str, Any]) -> None:
        """End the bar and print the iteration's line of the table, with the column heads above every twentieth line."""
        self._clear()
        if self._lines % REPEAT_HEADER == 0:
            self._print("".join(name.rjust(width) for name, width in COLUMNS), "dim")
        self._lines += 1
        self._print(_record_line(record))
        pace, self._pace = self._pace, None
        if pace is not None:
            reached: Any = record.get("resolution_A")
            pace.finish(float(reached) if _finite(reached) else None)

    def notice(self, text: str) -> None:
        """Print a message above the bar."""
        self._print(text)

    def warning(self, text: str) -> None:
        """Print a message that must be seen."""
        self._print(f"WARNING: {text}", "bold yellow")

    def _clear(self) -> None:
        if self._task is not None:
            self._live.remove_task(self._task)
            self._task = None

    def _print(self, text: str, style: str = "") -> None:
        if self._live is None:
            print(text, file=self._stream, flush=True)
        else:
            from rich.text import Text

            # A Text is printed as it is, so that brackets in a file name are no markup, and keeps the bar's style.
            self._live.console.print(Text(text, style=style), soft_wrap=True)


@contextmanager
def counted(title: str, total: int, stream: TextIO | None = None) -> Iterator[Callable[[int], None]]:
    """A bar with a title while the block lasts, on a terminal only. Gives what counts further things, of ``total``."""
    stream = stream or terminal.stream() or sys.stdout
    pace = terminal.Pace(title, total)
    if not _is_terminal(stream):
        yield pace.advance
        return
    with _rich_progress(stream) as live:
        task = live.add_task(title, total=total, reached="")

        def advance(count: int) -> None:
            live.advance(task, count)
            pace.advance(count)

        yield advance


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "")


def _rich_progress(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("[cyan]{task.fields[reached]}"),
        console=Console(file=stream),
        transient=True,
        expand=True,
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _record_line(record: Mapping[str, Any]) -> str:
    """One line of the table for an iteration record."""
    times = record.get("seconds")
    total = times.get("total") if isinstance(times, Mapping) else None
    angle = record.get("angle_change_deg")
    cells = (
        str(record.get("iteration", "-")),
        str(record.get("search") or "-"),
        _cell(record.get("band_A"), 2),
        _cell(record.get("resolution_A"), 2),
        _cell(record.get("resolution_05_A"), 2),
        _cell(angle, 4 if isinstance(angle, int | float) and angle < 0.1 else 2),
        _cell(record.get("max_posterior"), 3),
        _cell(total, 1),
    )
    return "".join(text.rjust(width) for text, (_, width) in zip(cells, COLUMNS, strict=True))


def _cell(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if _finite(value) else "-"
