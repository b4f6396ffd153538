"""A refinement on the pretended accelerator gives to the bit what plain kernels give on the CPU, stopped or not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import mrcfile
import pytest
import torch

from halfmap.errors import InputError
from halfmap.particles.model import write_pdb
from halfmap.refinement import em, run_time, schedule
from halfmap.refinement.half_maps import built
from halfmap.refinement.in_parts import memory_refused
from halfmap.refinement.memory_limits import available_on
from halfmap.refinement.refine import refine
from halfmap.refinement.resume import resume
from halfmap.runtime import checkpoint
from halfmap.runtime.device import computed_on, device_named
from halfmap.runtime.distributed import joined
from halfmap.settings.refine import RefineSettings
from halfmap.settings.resume import ResumeSettings
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate

MAPS = ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc", "mask.mrc")
OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {"max_iterations": 4},
    "global": {"search": "global", "regulariser": "nonuniform", "symmetry": "C2", "keep_iterations": True},
    "local": {"search": "local", "posterior": "best", "regulariser": "sparse_smooth", "ss_parameters": "local",
              "ss_steps": 3, "sums": "disk", "ewald": "auto"},
    "fixed": {"search": "fixed", "scale": "particle", "padding": 1, "flatten_solvent": False, "ewald": "positive"},
    "many": {"insertion": "gaussian", "posterior": "modes", "scale": "none", "join_halves": 40.0, "mask": "mask.mrc",
             "regulariser": "sidesplitter", "batch": 7, "deterministic": True},
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run folder, and what its report was given in each iteration."""

    out: Path
    seen: list[dict[str, Any]]

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows of iterations.jsonl, but for times."""
        rows = [json.loads(line) for line in (self.out / "iterations.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]

    def same_as(self, other: Run) -> None:
        """All results are the same to the bit."""
        assert self.records == other.records
        for name in MAPS:
            with mrcfile.open(self.out / name) as mine, mrcfile.open(other.out / name) as its:
                assert (mine.data == its.data).all(), name
        assert (self.out / "particles.star").read_text() == (other.out / "particles.star").read_text()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 particles of 24 pixels of 7 A, and a mask."""
    folder = tmp_path_factory.mktemp("particles")
    write_pdb(folder / "molecule.pdb", demo_molecule())
    simulate(SimulateSettings(model=folder / "molecule.pdb", out=folder / "data", n=24, box=24, apix=7.0, snr=2.0,
                              micrographs=3, seed=1))
    with mrcfile.open(folder / "data/truth.mrc") as file:
        mrcfile.write(folder / "data/mask.mrc", (file.data > 0.1 * file.data.max()).astype("f4"), voxel_size=7.0)
    return folder / "data"


@pytest.fixture
def run(dataset: Path, tmp_path: Path) -> Callable[..., Run]:
    """Refine in this process, two iterations unless told otherwise."""

    def go(device: str, out: str, **options: Any) -> Run:
        star = "particles_truth.star" if options.get("search") in ("local", "fixed") else "particles.star"
        given = options | ({"mask": dataset / options["mask"]} if "mask" in options else {})
        done = Run(tmp_path / out, [])
        refine(RefineSettings(
            particles=dataset / star, map=dataset / "initial.mrc", diameter=130.0, ini_high=40.0, out=done.out,
            threads=1, device=device, **{"max_iterations": 2, **given},
        ), lambda **fields: done.seen.append(fields))  # fmt: skip
        return done
    return go


@pytest.mark.parametrize("name", OPTIONS)
def test_a_refinement_gives_the_same_bits_on_both(run, accelerator, plain_kernels, monkeypatch, name):
    if name == "usual":  # one iteration of every stage
        monkeypatch.setattr(schedule, "BURN_IN_MOST", 1)
        monkeypatch.setattr(schedule, "GLOBAL_MOST", 1)
    if name == "many":  # as after a start that the images contradict
        monkeypatch.setattr(schedule.Schedule, "poor_start", lambda self, history: True)
    with plain_kernels():
        expected = run("cpu", "cpu", **{"sums": "memory"} | OPTIONS[name])
    with accelerator():
        found = run("cuda", "gpu", **OPTIONS[name])
    found.same_as(expected)
    assert len(found.seen) == len(expected.seen) == len(found.records)
    if name == "usual":
        assert [row["search"] for row in found.records] == ["burn-in", "global", "local", "final"]
    log = (found.out / "log.txt").read_text()
    assert ("in an order that repeats to the bit" in log) == ("deterministic" in OPTIONS[name])
    if name == "many":
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert "improved with all images" in found.records[0]["crosses"]
    assert f"8.0 GB available; sums {'on disk' if 'sums' in OPTIONS[name] else 'in memory'}" in log


