"""Signs of life: how each process of a job learns that another is gone, or that the job is to end.

A thread of each process counts up in the store that all share. The first process looks at the counts of all others, and
they at its own. A count that stands still for LOST seconds is that of a process that is gone.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

BEAT = 5.0  # seconds between two signs of life
LOST = 60.0  # a process that gives no sign of life for so many seconds counts as gone
STORE_ANSWERS = timedelta(seconds=10)  # a store that does not answer within this time counts as gone
GONE = ("another process of this job ended or cannot be reached; what it said, or the system's log (out of memory?), "
        "says why")
TOLD_TO_END = "this job was told to end (SIGTERM): another process of it failed, or its time is over"


@dataclass(frozen=True)
class Place:
    """The place of a process in its job: its number, and how many there are."""

    rank: int
    world: int


@dataclass(frozen=True)
class Watch:
    """The thread that watches over the job, and the pipe through which it hears of signals."""

    thread: threading.Thread
    stopped: threading.Event
    wake: int

    def end(self) -> None:
        """End the thread. From now on a SIGTERM does nothing: the process has come to its end, and says itself why."""
        self.stopped.set()
        os.write(self.wake, b"\0")
        self.thread.join(2 * STORE_ANSWERS.total_seconds())

    def let_go(self) -> None:
        """Give SIGTERM its usual effect again, once the job is over."""
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def watched(place: Place, store: Any, end: Callable[[str], object]) -> Watch:
    """Start the thread that watches over the job. end: ends this process, and says why."""
    stopped, (read, write) = threading.Event(), os.pipe()
    os.set_blocking(write, False)
    if threading.current_thread() is threading.main_thread():
        # Python calls a handler only between two of its instructions, which may be long after the signal. The pipe gets
        # a byte at once.
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=_watch, args=(place, store, end, read, stopped), name="job", daemon=True)
    thread.start()
    return Watch(thread, stopped, write)


def _watch(place: Place, store: Any, end: Callable[[str], object], signals: int, stopped: threading.Event) -> None:
    """Give signs of life, and end the process where another gives none or the job is told to end.

    The first process watches all others, and they watch it. signals: file descriptor from which the numbers of signals
    are read; stopped: set when the watch is to end, which a byte in `signals` lets it notice at once.
    """
    observed = range(1, place.world) if place.rank == 0 else (0,)
    seen = dict.fromkeys(observed, 0)  # signs of life so far
    silent = dict.fromkeys(observed, 0)  # how often in a row there was no new one
    while True:
        if select.select([signals], [], [], BEAT)[0] and signal.SIGTERM in os.read(signals, 64):
            end(TOLD_TO_END)
        if stopped.is_set():
            return
        try:
            store.add(f"beat {place.rank}", 1)
            beats = {other: store.add(f"beat {other}", 0) for other in observed}
        except RuntimeError:
            if not stopped.wait(1.0):
                end(GONE)
            return
        silent = {other: 0 if beats[other] != seen[other] else silent[other] + 1 for other in observed}
        seen = beats
        for other, count in silent.items():
            if count * BEAT > LOST:  # counted, not timed: the whole job may have been suspended
                end(f"process {other} of this job gave no sign of life for {LOST:.0f} s: it, its machine or the "
                    "network is down")
