"""A refinement starts the processes that share its work: as many as there is use for, and none is left behind."""

from __future__ import annotations

import shutil
import signal
import sys

import numpy as np
import pytest
from fixtures.jobs import none_left, until
from fixtures.projects import Outcome

from halfmap.errors import InputError
from halfmap.refinement.memory_plan import Demand, planned
from halfmap.refinement.process_layout import Layout, Outlook, automatic, laid_out
from halfmap.settings.regularisers import DECLARED

GB = 10**9
DEMAND = Demand(256, 2, 127, 256, 500, 40_000, 700, False, "uniform", DECLARED["uniform"].need)


def on(memory: int, images: int, sums: str = "auto") -> Outlook:
    """A refinement of box 256 where so many bytes are to be shared."""
    return Outlook(images, lambda count: planned(DEMAND, memory // count, sums))


@pytest.mark.parametrize(("threads", "images", "memory", "layout"), [
    (2, 10**6, 999, (1, 2)), (12, 10**6, 999, (1, 12)), (16, 10**6, 999, (2, 8)), (28, 10**6, 999, (4, 7)),
    (64, 10**6, 999, (8, 8)), (64, 3_500, 999, (3, 21)), (64, 999, 999, (1, 64)), (64, 10**6, 9, (1, 64)),
])
def test_beyond_twelve_threads_a_process_has_about_eight_a_thousand_images_and_memory_for_its_sums(
    threads, images, memory, layout
):
    found = automatic(threads, on(memory * GB, images))
    assert (found.processes, found.threads) == layout


def test_every_one_of_the_processes_keeps_its_sums_in_memory_and_one_more_could_not():
    outlook = on(60 * GB, 10**6)
    count = automatic(128, outlook).processes
    assert 1 < count < 16 and "memory" in automatic(128, outlook).why
    fits = [not plan.on_disk and plan.peak <= plan.available for plan in map(outlook.plan, (count, count + 1))]
    assert fits == [True, False]
    assert automatic(128, on(60 * GB, 10**6, "disk")).processes == 1


def test_few_threads_a_gpu_and_a_number_that_is_given_ask_nothing_of_the_particles():
    def unread() -> Outlook:
        raise AssertionError

    assert laid_out(0, 12, False, unread) == Layout(1, 12)
    assert laid_out(0, 64, True, unread) == Layout(1, 64)
    assert laid_out(4, 64, False, unread) == Layout(4, 16)
    assert laid_out(1, 0, False, unread) == Layout(1, 0)


@pytest.mark.parametrize(("gpu", "environment", "remedy"), [
    (True, {}, "one process for each GPU"), (False, {}, "more --threads"),
    (False, {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "-", "MASTER_PORT": "1"}, "--nproc-per-node"),
])
def test_a_number_of_processes_that_cannot_be_is_refused_with_a_remedy(gpu, environment, remedy, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"--processes 3: .*{remedy}"):
        laid_out(3, 2, gpu, lambda: on(0, 0))


def test_a_run_of_many_threads_counts_its_particles_and_starts_others_with_its_own_settings(
    dataset, refine, monkeypatch, tmp_path
):
    def stop(processes, words, advice):
        raise InputError(f"{processes}: {' '.join(words)}")

    monkeypatch.setattr("halfmap.refinement.refine.shared_out", stop)
    monkeypatch.setattr("halfmap.refinement.process_layout.LEAST_IMAGES", 90)
    done = refine(dataset, "--threads", 24, "--ini-high", 30.000000000001, out=tmp_path / "run")
    given = f"--diameter 156 --out {tmp_path}/run --map {dataset}/initial.mrc --ini-high 30.000000000001 --threads 12"
    assert done.status == 2 and f"error: 2: refine {dataset}/particles.star {given} --max-it" in done.error, done.error


def test_two_processes_that_a_run_starts_give_the_result_of_one_and_resume_takes_as_many(
    dataset, brief, in_session, resume, monkeypatch, tmp_path
):
    run, copy = tmp_path / "run", tmp_path / "copy"
    shared = in_session("-m", "halfmap", "refine", dataset / "particles.star", "--map", dataset / "initial.mrc",
                   "--diameter", 156, "--out", run, "--processes", 2, "--threads", 2, "--max-iterations", 2)
    until((run / "checkpoint" / "state").exists, shared)
    (copy / "checkpoint").mkdir(parents=True)
    shutil.copy(run / "checkpoint" / "state", copy / "checkpoint" / "state")
    said, error = shared.communicate(timeout=100)
    assert shared.returncode == 0 and error == "" and none_left(shared.pid), error
    assert "2 processes" in said and said.count("memory: ") == said.count("Finished") == 1
    first, together = brief.records[0], Outcome(0, said, error, run).records[0]
    for name in ("fsc", "gain", "shift_sigma_A"):
        assert np.allclose(first[name], together[name], rtol=1e-4, atol=1e-5), name

    def stop(processes, words, advice):
        raise InputError(f"{processes}: {' '.join(words)}")

    monkeypatch.setattr("halfmap.refinement.resume.shared_out", stop)
    assert f"error: 2: resume {copy} --threads 1\n" in resume(copy).error
    assert f"error: 1: resume {copy} --threads 2\n" in resume(copy, "--processes", 1).error


OTHERS = """if True:
    import os, signal, sys, time
    from halfmap.runtime import company
    company.GRACE = 0.3
    company.NOTICED = 0.1
    others = company.Company()
    company.sys.executable = sys.argv[1]
    for _ in range(2):
        others.start([], os.environ, lambda status: os._exit(7))
    print("started", flush=True)
    {then}
"""
# In place of Python: what ends by SIGTERM, and what ends by SIGKILL only. They begin with what every process of a
# company begins with.
OTHER = """#!{python}
import os, signal, sys, time
sys.path.insert(0, os.environ["PYTHONPATH"].split(os.pathsep)[0])
from halfmap.runtime import company
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
company.follow()
time.sleep({seconds})
sys.exit({status})
"""


@pytest.mark.parametrize(("then", "other", "status"), [
    ("os.kill(os.getpid(), signal.SIGKILL)", {}, -signal.SIGKILL),
    ("others.end()", {"deaf": True}, 0),
    ("others.end(9)", {"seconds": 0.2, "status": 3}, 0),
    ("time.sleep(9)", {"seconds": 0.2, "status": 3}, 7),
], ids=["killed", "deaf", "patient", "lost"])
def test_no_process_outlives_the_one_that_started_it_and_one_that_fails_is_noticed(
    then, other, status, in_session, tmp_path
):
    program = tmp_path / "other"
    program.write_text(OTHER.format(python=sys.executable, **{"deaf": False, "seconds": 60, "status": 0} | other))
    program.chmod(0o755)
    first = in_session("-c", OTHERS.format(then=then), program)
    first.communicate(timeout=20)  # comes back when all have closed their ends
    assert first.returncode == status
    assert none_left(first.pid)
