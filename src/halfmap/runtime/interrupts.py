"""What Ctrl-C does: the first one stops a command in order, the second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


@contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """Within the block the first SIGINT raises KeyboardInterrupt, and the second one ends the process there and then.

    The second may come while the first is still being dealt with, also after the block: files that were being written
    then stay under their temporary names. Does nothing outside the main thread, or where SIGINT is ignored.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if sys.stdout.isatty():
            os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if not came:
            signal.signal(signal.SIGINT, before)
