"""What a command at work says of itself in its lock file."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfmap.errors import InputError
from halfmap.runtime import heartbeat
from halfmap.runtime.lock import only_process
from halfmap.runtime.progress import Progress, counted


def test_a_lock_says_who_holds_it_and_how_far_it_is_while_others_count(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.02)
    lock, before = tmp_path / "lock", time.time()
    with only_process(lock, "here", "halfmap refine"), Progress(open(os.devnull, "w")) as progress:
        progress.start_iteration(7, "local", 1000, 8.1, done=200)
        first = heartbeat.told(lock.read_bytes())
        counting = [threading.Thread(target=lambda: [progress.advance(1) for _ in range(100)]) for _ in range(5)]
        for one in counting:
            one.start()
        for one in counting:
            one.join()
        for _ in range(200):
            if (told := heartbeat.told(lock.read_bytes())).work.done == 700:
                break
            time.sleep(0.02)
    assert (first.command, first.process, first.host) == ("halfmap refine", os.getpid(), socket.gethostname())
    work = told.work
    assert (work.title, work.done, work.total, work.before) == ("iteration 7, local", 700, 1000, 200)
    assert before - 1 < told.work.began < time.time() + 1
    assert lock.stat().st_size == heartbeat.LENGTH, "what is written later is never shorter"


def test_steps_that_are_counted_tell_too_and_nothing_is_told_without_a_lock(tmp_path: Path) -> None:
    with counted("nobody listens", 5, open(os.devnull, "w")) as advance:
        advance(5)
    with (
        only_process(tmp_path / "lock", "here", "halfmap start"),
        counted("start 2 of 8", 40, open(os.devnull, "w")) as advance,
    ):
        assert heartbeat.told((tmp_path / "lock").read_bytes()).work.title == "start 2 of 8"


def test_who_wants_the_lock_reads_who_holds_it_and_no_more(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with only_process(lock, "here", "halfmap refine"):
        heartbeat.begin("iteration 1, global", 10)
        with pytest.raises(InputError) as refused, only_process(lock, "here", "halfmap resume"):
            pass
        who = f"halfmap refine, process {os.getpid()} on {socket.gethostname()}"
        assert str(refused.value) == f"here: {who} is at work there; wait until it ends, or end it"
    with only_process(lock, "here", "halfmap resume"):
        assert lock.read_bytes().startswith(b"halfmap resume, process ")


def test_a_heart_beats_on_its_own_and_stops_with_the_work_also_where_the_lock_is_deleted(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.01)
    lock = tmp_path / "checkpoint" / "lock"
    lock.parent.mkdir()
    with only_process(lock, "here", "halfmap refine"):
        os.utime(lock, (1, 1))
        for _ in range(300):
            if lock.stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert lock.stat().st_mtime > 1
        lock.unlink()
        lock.parent.rmdir()  # as a run does that has finished
        time.sleep(0.05)
    assert not lock.parent.exists()
    assert not any(one.name == "heartbeat" for one in threading.enumerate())


def test_the_lock_of_a_killed_process_can_be_taken_and_still_says_whose_it_was(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = ("import os, signal, sys; from pathlib import Path; from halfmap.runtime.lock import only_process\n"
              "with only_process(Path(sys.argv[1]), 'x', 'halfmap refine'): os.kill(os.getpid(), signal.SIGKILL)")
    child = subprocess.run([sys.executable, "-c", script, str(lock)], check=False)
    assert child.returncode == -9
    assert heartbeat.told(lock.read_bytes()).command == "halfmap refine"
    with only_process(lock, "x", "halfmap resume"):
        assert heartbeat.told(lock.read_bytes()).command == "halfmap resume"


@given(st.binary(max_size=2 * heartbeat.LENGTH))
def test_any_content_of_a_lock_can_be_read(content: bytes) -> None:
    for text in (content, b"halfmap refine, process 12 on host\n" + content):
        assert isinstance(heartbeat.told(text), heartbeat.Told)


def test_a_lock_of_an_earlier_version_tells_who_and_nothing_of_the_work() -> None:
    told = heartbeat.told(b"halfmap classify, process 4711 on node07")
    assert (told.command, told.process, told.host, told.work) == ("halfmap classify", 4711, "node07", heartbeat.Work())


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_while_the_heart_begins_to_beat_leaves_the_lock_free(tmp_path: Path, monkeypatch, after) -> None:
    begins = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if after:
            begins(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt), only_process(tmp_path / "lock", "x", "halfmap refine"):
            pass
    for one in threading.enumerate():
        if one.name == "heartbeat":
            one.join(10)
    with only_process(tmp_path / "lock", "x", "halfmap resume"):
        pass
