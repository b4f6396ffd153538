"""Several processes share one refinement: to the result of one, and to an end in order when one of them dies."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch
from fixtures.jobs import ended

from halfmap.particles.source import ParticleSource
from halfmap.particles.star import read_star
from halfmap.runtime.distributed import Ranks

MAPS = ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc", "mask.mrc")
REFINE = ("--diameter", 156, "--threads", 1)


def difference(one: Path, other: Path) -> float:
    a, b = (mrcfile.read(path).astype(float) for path in (one, other))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def test_two_processes_give_the_result_of_one(project, edit_stack, refine, torchrun, tmp_path):
    """To the bit where images do not depend on their company in a batch: poses, what is set aside and why, and copies,
    which different processes read. Maps are sums, in another order."""
    def spoil(images: np.ndarray) -> np.ndarray:
        images[17], images[150] = np.nan, 1000 * images[150]
        images[120:140] = 2 * images[20:40]
        return images

    edit_stack(project / "particles.mrcs", spoil)
    options = ("--max-iterations", 1, "--batch", 1)
    one = refine(project, *options, out=tmp_path / "one")
    assert one.status == 0, one.error
    two = tmp_path / "two"
    status, said, errors = ended(torchrun(2, ["refine", project / "particles.star", "--map", project / "initial.mrc",
                                              "--out", two, *REFINE, *options]))
    assert status == [0, 0], errors
    assert "Finished" in said[0] and "2 processes" in said[0] and said[1] == ""
    assert (one.out / "rejected.star").read_bytes() == (two / "rejected.star").read_bytes()
    assert len(starfile.read(two / "rejected.star", always_dict=True)["particles"]) == 2
    assert (one.out / "particles.star").read_bytes() == (two / "particles.star").read_bytes()
    told = [json.loads(rows(run)[-1])["findings"] for run in (one.out, two)]
    assert told[0] == told[1] and "copies kept in one half set" in {found["name"] for found in told[0]}
    for name in MAPS:
        assert difference(one.out / name, two / name) < 1e-5, name
    assert {path.name for path in one.out.iterdir()} == {path.name for path in two.iterdir()}


def test_when_a_process_dies_the_others_end_with_one_line_and_the_run_goes_on_with_any_number(
    dataset, refined, torchrun, tmp_path
):
    out = tmp_path / "run"
    words = ["refine", dataset / "particles.star", "--map", dataset / "initial.mrc", "--out", out, *REFINE,
             "--max-iterations", 10]
    processes = torchrun(3, words)
    until = time.monotonic() + 200
    while not (out / "report.html").exists() and time.monotonic() < until and processes[1].poll() is None:
        time.sleep(0.02)
    os.kill(processes[1].pid, signal.SIGKILL)
    killed = time.monotonic()
    status, _, errors = ended(processes)
    assert time.monotonic() - killed < 60
    assert status == [2, -signal.SIGKILL, 2], errors
    spoken = "".join(errors)
    assert re.fullmatch(r"halfmap: error: another process of this job [^\n]+\n", spoken)
    assert spoken.endswith(f"go on with: halfmap resume {out}\n")

    status, said, errors = ended(torchrun(2, ["resume", out]))
    assert status == [0, 0], errors
    assert "Finished" in said[0] and not (out / "checkpoint").exists()
    alone, shared = (json.loads(rows(run)[-1]) for run in (refined.out, out))
    assert alone["gain"] == pytest.approx(shared["gain"], rel=0.01)  # rounding moves wavering particles
    assert alone["resolution_A"] == pytest.approx(shared["resolution_A"], rel=0.1)  # the FSC grazes 0.143 for shells
    tables = [starfile.read(run / "particles.star", always_dict=True)["particles"] for run in (refined.out, out)]
    assert list(tables[0].rlnImageName) == list(tables[1].rlnImageName)
    assert np.median(np.abs(tables[0].rlnAngleTilt - tables[1].rlnAngleTilt)) < 0.2


def test_a_process_that_fails_while_its_thread_asks_after_the_others_ends_in_order(torchrun):
    """Python aborts a process that exits while another of its threads is in torch ("terminate called")."""
    fails = """if True:
        import sys, time
        from halfmap.runtime import distributed, signs_of_life
        signs_of_life.BEAT = 0.0  # the thread asks all the time
        try:
            with distributed.joined(False, lambda: ""):
                time.sleep(0.2)
                raise ValueError
        except ValueError:
            sys.exit(3)
    """
    for _ in range(2):
        status, _, errors = ended(torchrun(2, [fails], program=("-c",)))
        assert status == [3, 3] and errors == ["", ""]


def test_python_is_not_taken_down_where_a_job_fails(torchrun):
    """torch's threads, which let go of a failed collective then, abort the process."""
    fails = """if True:
        import atexit, os, sys
        from halfmap.cli.program import main
        atexit.register(os.abort)
        sys.exit(main(["refine", "none.star", "--map", "none.mrc", "--out", "none"]))
    """
    status, _, errors = ended(torchrun(2, [fails], program=("-c",)))
    assert status == [2, 2] and "".join(errors).count("halfmap: error: ") == 1, errors


