"""What cannot be resumed, or must not be: one line that says why, and nothing is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from halfmap.runtime import checkpoint
from halfmap.runtime.lock import only_process


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file but the lock, which says who was last at work."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def refused(resume) -> Callable[..., str]:
    """The one line that a resume which cannot be says; nothing may change in the folder."""

    def run(folder: Path, *options: object) -> str:
        before = contents(folder)
        done = resume(folder, *options)
        assert done.status == 2 and re.fullmatch(r"halfmap: error: [^\n]+\n", done.error), done
        assert contents(folder) == before
        return done.error

    return run


def test_a_finished_run_is_left_alone(whole, resume):
    before = contents(whole)
    done = resume(whole)
    assert (done.status, done.error) == (0, "") and "is finished" in done.said
    assert contents(whole) == before and not (whole / "checkpoint").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, refused):
    assert "holds no checkpoint" in refused(tmp_path)
    begun = tmp_path / "start" / "checkpoint" / "begun"  # of a refinement without a map
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert "the command that began it goes on" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "none")


def test_a_stopped_run_is_not_begun_again_in_its_folder(stopped, refine, dataset):
    run = stopped()
    before = contents(run)
    done = refine(dataset, out=run)
    assert done.status == 2 and f"go on with `halfmap resume {run}`" in done.error
    assert contents(run) == before


@pytest.mark.parametrize("words", [("--ini-high", 20), ("--seed", 3), ("--checkpoint-minutes", 5), ("--device", "cpu")])
def test_how_a_run_refines_cannot_be_changed_on_the_way(words, stopped, refused):
    assert str(words[0]) in refused(stopped(files=3), *words)


def test_a_damaged_or_foreign_checkpoint_is_named(stopped, monkeypatch, refused):
    run = stopped()
    state = run / "checkpoint" / "state"
    whole = state.read_bytes()
    state.write_bytes(whole[:5000] + b"x" + whole[5001:])
    said = refused(run)
    assert f"{state}: is damaged" in said and "go on" not in said
    state.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "__version__", "2.0")
        assert "was written by halfmap 0" in refused(run) and "this is 2.0" in refused(run)
        patch.undo()
        patch.setattr(checkpoint, "FORMAT", 2)
        assert "format 1" in refused(run)


def test_input_that_changed_is_named(project, stopped, resume, refused):
    run = stopped(project)
    star, stack = project / "particles.star", project / "particles.mrcs"
    text, images = star.read_text(), stack.read_bytes()
    star.write_text(text.replace("300.0", "200.0", 1) if "300.0" in text else text + "\n")
    assert str(star) in refused(run)
    star.write_text(text)
    with stack.open("r+b") as file:
        file.seek(-50, os.SEEK_END)
        file.write(b"12345678")
    assert f"{stack}: was changed since the run began" in refused(run)
    stack.write_bytes(images + b"0000")
    assert f"{stack}: had {len(images)} bytes" in refused(run)
    stack.write_bytes(images)  # the same again, at another time
    assert resume(run).status == 0


def test_too_little_memory_is_said_before_anything_is_touched(stopped, refused):
    said = refused(stopped(), "--max-memory", 0.1)
    assert "memory:" in said and "0.1 GB are available" in said and "--padding" not in said


def test_two_processes_never_work_in_one_run(stopped, resume, refused):
    run = stopped()
    lock = run / "checkpoint" / "lock"
    with only_process(lock, "test", "halfmap refine"):
        assert f"{run}: halfmap refine, process {os.getpid()} on " in refused(run)
        lock.write_bytes(b"")  # as an earlier version left it
        assert f"{run}: another process is at work there; wait until it ends, or end it" in refused(run)
    assert resume(run).status == 0
