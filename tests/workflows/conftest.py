"""Small simulated projects, made once, and ``halfmap refine`` on them as a user would run it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile

from halfmap.cli import main
from halfmap.geometry.symmetry import symmetry_group
from halfmap.particles.model import write_pdb
from halfmap.particles.star import read_star
from halfmap.settings import SimulateSettings
from halfmap.validation.fsc import fsc
from halfmap.validation.poses import PoseError, pose_error
from halfmap.workflows.demo_molecule import demo_molecule
from halfmap.workflows.simulate import simulate

DIAMETER = 156.0  # A: the demo molecule and the spread of its place


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said; the run folder is `out`."""

    status: int
    said: str
    error: str
    out: Path

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows of iterations.jsonl."""
        return [json.loads(line) for line in (self.out / "iterations.jsonl").read_text().splitlines()]

    def map(self, name: str) -> np.ndarray:
        """A map of the run folder, as another program reads it."""
        with mrcfile.open(self.out / name) as file:
            return np.array(file.data)

    def poses_against(self, truth: Path, symmetry: str = "C1") -> PoseError:
        """Errors of the refined poses."""
        return pose_error(read_star(self.out / "particles.star"), read_star(truth), symmetry_group(symmetry))

    def agreement(self, truth: Path) -> np.ndarray:
        """FSC by shell of the mean of the half maps with a map in the same frame."""
        import torch

        mean = self.map("half1_unfil.mrc") + self.map("half2_unfil.mrc")
        with mrcfile.open(truth) as file:
            return fsc(torch.from_numpy(mean), torch.from_numpy(np.array(file.data))).numpy()


Refine = Callable[..., Outcome]


@pytest.fixture(scope="session")
def molecule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "molecule.pdb"
    write_pdb(path, demo_molecule())
    return path


@pytest.fixture(scope="session")
def simulated(molecule: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Simulate with these settings, once for all tests that ask for the same; the folder must not be changed."""
    made: dict[tuple[tuple[str, Any], ...], Path] = {}

    def make(**settings: Any) -> Path:
        usual = {"model": molecule, "n": 200, "box": 40, "apix": 4.2, "snr": 0.5, "micrographs": 4, "seed": 1}
        wanted = usual | settings
        key = tuple(sorted(wanted.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("simulated")
            simulate(SimulateSettings(out=out, **wanted))
            made[key] = out
        return made[key]

    return make


@pytest.fixture(scope="session")
def dataset(simulated: Callable[..., Path]) -> Path:
    """200 particles of 40 pixels of 4.2 A; not to be changed."""
    return simulated()


@pytest.fixture
def project(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the data set for a test to spoil."""
    return Path(shutil.copytree(dataset, tmp_path / "project"))


@pytest.fixture(scope="session")
def halfmap() -> Callable[[Sequence[str]], Outcome]:
    """Run a command line in this process; without --out its first word is the folder."""

    def run(words: Sequence[object]) -> Outcome:
        line = [str(word) for word in words]
        said, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
            status = main(line)
        out = line[line.index("--out") + 1 if "--out" in line else 1]
        return Outcome(status, said.getvalue(), error.getvalue(), Path(out))

    return run


@pytest.fixture(scope="session")
def refine(halfmap: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Refine:
    """Refine a folder made by ``simulate`` with further options; three iterations unless they say otherwise."""

    def run(folder: Path, *options: object, star: str = "particles.star", start: str = "initial.mrc",
            diameter: float = DIAMETER, out: Path | None = None) -> Outcome:
        out = out or tmp_path_factory.mktemp("run") / "run"
        few = [] if "--max-iterations" in options else ["--max-iterations", 3]
        threads = [] if "--threads" in options else ["--threads", 1]
        return halfmap(["refine", folder / star, "--map", folder / start, "--diameter", diameter, "--out", out,
                        *few, *threads, *options])

    return run


@pytest.fixture(scope="session")
def refined(refine: Refine, dataset: Path) -> Outcome:
    """The data set refined through all stages."""
    done = refine(dataset, "--max-iterations", 10)
    assert done.status == 0, done.error
    return done


@pytest.fixture(scope="session")
def brief(refine: Refine, dataset: Path) -> Outcome:
    """The data set refined for three iterations: what variations of it are compared with."""
    done = refine(dataset)
    assert done.status == 0, done.error
    return done


Tables = dict[str, Any]


@pytest.fixture(scope="session")
def edit_star() -> Callable[[Path, Path, Callable[[Tables], None]], Path]:
    """Read a STAR file with another library, let a function change its tables, and write it."""

    def edit(source: Path, target: Path, change: Callable[[Tables], None]) -> Path:
        tables = starfile.read(source, always_dict=True)
        change(tables)
        starfile.write(tables, target, overwrite=True)
        return target

    return edit


@pytest.fixture(scope="session")
def edit_stack() -> Callable[[Path, Callable[[np.ndarray], np.ndarray]], None]:
    """Replace the images of a stack by a function of them."""

    def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
        with mrcfile.open(path) as file:
            images, pixel = np.array(file.data), float(file.voxel_size.x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NaN
            mrcfile.write(path, change(images), voxel_size=pixel, overwrite=True)

    return edit


@pytest.fixture(scope="session")
def resume(halfmap: Callable[..., Outcome]) -> Refine:
    """Resume the run in a folder, with further options."""
    return lambda run, *options: halfmap(["resume", run, *options])


class Died(BaseException):
    """The end of a process, as far as the program can tell."""


class Dying:
    """Lets the program die, in this process, when it is about to give a file its name."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.replace = patch, os.replace

    def after(self, files: int, run: Callable[[], object]) -> bool:
        """Run until so many files got their names; whether it died of that."""
        left = [files]

        def replaced(source: Path, target: Path) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Died
            self.replace(source, target)

        with self.patch.context() as patch:
            patch.setattr("os.replace", replaced)
            try:
                run()
            except Died:
                return True
        return False


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Dying:
    return Dying(monkeypatch)


SAVED_OFTEN = ("--batch", 20, "--checkpoint-minutes", 1e-6)  # ten batches an iteration, each of them saved


@pytest.fixture(scope="session")
def whole(refine: Refine, dataset: Path) -> Path:
    """A run that saves its sums often, and that nobody stopped."""
    done = refine(dataset, *SAVED_OFTEN)
    assert done.status == 0, done.error
    return done.out


@pytest.fixture
def stopped(refine: Refine, dataset: Path, dying: Dying, tmp_path: Path) -> Callable[..., Path]:
    """The same run, which died in its second iteration with a part of the particles done, unless told otherwise."""

    def make(folder: Path = dataset, files: int = 25, *options: object, **given: Any) -> Path:
        out = tmp_path / "run"
        assert dying.after(files, lambda: refine(folder, *SAVED_OFTEN, *options, out=out, **given))
        return out

    return make
