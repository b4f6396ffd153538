"""A refinement that is stopped, however and whenever, goes on to the result it would have had."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from halfmap.runtime.progress import Progress

MAPS = ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc", "mask.mrc")
BATCHES = ("--batch", 20, "--checkpoint-minutes", 1e-6)  # as in the fixtures whole and stopped


def same_results(one: Path, other: Path) -> None:
    for name in (*MAPS, "particles.star", "fsc.xml"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert rows(one) == rows(other)


def rows(run: Path) -> list[dict]:
    lines = (run / "iterations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "cpu_seconds")} for line in lines]


def log_of(run: Path) -> list[str]:
    return (run / "log.txt").read_text().splitlines() if (run / "log.txt").exists() else []


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 200
    while not true() and time.monotonic() < until:
        time.sleep(0.02)


@pytest.mark.parametrize("options", [(), ("--regulariser", "sparse_smooth", "--ss-steps", 3, "--keep-iterations"),
                                     ("--regulariser", "nonuniform", "--sums", "disk")])
def test_a_run_that_dies_again_and_again_ends_as_if_it_had_not(options, refine, dataset, dying, tmp_path, resume):
    """Between files and in the midst of the sums; the regulariser's memory survives too."""
    whole = refine(dataset, *BATCHES, *options, out=tmp_path / "whole").out
    out, deaths = tmp_path / "run", 1
    assert dying.after(4, lambda: refine(dataset, *BATCHES, *options, out=out))
    lives = random.Random(5)
    while dying.after(lives.randint(6, 18), lambda: resume(out)):
        deaths += 1
    assert 3 < deaths < 40
    same_results(whole, out)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    for kept in (whole / "iterations").glob("*"):
        assert kept.read_bytes() == (out / "iterations" / kept.name).read_bytes()


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not(whole, dataset, tmp_path):
    out, lives, kills = tmp_path / "run", random.Random(7), 0
    words = ["refine", dataset / "particles.star", "--map", dataset / "initial.mrc", "--diameter", "156", "--out", out,
             "--max-iterations", "3", "--threads", "1", *BATCHES]
    while True:
        running = subprocess.Popen([sys.executable, "-m", "halfmap", *map(str, words)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        if kills < 4:
            begun = len(log_of(out))
            wait_until(lambda running=running, begun=begun: len(log_of(out)) > begun + 2 or running.poll() is not None)
            time.sleep(lives.uniform(0, 0.6))
        else:
            running.wait(200)
        if running.poll() is not None:
            break
        os.kill(running.pid, signal.SIGKILL)
        running.communicate()
        kills += 1
        words = ["resume", out]
    assert running.returncode == 0, running.stderr.read()
    assert kills >= 2
    same_results(whole, out)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_another_number_of_threads_changes_nothing(whole, stopped, resume):
    done = resume(stopped(), "--threads", 2)
    assert done.status == 0, done.error
    same_results(whole, done.out)


def test_the_log_says_where_it_went_on_and_the_report_knows_the_whole_run(stopped, dataset, resume):
    run = stopped()
    (run / ".map.mrc.123.tmp").write_bytes(b"half a map")
    (run / "notes.tmp").write_text("the user's own")
    done = resume(run)
    lines = "\n".join(log_of(run))
    assert f"halfmap resume {run}" in lines and "goes on after iteration 1" in lines
    begun = re.search(r"iteration 2 goes on after (\d+) of 200 particles", lines)
    assert begun and 0 < int(begun[1]) < 200 and begun[0] in done.said
    assert [row["iteration"] for row in rows(run)] == [1, 2, 3]
    page = (run / "report.html").read_text()
    assert f"halfmap refine {dataset}" in page.replace("&#39;", "'") and f"halfmap resume {run}" not in page
    assert [row["seconds"]["total"] > 0 for row in done.records] == [True] * 3
    assert not (run / ".map.mrc.123.tmp").exists() and (run / "notes.tmp").exists()
    assert not (run / "checkpoint").exists()


def test_faulty_images_stay_out_and_are_named_once(project, edit_stack, refine, dying, tmp_path, resume):
    def spoil(images: np.ndarray) -> np.ndarray:
        images[17] = np.nan
        return images

    edit_stack(project / "particles.mrcs", spoil)
    whole = refine(project, *BATCHES, out=tmp_path / "whole").out
    out = tmp_path / "run"
    assert dying.after(6, lambda: refine(project, *BATCHES, out=out))  # before the first record is written
    assert resume(out).status == 0
    same_results(whole, out)
    assert (whole / "rejected.star").read_bytes() == (out / "rejected.star").read_bytes()
    (found,) = rows(out)[0]["findings"][:1]
    assert "18@particles.mrcs" in found["text"] and found["name"] == "images set aside"


def test_damaged_sums_cost_one_iteration_and_nothing_else(whole, stopped, resume):
    run = stopped()
    sums = run / "checkpoint" / "sums"
    sums.write_bytes(sums.read_bytes()[:-100])
    assert "iteration 2 starts anew" in resume(run).said
    same_results(whole, run)


def test_images_may_be_moved(project, whole, stopped, tmp_path, monkeypatch, resume):
    monkeypatch.chdir(project)
    run = stopped(project)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(project / "particles.mrcs", tmp_path / "elsewhere")
    done = resume(run)
    assert done.status == 2 and "particles.mrcs" in done.error and "--data-dir" in done.error
    assert resume(run, "--data-dir", tmp_path / "elsewhere").status == 0
    assert rows(run) == rows(whole)


def test_the_working_folder_of_the_start_is_that_of_the_resume(project, refine, dying, tmp_path, monkeypatch, resume):
    """Image paths are relative to it, in what is read and in what is written."""
    (tmp_path / "job").mkdir()
    shutil.move(project / "particles.star", tmp_path / "job")
    monkeypatch.chdir(project)
    out = tmp_path / "run"
    assert dying.after(8, lambda: refine(project, *BATCHES, star="../job/particles.star", out=out))
    monkeypatch.chdir(tmp_path)
    assert resume(out).status == 0
    assert "@particles.mrcs" in (out / "particles.star").read_text()
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_a_full_disk_or_a_lost_permission_ends_the_run_in_a_line(number, words, whole, refine, dataset, tmp_path,
                                                                 monkeypatch, resume):
    flush, left, out = os.fsync, [26], tmp_path / "run"

    def refusing(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refusing)
        done = refine(dataset, *BATCHES, out=out)
    assert done.status == 2 and re.fullmatch(r"halfmap: error: [^\n]+\n", done.error)
    assert words in done.error and f"halfmap resume {out}" in done.error
    assert all(mrcfile.validate(out / name) for name in MAPS) and len(rows(out)) >= 1
    assert "iteration 2 starts anew" in done.said  # sums could not be saved: no reason to stop
    assert not list(out.rglob("*.tmp"))
    assert resume(out).status == 0
    same_results(whole, out)


def test_a_log_that_cannot_be_written_ends_the_run_in_a_line(stopped, resume):
    """A limit on the size of files stands in for the full disk: it meets the log, which only grows."""
    run = stopped()
    with (run / "log.txt").open("a") as log:
        log.write("#" * 3_000_000 + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
        done = resume(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.status == 2 and re.fullmatch(r"halfmap: error: [^\n]+log.txt: cannot be written[^\n]+\n", done.error)
    assert resume(run).status == 0


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_stops_at_once_and_the_run_goes_on_later(twice, whole, dataset, tmp_path, resume):
    out = tmp_path / "run"
    words = ["refine", dataset / "particles.star", "--map", dataset / "initial.mrc", "--diameter", "156", "--out", out,
             "--max-iterations", "3", "--threads", "1", *BATCHES]
    # where the tests run in the background SIGINT may be ignored, and a child inherits that
    running = subprocess.Popen(
        [sys.executable, "-m", "halfmap", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(lambda: (out / "report.html").exists() or running.poll() is not None)
    os.kill(running.pid, signal.SIGINT)
    if twice:
        time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGINT)
    _, error = running.communicate(timeout=100)
    lines = [line for line in error.splitlines() if line]
    assert "Traceback" not in error
    assert running.returncode in ((130, -signal.SIGINT) if twice else (130,))
    if not twice:
        assert len(lines) == 1 and lines[0].endswith(f"go on with: halfmap resume {out}")
    assert all(mrcfile.validate(out / name) for name in MAPS)
    assert resume(out).status == 0
    same_results(whole, out)


def test_the_bar_of_a_resumed_iteration_begins_where_it_stood(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "110")
    with Progress(Screen()) as progress:
        progress.start_iteration(2, "global", 200, 12.0, done=150)
        progress.advance(10)
    assert "150/200" in progress._stream.getvalue() or "160/200" in progress._stream.getvalue()
