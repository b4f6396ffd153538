"""Processes that this one starts on its machine, and that never outlive it.

Each has a pipe as its standard input, into which nothing is written. When the pipe closes, this process is gone, also
by kill -9, and those that it started end as by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

FOLLOWS = "HALFMAP_FOLLOWS"  # in the environment of a process that ends when its standard input does
GRACE = 10.0  # seconds for it to end after SIGTERM
NOTICED = 3.0  # seconds in which this process usually notices by itself that another failed, and ends in good order


class Company:
    """The processes that were started and have not been ended."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ending = threading.Event()

    def start(self, words: Sequence[str], environment: Mapping[str, str], lost: Callable[[int], object]) -> None:
        """Start ``halfmap`` with a command line: this very program, whatever lies in the working folder.

        lost: called in a thread, with the exit status, where it fails and this process does not end of that.
        """
        here = str(Path(__file__).parents[2])
        paths = os.pathsep.join([here, *filter(None, [environment.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "halfmap", *words], stdin=subprocess.PIPE,
            env={**environment, "PYTHONPATH": paths, FOLLOWS: "1"})
        self.processes.append(process)
        threading.Thread(target=_watch, args=(process, self.ending, lost), name="company", daemon=True).start()

    def end(self, patience: float = 0.0) -> None:
        """See to it that none is left: they may end by themselves for so many seconds, then by SIGTERM and SIGKILL."""
        self.ending.set()
        for seconds, last in ((patience, signal.SIGTERM), (GRACE, signal.SIGKILL), (GRACE, None)):
            until = time.monotonic() + seconds
            for process in self.processes:
                try:
                    process.wait(max(0.0, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    if last is not None:
                        process.send_signal(last)
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        self.processes, self.ending = [], threading.Event()


def follow() -> None:
    """In a process that was started so: end when the one that started it is gone."""
    if os.environ.pop(FOLLOWS, None):
        threading.Thread(target=_follow, name="company", daemon=True).start()


def _follow() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _watch(process: subprocess.Popen[bytes], ending: threading.Event, lost: Callable[[int], object]) -> None:
    status = process.wait()
    if status and not ending.wait(NOTICED):
        lost(status)
