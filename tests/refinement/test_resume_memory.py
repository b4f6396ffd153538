"""A run that goes on where there is less memory: other batches, or sums on disk, and the rest of it as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from halfmap.refinement import memory_limits, problem
from halfmap.refinement.memory_plan import Demand, MemoryPlan, planned

MAPS = ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc", "mask.mrc", "particles.star")


@contextmanager
def short_of_memory() -> Iterator[None]:
    """Within the block memory suffices for sums on disk only."""
    def least(demand: Demand, available: int, sums: str = "auto") -> MemoryPlan:
        return planned(demand, planned(demand, 0, "disk").peak, sums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_limits, "planned", least)
        yield


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "iterations.jsonl").read_text().splitlines()]


def test_where_memory_suffices_it_is_held_as_before_and_said(stopped, resume):
    done = resume(stopped())
    plans = [line for line in (done.out / "log.txt").read_text().splitlines() if "  memory: up to" in line]
    assert len(plans) == 2 and all("sums in memory; 20 images at once" in line for line in plans)
    assert "to the bit" not in done.said and "starts anew" not in done.said


def test_with_less_memory_it_goes_on_with_sums_on_disk_to_the_same_map(whole, stopped, resume):
    run = stopped()
    with short_of_memory():
        done = resume(run)
    assert done.status == 0, done.error
    assert "sums on disk" in done.said and "from here on" in done.said and "iteration 2 starts anew" in done.said
    assert "sums on disk" in (run / "report.html").read_text()
    first, other = records(whole), records(run)
    assert other[0]["fsc"] == first[0]["fsc"], "what was done is not done again"
    np.testing.assert_allclose(other[2]["fsc"][:8], first[2]["fsc"][:8], atol=5e-3)


def test_the_new_plan_stays_when_memory_is_back(stopped, resume, dying, tmp_path):
    """A run that dies again under it goes on to the bits of one that did not."""
    run = stopped()
    other = Path(shutil.copytree(run, tmp_path / "other"))
    with short_of_memory():
        once = resume(other)
        assert dying.after(9, lambda: resume(run)), "in the midst of the sums"
    assert once.status == 0 and (run / "checkpoint" / "sums").exists()
    again = resume(run)
    assert "from here on" not in again.said and "sums on disk" in again.said and "goes on after" in again.said
    for name in MAPS:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def test_a_smaller_batch_starts_the_iteration_anew_and_is_kept(stopped, resume, monkeypatch):
    run = stopped()
    with monkeypatch.context() as patch:
        patch.setattr(memory_limits, "planned", lambda demand, available, sums: planned(demand, 0, "memory"))
        patch.setattr(problem, "checked", lambda plan, **given: plan)
        done = resume(run)
    assert done.status == 0, done.error
    assert "from here on 10 images at once" in done.said and "iteration 2 starts anew" in done.said
    assert len(records(run)) == 3


def test_sums_that_were_asked_for_in_memory_go_to_disk_rather_than_nowhere(dataset, stopped, resume):
    run = stopped(dataset, 25, "--sums", "memory")
    with short_of_memory():
        done = resume(run)
    assert done.status == 0, done.error
    assert "sums on disk, as memory is short" in done.said
