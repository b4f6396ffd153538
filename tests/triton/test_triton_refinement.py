"""A refinement on a pretended GPU whose kernels Triton's interpreter runs ends where that of the CPU does."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from devices.conftest import accelerator, on_cpu, on_gpu

from halfmap import kernels
from halfmap.kernels import descent, insertion, paths, reference, residuals, search, slopes
from halfmap.particles.model import write_pdb
from halfmap.refinement.refine import refine
from halfmap.settings.refine import RefineSettings
from halfmap.settings.simulate import SimulateSettings
from halfmap.simulation.demo_molecule import demo_molecule
from halfmap.simulation.simulate import simulate

pytest.importorskip("triton.language")
MAPS = ("map.mrc", "half1_unfil.mrc", "half2_unfil.mrc")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 particles of 16 pixels of 10 A."""
    folder = tmp_path_factory.mktemp("particles")
    write_pdb(folder / "molecule.pdb", demo_molecule())
    simulate(SimulateSettings(model=folder / "molecule.pdb", out=folder / "data", n=16, box=16, apix=10.0, snr=2.0,
                              micrographs=2, seed=1))
    return folder / "data"


@contextmanager
def gpu_with_triton(used: set[str]) -> Iterator[None]:
    """A pretended GPU for which Triton compiles; the names of its kernels that ran are added to ``used``."""

    def elsewhere(name: str, device: torch.device, plain: ModuleType = reference) -> Callable[..., Any]:
        if name not in paths.TRITON:
            return getattr(plain, name)
        kernel = getattr(importlib.import_module(f"halfmap.kernels.{paths.TRITON[name]}"), name)

        def run(*given: Any) -> Any:
            used.add(name)
            # Of the pretence a thread of its own knows nothing, and the interpreter does each of its steps by torch.
            return on_gpu(apart.submit(kernel, *on_cpu(given)).result())
        return run

    with accelerator(), pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as apart:
        for module in (kernels, descent, insertion, residuals, search, slopes):
            patch.setattr(module, "elsewhere", elsewhere)
        patch.setattr(kernels, "compiled_by_triton", lambda device: device.type == "cuda")
        yield


def test_a_refinement_by_triton_ends_where_that_of_the_cpu_does(dataset, tmp_path):
    def run(device: str) -> Path:
        out = tmp_path / device
        refine(RefineSettings(particles=dataset / "particles_truth.star", map=dataset / "initial.mrc", diameter=130.0,
                              search="local", ini_high=40.0, out=out, threads=1, device=device, max_iterations=1),
               lambda **fields: None)
        return out

    used: set[str] = set()
    with gpu_with_triton(used):
        found = run("cuda")
    expected = run("cpu")
    assert used >= {"refine_poses", "residual_sums", "insert_samples_"}
    for name in MAPS:
        with mrcfile.open(found / name) as mine, mrcfile.open(expected / name) as its:
            assert np.corrcoef(mine.data.ravel(), its.data.ravel())[0, 1] > 0.998, name
    mine, its = ([json.loads(line) for line in (out / "iterations.jsonl").read_text().splitlines()]
                 for out in (found, expected))
    assert [row["resolution_A"] for row in mine] == pytest.approx([row["resolution_A"] for row in its], rel=0.01)