class Died(BaseException):
    """The end of a process, as far as the program can tell."""


@pytest.mark.parametrize(("device", "sums"), [("cuda", "memory"), ("cuda", "disk"), ("cpu", "memory")])
def test_a_run_that_died_goes_on_where_it_was_begun(run, accelerator, monkeypatch, device, sums):
    often = {"batch": 6, "checkpoint_minutes": 1e-6, "regulariser": "sparse_smooth", "ss_steps": 3, "sums": sums}
    monkeypatch.setattr(checkpoint, "LARGE", 1000)  # sums of any size are put where they belong as they are read
    tally, done = em.Tally.add_, []

    def dying(*args: Any) -> None:
        done.append(1)
        if len(done) == 7:  # the first batch of the second half set of the second iteration
            raise Died
        tally(*args)

    with accelerator():
        whole = run("auto" if device == "cuda" else device, "whole", **often)
        monkeypatch.setattr(em.Tally, "add_", dying)
        with pytest.raises(Died):
            run(device, "stopped", **often)
        monkeypatch.setattr(em.Tally, "add_", tally)
    stopped = Run(whole.out.parent / "stopped", [])
    if device == "cuda" and not torch.cuda.is_available():
        with pytest.raises(InputError, match="begun on a GPU"):
            resume(ResumeSettings(run=stopped.out))
    on_gpu: list[bool] = []

    def joined_on(gpu: bool, how: Any) -> Any:
        on_gpu.append(gpu)
        return joined(gpu, how)

    monkeypatch.setattr("halfmap.refinement.resume.joined", joined_on)
    with accelerator():
        resume(ResumeSettings(run=stopped.out))
    assert on_gpu == [device == "cuda"]  # processes of a run on the CPU need no GPU each
    assert "goes on after 12 of 24 particles" in (stopped.out / "log.txt").read_text()
    stopped.same_as(whole)


def test_memory_is_that_of_the_accelerator_or_what_the_user_allows(run, accelerator):
    with accelerator(memory=3 * 10**9) as gpu:
        assert available_on(gpu, None) == 3 * 10**9
        assert available_on(gpu, 2.0) == 2 * 10**9
        assert available_on(torch.device("cpu"), None) != 3 * 10**9


@pytest.mark.parametrize("options", [
    {"max_iterations": 1, "regulariser": "nonuniform", "symmetry": "C3", "join_halves": 40.0},
    {"max_iterations": 1, "search": "local", "regulariser": "sparse_smooth", "ss_parameters": "cross-validated",
     "ss_steps": 5},
])  # fmt: skip
def test_sums_that_a_gpu_has_no_room_for_lie_elsewhere_and_give_the_same_bits(
    run, accelerator, plain_kernels, monkeypatch, options
):
    with plain_kernels():
        expected = run("cpu", "cpu", batch=12, sums="disk", **options)
    places: list[str] = []

    def looked_at(problem: Any, statistics: Any, *given: Any) -> Any:
        places.extend(one.sums.device.type for quarters in statistics for one in quarters)
        return built(problem, statistics, *given)

    monkeypatch.setattr("halfmap.refinement.refine.built", looked_at)
    with accelerator(memory=10**6):  # too little for anything
        found = run("cuda", "gpu", **options)
    found.same_as(expected)
    assert "12 images at once" in (found.out / "log.txt").read_text()
    assert "sums in the machine's memory" in (found.out / "log.txt").read_text()
    assert places == ["cpu"] * 4


def test_a_run_says_which_gpu_it_computes_on_and_how_long_that_takes_is_measured_there(run, accelerator, monkeypatch):
    for name, value in {"GPU_IMAGES": 2, "TRIAL_BOX": 48, "TRIAL_SHELL": 14, "TRIAL_SECONDS": 1e-9}.items():
        monkeypatch.setattr(run_time, name, value)
    with accelerator() as gpu:
        speed = run_time.measured_speed(1, gpu)
        assert computed_on(gpu)[0].startswith("computing on pretended GPU (8 GB)")
        done = run("cuda", "named", max_iterations=1)
    assert all(seconds > 0 for seconds in astuple(speed))
    assert "computing on pretended GPU (8 GB)" in (done.out / "log.txt").read_text()


def test_only_work_on_a_gpu_is_asked_to_repeat(accelerator):
    with accelerator():
        for name, asked in (("cpu", False), ("cuda", True)):
            device_named(name, deterministic=True)
            assert torch.are_deterministic_algorithms_enabled() == asked
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_that_refuses_memory_is_told_from_one_that_fails():
    refusals = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
                RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")]
    assert all(memory_refused(error) for error in refusals)
    assert not memory_refused(RuntimeError("CUDA error: device-side assert triggered"))
