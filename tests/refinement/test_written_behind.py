"""particles.star is written while the next iteration runs, and nothing of that is lost."""

from __future__ import annotations

import threading
import time

import starfile

from halfmap.errors import InputError
from halfmap.particles.star import write_star
from halfmap.refinement import outputs


def test_it_is_written_beside_the_next_iteration_and_complete_at_the_end(refine, dataset, monkeypatch):
    threads = []

    def slow(path, table):
        threads.append(threading.current_thread() is threading.main_thread())
        time.sleep(0.2)
        write_star(path, table)


    monkeypatch.setattr(outputs, "write_star", slow)
    done = refine(dataset, "--max-iterations", 2)
    assert done.status == 0, done.error
    assert threads == [False, False]
    written = starfile.read(done.out / "particles.star")["particles"]
    assert len(written) == 200 and written["rlnMaxValueProbDistribution"].between(0, 1).all()
    assert not list(done.out.glob(".*.tmp"))


def test_a_fault_of_the_writer_ends_the_run_in_a_line(refine, dataset, monkeypatch):
    def full(path, table):
        raise InputError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(outputs, "write_star", full)
    done = refine(dataset, "--max-iterations", 2)
    assert done.status == 2 and "No space left" in done.error and "halfmap resume" in done.error
    assert (done.out / "checkpoint" / "state").exists(), "it can go on"
