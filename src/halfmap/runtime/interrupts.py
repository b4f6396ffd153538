"""What Ctrl-C does: the first one stops a command in good order, the second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides the cursor
# An exception leaves an import or a compilation half done, or with locks held. In finalisers of weak references Python
# drops it.
UNTOUCHED_MODULES = {"importlib", "_frozen_importlib", "llvmlite", "numba", "weakref", "_weakrefset"}
# The latter two belong to concurrent.futures: an exception there can leave a thread that was started but not listed
# yet. Such a thread is never told to end, and the process would wait for it for ever.
UNTOUCHED_FUNCTIONS = {"__del__", "weakref_cb", "submit"}
AGAIN = 0.05  # seconds until an interrupt that came within one of these is tried again


@contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """Within the block the first SIGINT raises KeyboardInterrupt, and the second one ends the process at once.

    Where the main thread is within an import, a compiler or a finaliser, the first waits until it has left it, which
    may take seconds. The second may come while the first still waits or is being handled, also after the block; files
    that were being written then stay under their temporary names. Does nothing outside the main thread, or where SIGINT
    is ignored.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if not came:
            came = True
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), SHOW_CURSOR.encode())
        if _untouched(frame):
            # A timer and not a thread: starting a thread takes locks, which the interrupted function may hold. And not
            # SIGINT again, which by now ends the process.
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if came:
            signal.setitimer(signal.ITIMER_REAL, 0)  # a command that has ended is not interrupted any more
        else:
            signal.signal(signal.SIGINT, before)


@contextmanager
def signals_kept() -> Iterator[None]:
    """After the block SIGTERM does what it did before, and the file descriptor that hears of signals is the same.

    A command sets both when it runs in several processes. Does nothing outside the main thread, where it does not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, wakes = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakes)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakes)
        if before is not None:  # it was not set by Python
            signal.signal(signal.SIGTERM, before)


def _untouched(frame: FrameType | None) -> bool:
    """Whether an exception raised in this frame would be dropped, or would break a function that it passes through."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module in UNTOUCHED_MODULES or frame.f_code.co_name in UNTOUCHED_FUNCTIONS:
            return True
        frame = frame.f_back
    return False
