"""Ctrl-C within functions that must not be interrupted; in a process of its own, which a signal may kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from textwrap import dedent

import pytest

PLACES = {
    "a finaliser": """
        class Dying:
            def __del__(self):
                within()
        def place():
            Dying()
    """,
    "a weak reference's callback": """
        import weakref
        class Dying:
            pass
        def place():
            dying = Dying()
            weakref.finalize(dying, within)
            del dying
    """,
    "a compiler with a lock": r"""
        library = {"__name__": "llvmlite.fake", "within": within, "lock": lock}
        exec("def place():\n lock.acquire()\n within()\n lock.release()", library)
        place = library["place"]
    """,
    "a pool that starts a thread": """
        from concurrent.futures import ThreadPoolExecutor
        begin = threading.Thread.start
        def start(thread):
            begin(thread)
            if threading.current_thread() is threading.main_thread():
                within()
        threading.Thread.start = start
        pool = ThreadPoolExecutor(1)
        def place():
            pool.submit(int)
    """,
    "an import": """
        class Finder:
            def find_spec(name, path=None, target=None):
                if name == "loaded":
                    within()
        sys.meta_path.insert(0, Finder)
        def place():
            try:
                import loaded
            except ImportError:
                pass
    """,
}
BEFORE = """
    import os, signal, sys, threading, time
    from halfmap.runtime.interrupts import second_interrupt_ends
    lock = threading.Lock()
"""
INTERRUPTED = """
    def within():
        signal.raise_signal(signal.SIGINT)
        {meanwhile}
        print("finished", flush=True)
"""
LATER = """
    with second_interrupt_ends():
        try:
            place()
            time.sleep(20)
        except KeyboardInterrupt:
            print("interrupted", *["locked"] * lock.locked())
"""
ENDED = """
    with second_interrupt_ends():
        place()
    time.sleep(0.2)
"""


def run(place: str, meanwhile: str, then: str) -> subprocess.CompletedProcess[str]:
    within = dedent(INTERRUPTED).format(meanwhile=meanwhile)
    code = dedent(BEFORE) + within + dedent(PLACES[place]) + dedent(then) + "print('after')\n"
    # where the tests run in the background SIGINT may be ignored, and a child inherits that
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_waits_for_what_it_would_break_and_is_not_lost(place: str) -> None:
    done = run(place, "time.sleep(0.3)", LATER)  # so long that it must wait more than once
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["finished", "interrupted", "after"]


@pytest.mark.parametrize("place", PLACES)
def test_a_second_interrupt_ends_at_once_while_the_first_waits(place: str) -> None:
    done = run(place, "time.sleep(0.3); os.kill(os.getpid(), signal.SIGINT)", LATER)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("place", PLACES)
def test_a_command_that_ends_while_an_interrupt_waits_is_left_alone(place: str) -> None:
    done = run(place, "pass", ENDED)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["finished", "after"], "")