def test_one_process_goes_on_with_what_two_began_and_they_with_what_it_kept_within_an_iteration(
    dataset, stopped, resume, torchrun, tmp_path
):
    run = stopped()  # by one process, in the midst of the second iteration
    processes = torchrun(2, ["resume", run])
    until = time.monotonic() + 200
    while len(rows(run)) < 2 and time.monotonic() < until and processes[0].poll() is None:
        time.sleep(0.02)
    for process in processes:
        process.kill()
    _, said, errors = ended(processes)
    assert "iteration 2 starts anew: what was kept of it is the work of one process" in said[0], errors
    assert resume(run).status == 0
    assert len(rows(run)) == 3


def test_processes_that_were_killed_within_an_iteration_go_on_where_each_of_them_stood(dataset, torchrun, tmp_path):
    """To the bits of processes that were never stopped: sums add in the same order."""
    given = ["refine", dataset / "particles.star", "--map", dataset / "initial.mrc", *REFINE,
             "--max-iterations", 2, "--batch", 20, "--checkpoint-minutes", 1e-6]
    whole, run = tmp_path / "whole", tmp_path / "run"
    status, _, errors = ended(torchrun(2, [*given, "--out", whole]))
    assert status == [0, 0], errors
    processes, until = torchrun(2, [*given, "--out", run]), time.monotonic() + 200
    kept = [run / "checkpoint" / f"sums_{rank}_of_2" for rank in (1, 2)]
    while not all(path.exists() for path in kept) and time.monotonic() < until:
        time.sleep(0.001)
    for process in processes:
        process.kill()
    _, _, errors = ended(processes)
    assert all(path.exists() for path in kept), errors
    status, said, errors = ended(torchrun(2, ["resume", run]))
    assert status == [0, 0], errors
    assert re.search(r"iteration 1 goes on after [1-9]\d* of", said[0])
    for name in (*MAPS, "particles.star"):
        assert (whole / name).read_bytes() == (run / name).read_bytes(), name
    assert not (run / "checkpoint").exists()


def rows(run: Path) -> list[str]:
    return (run / "iterations.jsonl").read_text().splitlines() if (run / "iterations.jsonl").exists() else []


@pytest.mark.parametrize(("words", "wrong"), [
    (["refine", "{data}/particles.star", "--map", "{data}/initial.mrc", "--diameter", "1560"], "--diameter 1560"),
    (["report", "{data}"], "without torchrun"),
])
def test_a_mistake_is_told_once(words, wrong, dataset, torchrun, tmp_path):
    out = ["--out", tmp_path / "run"] if words[0] == "refine" else []
    status, said, errors = ended(torchrun(2, [word.format(data=dataset) for word in words] + out))
    assert status == [2, 2] and said == ["", ""]
    assert re.fullmatch(rf"halfmap: error: [^\n]*{wrong}[^\n]*\n", "".join(errors))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_shares_are_equal_stretches_of_the_files(parts, dataset):
    table = read_star(dataset / "particles.star")
    source = ParticleSource(table, 156.0)
    some = torch.randperm(len(table), generator=torch.Generator().manual_seed(3))[:101]
    shares = [source.share(some, part, parts) for part in range(parts)]
    assert {len(share) for share in shares} <= {101 // parts, -(-101 // parts)}
    joined = torch.cat(shares).numpy()
    assert sorted(joined) == sorted(some.tolist())
    place = table.stack_index[joined].astype(np.int64) * 1_000_000 + table.image_index[joined]
    assert (np.diff(place) > 0).all()


def test_a_process_alone_keeps_what_it_has():
    alone, values = Ranks(), torch.arange(3.0)
    alone.add_([values])
    alone.hand_out_([values])
    alone.wait()
    assert values.tolist() == [0, 1, 2] and alone.told("word") == "word"
    assert [rows.tolist() for rows in alone.rows(values, [3])] == [[0, 1, 2]]
