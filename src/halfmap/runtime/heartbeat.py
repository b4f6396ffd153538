"""What a command at work says of itself: who it is, what it is doing, how far that is, and that it is alive.

All of it stands in the command's lock file, which is there anyway and goes away with the work. A thread of its own
writes it anew every `EVERY` seconds; whoever counts only adds to a number. `halfmap watch` reads it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

EVERY = 10.0  # seconds
LENGTH = 1000  # bytes: always as many, so that the file never ends in what was longer before
MOST = 10**15  # of anything that is counted, seconds among them
LONGEST_NAME = 300  # bytes that say who it is


@dataclass(frozen=True)
class Work:
    """Something that is counted while it is done.

    title: in words; done of total: things; before: those of them that were done already when it began; began: seconds
    since 1970.
    """

    title: str = ""
    done: int = 0
    total: int = 0
    before: int = 0
    began: float = 0.0


class Heartbeat:
    """Writes to a file that is open for reading and writing, from its beginning. Use it as a context manager.

    who: the command, its process and its machine. Faults of the file system are passed over: the work goes on.
    """

    def __init__(self, file: int, who: str) -> None:
        # A file of its own: were it another's, and closed under a beat, that could go to whatever is opened next.
        self._file, self._who = os.dup(file), who.encode()[:LONGEST_NAME].decode(errors="ignore")
        self._work, self._counting, self._over = Work(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        global _current
        self.write()
        try:
            self._thread.start()
        except BaseException:  # an interrupt may come before or after it has begun
            self._over.set()
            if not self._thread.is_alive():
                os.close(self._file)
            raise
        _current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = None
        self._over.set()
        self._thread.join()

    def begin(self, work: Work) -> None:
        """What is done from now on."""
        with self._counting:
            self._work = work
        self.write()

    def advance(self, count: int) -> None:
        """Count more things as done. May be called from any thread."""
        with self._counting:
            now = self._work
            self._work = Work(now.title, now.done + count, now.total, now.before, now.began)

    def write(self) -> None:
        """Write how far it is, in the place of what stood there."""
        work = self._work
        told = {"title": work.title[:200], "done": work.done, "total": work.total, "before": work.before,
                "began": int(work.began)}
        text = f"{self._who}\n{json.dumps(told)}"
        with suppress(OSError):
            os.pwrite(self._file, text.encode().ljust(LENGTH)[:LENGTH], 0)

    def _beat(self) -> None:
        while not self._over.wait(EVERY):
            self.write()
        os.close(self._file)


_current: Heartbeat | None = None  # of the command of this process; a process works in one folder at a time


def begin(title: str, total: int, done: int = 0) -> None:
    """Tell the heartbeat of this process, where it has one, what is done from now on. done: before this began."""
    if _current is not None:
        _current.begin(Work(title, done, total, done, time.time()))


def advance(count: int) -> None:
    """Count more things as done. May be called from any thread."""
    if _current is not None:
        _current.advance(count)


@dataclass(frozen=True)
class Told:
    """What a lock file says. who: as it was given; command, process and host: the parts of it, where they are there."""

    who: str
    work: Work
    command: str = ""
    process: int | None = None
    host: str = ""


def told(content: bytes) -> Told:
    """Read the content of a lock file. What is missing or damaged is empty."""
    first, _, second = content[:LENGTH].decode(errors="replace").partition("\n")
    who = first.strip() if first.strip().isprintable() else ""
    command, _, rest = who.rpartition(", process ")
    number, _, host = rest.partition(" on ")
    return Told(who, _work(second), command, int(number) if number.isdecimal() else None, host)


def _work(text: str) -> Work:
    try:
        read: Any = json.loads(text)
        counts = [int(read[name]) for name in ("done", "total", "before", "began")]
        if not all(0 <= one < MOST for one in counts):
            return Work()
        return Work(str(read["title"]), *counts)
    except (ValueError, KeyError, TypeError, OverflowError):
        return Work()
