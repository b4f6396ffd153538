"""Who hears what a command says: the terminal, or a program that runs the command and listens.

Everything that a command prints goes through `console`, `say` or a `Progress`, which ask here where to. The audience
belongs to the thread that runs the command, so that two may run beside each other, each with its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TextIO

from halfmap.finding import Finding
from halfmap.runtime import heartbeat

NOTE = "note: "  # begins a line that a reader should heed


@dataclass(frozen=True)
class ProgressUpdate:
    """How far a command is.

    stage: what it does ("global", "final", "reading images"); iteration: from 1, None outside of iterations; fraction:
    of this stage or iteration that is done, 0 to 1; seconds_left: of this stage or iteration, as its pace says so far,
    None before it has one; resolution: FSC 0.143 of the latest iteration in A, None before there is one.
    """

    stage: str
    iteration: int | None
    fraction: float
    seconds_left: float | None
    resolution: float | None


Listener = Callable[[ProgressUpdate], object]


@dataclass(frozen=True)
class Audience:
    """Who hears a command.

    stream: where its words go; None: standard output. listener: called with its progress. findings: those that it tells
    are added here.
    """

    stream: TextIO | None = None
    listener: Listener | None = None
    findings: list[Finding] = field(default_factory=list)


_AUDIENCE: ContextVar[Audience | None] = ContextVar("audience", default=None)


@contextmanager
def heard_by(audience: Audience) -> Iterator[None]:
    """Within the block commands of this thread are heard by this audience."""
    token = _AUDIENCE.set(audience)
    try:
        yield
    finally:
        _AUDIENCE.reset(token)


def stream() -> TextIO | None:
    """Where words go; None: to standard output."""
    audience = _AUDIENCE.get()
    return None if audience is None else audience.stream


def console() -> Any:
    """A rich Console that prints there, and colours nothing by itself."""
    from rich.console import Console

    return Console(highlight=False, file=stream())


def say(text: object) -> None:
    """Print a line there."""
    print(text, file=stream(), flush=True)


def tell_findings(*findings: Finding) -> None:
    """Hand these findings to a program that listens; it gets each once. Printing them is for the caller."""
    audience = _AUDIENCE.get()
    if audience is not None:
        audience.findings.extend(one for one in findings if one not in audience.findings)


def tell_remarks(about: str, sentences: Iterable[str]) -> None:
    """The same for sentences that have no other name than their words. about: the part of the results concerned."""
    tell_findings(*(Finding(text, text, about, "note") for text in sentences))


def say_lines(lines: Iterable[str], about: str) -> None:
    """Print lines there as they are. Those that begin with "note: " are findings too; about: as in `tell_remarks`."""
    from rich.markup import escape

    told = console()
    for line in lines:
        told.print(escape(line), soft_wrap=True)
        if line.startswith(NOTE):
            tell_remarks(about, [line.removeprefix(NOTE)])


class Pace:
    """Counts what is done of a stage, and tells the listener, if there is one, and the heartbeat of this process.

    total: of the things counted; done: of them before the stage began here.
    """

    def __init__(
        self, stage: str, total: int, iteration: int | None = None, resolution: float | None = None, done: int = 0
    ) -> None:
        audience = _AUDIENCE.get()
        self._listener = None if audience is None else audience.listener
        self._stage, self._iteration, self._resolution = stage, iteration, resolution
        self._total, self._before, self._done = max(total, 1), done, done
        self._began = time.monotonic()
        heartbeat.begin(stage if iteration is None else f"iteration {iteration}, {stage}", total, done)
        self._tell()

    def advance(self, count: int = 1) -> None:
        """Count more as done."""
        self._done += count
        heartbeat.advance(count)
        self._tell()

    def finish(self, resolution: float | None) -> None:
        """All is done, to this resolution (A)."""
        self._done, self._resolution = self._total, resolution
        self._tell()

    def _tell(self) -> None:
        if self._listener is None:
            return
        done = min(self._done, self._total)
        here, elapsed = done - self._before, time.monotonic() - self._began
        left = elapsed / here * (self._total - done) if here > 0 else None
        self._listener(ProgressUpdate(self._stage, self._iteration, done / self._total, left, self._resolution))
