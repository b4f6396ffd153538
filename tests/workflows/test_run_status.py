"""How a run stands, from its files: at work, finished, stopped or failed, half written or broken."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halfmap.runtime.heartbeat import LENGTH
from halfmap.runtime.lock import only_process
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import Progress
from halfmap.workflows import run_status, watched_folders
from halfmap.workflows.run_status import RunReader, RunStatus, State
from halfmap.workflows.watched_folders import WatchedFolders

PAGE = "<!doctype html>\n<title>a run · Halfmap</title>\n<body data-running=\"no\">"


def begun(run: Path, command: str = "refine", records: list[dict] | None = None, page: bool = True) -> RunLog:
    """A run that has begun: its log, which is open."""
    run.mkdir(parents=True)
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / ("state" if command in ("refine", "classify") else "begun")).write_bytes(b"")
    log = RunLog(run / "log.txt")
    log.begin("0.2.0", f"halfmap {command} particles.star --out x")
    if records is not None:
        (run / "iterations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    if page:
        (run / "report.html").write_text(PAGE)
    return log


def at(run: Path, reader: RunReader | None = None, now: float | None = None) -> RunStatus:
    """How the only run below a folder stands."""
    when = time.time() if now is None else now
    (found,) = WatchedFolders([run]).look(when)
    return (reader or RunReader()).status(found, when)


ITERATION = {"iteration": 6, "search": "local", "resolution_A": 4.25, "seconds": {"solve": 30.0, "total": 90.0}}


def test_a_run_at_work_tells_how_far_it_is_and_what_is_left_of_the_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with begun(run, records=[ITERATION]), only_process(run / "checkpoint" / "lock", "x", "halfmap refine"):
        with Progress(open(os.devnull, "w")) as progress:
            progress.start_iteration(7, "local", 1000, 4.25, done=500)
        lock = run / "checkpoint" / "lock"
        first, second = lock.read_text().rstrip().split("\n")
        now = time.time()
        told = json.loads(second) | {"done": 600, "began": int(now) - 20}
        lock.write_text(f"{first}\n{json.dumps(told)}".ljust(LENGTH))
        status = at(run, now=now)
    assert (status.state, status.command, status.stage, status.resolution) == (
        State.RUNNING, "refine", "iteration 7, local", 4.25)
    assert status.done == pytest.approx(0.6)
    # 100 particles in 20 s, 400 are left; then maps are made, which took 30 s the last time.
    assert status.seconds_left == pytest.approx(80 + 30, abs=5)


def test_how_a_run_ended_is_what_its_log_says_last(tmp_path: Path) -> None:
    with begun(tmp_path / "a", records=[ITERATION | {"search": "final"}]) as log:
        log.finish()
    assert at(tmp_path / "a").state is State.FINISHED
    for name, error in {"b": KeyboardInterrupt(), "c": MemoryError("no memory for 3 maps")}.items():
        with pytest.raises(type(error)), begun(tmp_path / name):
            raise error
    stopped, failed = at(tmp_path / "b"), at(tmp_path / "c")
    assert stopped.state is State.STOPPED and stopped.said == f"go on with: halfmap resume {tmp_path / 'b'}"
    assert failed.state is State.FAILED and failed.said == "MemoryError: no memory for 3 maps"
    with RunLog(tmp_path / "c" / "log.txt") as again:
        again.line("halfmap 0.2.0")
        again.finish()
    assert at(tmp_path / "c").state is State.FINISHED


def test_a_killed_run_is_stopped_at_once_on_its_machine_and_later_seen_from_another(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(run, records=[ITERATION]).close()
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True,
                           check=True)
    lock = run / "checkpoint" / "lock"
    lock.write_text(f"halfmap refine, process {child.stdout.strip()} on {socket.gethostname()}\n" + "{}")
    assert at(run).state is State.STOPPED
    lock.write_text("halfmap refine, process 17 on another.machine\n{}")
    now = time.time()
    assert at(run, now=now + 60).state is State.RUNNING, "a heartbeat may be seen a minute late"
    assert at(run, now=now + 600).state is State.STOPPED


def test_a_heart_that_beats_by_a_clock_that_is_wrong_beats(tmp_path: Path) -> None:
    run, reader, now = tmp_path / "run", RunReader(), time.time()
    begun(run, records=[ITERATION]).close()
    lock = run / "checkpoint" / "lock"
    lock.write_text("halfmap refine, process 17 on another.machine\n{}")
    os.utime(lock, (now - 7000, now - 7000))
    assert at(run, reader, now).state is State.STOPPED
    os.utime(lock, (now - 6990, now - 6990))
    assert at(run, reader, now + 10).state is State.RUNNING
    assert at(run, reader, now + 100).state is State.RUNNING
    assert at(run, reader, now + 500).state is State.STOPPED


def test_a_process_of_the_same_number_after_a_reboot_is_not_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begun(run, records=[ITERATION]).close()
    with subprocess.Popen(["sleep", "60"]) as other:
        lock = run / "checkpoint" / "lock"
        lock.write_text(f"halfmap refine, process {other.pid} on {socket.gethostname()}\n{{}}")
        os.utime(lock, (1, 1))
        try:
            assert at(run).state is State.STOPPED
        finally:
            other.kill()


def test_the_status_of_commands_that_say_their_results_in_files_of_their_own(tmp_path: Path) -> None:
    rows = [{"share": 0.9, "resolution": 12.5}, {"share": 0.1, "resolution": 11.0}, {"share": 0.0, "resolution": 1.0}]
    with begun(tmp_path / "classes2d", "classes2d", [{"search": "final", "iteration": 20, "classes": rows}]) as log:
        log.finish()
    assert at(tmp_path / "classes2d").resolution == 11.0
    begun(tmp_path / "start", "start").close()
    (tmp_path / "start" / "starts.json").write_text(json.dumps(
        {"verdict": "6 of 8 starts agree to 9 A", "classes": [{"resolution_A": 8.7}]}))
    start = at(tmp_path / "start")
    assert (start.state, start.resolution, start.said) == (State.FINISHED, 8.7, "6 of 8 starts agree to 9 A")
    (tmp_path / "post").mkdir()
    (tmp_path / "post" / "postprocess.html").write_text(PAGE)
    (tmp_path / "post" / "postprocess.json").write_text('{"resolution_A": {"corrected": {"0.143": 3.21}}}')
    post = at(tmp_path / "post")
    assert (post.state, post.command, post.resolution) == (State.FINISHED, "postprocess", 3.21)
    (tmp_path / "reg").mkdir()
    (tmp_path / "reg" / "report.html").write_text(PAGE)
    (tmp_path / "reg" / "settings.toml").write_text("# Settings of halfmap regularise, version 0.2.0. Repeat it\n")
    assert at(tmp_path / "reg").command == "regularise"


def test_a_start_that_was_killed_before_its_page_goes_on_when_it_is_given_again(tmp_path: Path) -> None:
    begun(tmp_path / "start", "start", page=False).close()
    status = at(tmp_path / "start")
    assert status.state is State.STOPPED and status.said == "the same command, given again, goes on"


def test_the_last_whole_record_counts_also_of_a_file_longer_than_is_read(tmp_path: Path, monkeypatch) -> None:
    run = tmp_path / "run"
    begun(run, records=[ITERATION, ITERATION | {"iteration": 7, "resolution_A": 4.0}]).close()
    with (run / "iterations.jsonl").open("a") as stream:
        stream.write('{"iteration": 8, "resol')
    assert at(run).resolution == 4.0
    monkeypatch.setattr(run_status, "LONGEST", 200)
    assert (at(run).resolution, at(run).stage) == (4.0, "iteration 7, local")


def test_pages_and_runs_are_found_wherever_they_lie_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for place in ("a", "a/postprocess", "b/deep/er", ".hidden/run", "a/checkpoint/x"):
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "a" / "report.html").write_text(PAGE)
    (root / "a" / "orientations.html").write_text(PAGE)
    (root / "a" / "notes.html").write_text(PAGE)
    (root / "a" / "postprocess" / "postprocess.html").write_text(PAGE)
    (root / "b" / "report.html").write_text("<title>somebody else's report</title>")
    (root / "b" / "deep" / "er" / "groups_groups.html").write_text(PAGE)
    (root / "b" / "deep" / "er" / "groups.star").write_text("")
    (root / "b" / "deep" / "er" / "other_groups.html").write_text(PAGE)
    for place in (".hidden/run", "a/checkpoint/x"):
        (root / place / "report.html").write_text(PAGE)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "report.html").write_text(PAGE)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "round").symlink_to(root)
    (root / "b" / "compare.html").symlink_to(tmp_path / "outside" / "report.html")
    found = WatchedFolders([root]).look(time.time())
    assert {one.name: one.pages for one in found} == {
        "a": ("report.html", "orientations.html"), "a/postprocess": ("postprocess.html",),
        "b/deep/er": ("groups_groups.html",)}
    twice = WatchedFolders([root / "a", root / "a", root / "b"]).look(time.time())
    assert len({one.name for one in twice}) == len(twice) == 5


def test_what_comes_and_goes_is_seen(tmp_path: Path) -> None:
    folders = WatchedFolders([tmp_path])
    assert folders.look(time.time()) == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "report.html").write_text(PAGE)
    assert [one.name for one in folders.look(time.time())] == ["new"]
    (tmp_path / "new" / "report.html").unlink()
    assert folders.look(time.time()) == []
    (tmp_path / "new").rmdir()
    assert folders.look(time.time()) == []


def test_a_walk_through_too_many_folders_ends_and_says_so(tmp_path: Path, monkeypatch) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}").mkdir()
        (tmp_path / f"{number:02d}" / "report.html").write_text(PAGE)
    monkeypatch.setattr(watched_folders, "MOST", 10)
    folders = WatchedFolders([tmp_path])
    assert len(folders.look(time.time())) == 9 and not folders.complete


def damaged_json() -> st.SearchStrategy[bytes]:
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    names = st.sampled_from(["iteration", "search", "resolution_A", "seconds", "solve", "classes", "share",
                             "resolution", "verdict", "corrected", "0.143", "title", "done", "total", "began",
                             "before"])
    value = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6),
                         max_leaves=12)
    return value.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=60)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=damaged_json(), log=damaged_json(), lock=damaged_json(), command=st.sampled_from(
    ["refine", "start", "classes2d", "postprocess", "classify"]))
def test_whatever_the_files_hold_a_run_has_a_status(tmp_path: Path, record: bytes, log: bytes, lock: bytes,
                                                    command: str) -> None:  # fmt: skip
    run = tmp_path / "run"
    if not run.exists():
        begun(run).close()
    head = f"2031-01-01 00:00:00  halfmap 0.2.0\n2031-01-01 00:00:00  command: halfmap {command} x\n".encode()
    (run / "log.txt").write_bytes(head + log)
    (run / "checkpoint" / "lock").write_bytes(f"halfmap {command}, process 12 on elsewhere\n".encode() + lock)
    for name in ("iterations.jsonl", "starts.json", "postprocess.json"):
        (run / name).write_bytes(record)
    status = at(run)
    assert status.command == command and isinstance(status.state, State)
    assert status.resolution is None or abs(status.resolution) < 1e12
    assert status.done is None or 0 <= status.done <= 1
