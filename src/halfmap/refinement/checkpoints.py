"""RUN/checkpoint: what a refinement needs to go on after it was stopped, at any moment.

`state` is rewritten after every iteration, once the results of the iteration are in their files. Within an iteration
that takes long, every process also saves `sums` of its own images, so that the iteration goes on at the batch where it
stood. Each file appears whole or not at all. The folder goes away when the run is finished.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.curvature import CurvatureEvidence
from halfmap.imaging.optics import CtfState, OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.maps.mrc import replaced_atomically
from halfmap.reconstruction.statistics import Backprojection, Place
from halfmap.refinement.ctf_signs import SignSums
from halfmap.refinement.em import Expectation
from halfmap.refinement.input_files import InputFile, Inputs
from halfmap.refinement.input_prior import InputPrior, Moves
from halfmap.refinement.memory_limits import MemoryLimits
from halfmap.refinement.outputs import Record, made_folder
from halfmap.refinement.refined_optics import RefinedOptics
from halfmap.refinement.schedule import Progressed
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import Tally
from halfmap.runtime import checkpoint
from halfmap.runtime.lock import only_process
from halfmap.runtime.stopwatch import Cost
from halfmap.settings.classify import ClassifySettings
from halfmap.settings.commands import RunSettings
from halfmap.settings.refine import RefineSettings

OF_PROCESSES = re.compile(r"sums(?:_\d+_of_(\d+))?")
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # what replaced_atomically leaves when it is killed


@dataclass(frozen=True)
class Origin:
    """How a run began: settings, the limits that its memory plan keeps to, time, working folder, kind of device, the
    rows [b] of the particle file that it uses, the grid of its maps, and the files that it reads. processes: the number
    on its machine, if it started them itself (0: torchrun did)."""

    settings: RunSettings
    limits: MemoryLimits
    started: str
    working_folder: Path
    device: str
    rows: np.ndarray
    grid: Grid
    inputs: Inputs
    processes: int


@dataclass
class Course:
    """A run between two iterations: how it began, and where it stands.

    history: what each iteration achieved, as the schedule needs it; records: the same in full; findings: what was
    found in the input, which holds for the whole run.
    """

    origin: Origin
    state: State
    history: list[Progressed] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class StepIdentity:
    """Identifies an expectation step. Sums that were saved within one serve only a step of the same identity.

    iteration: of the state that it starts from; batch: images at once (0: automatic); apart: whether quarter sets are
    made one after the other.
    """

    iteration: int
    batch: int
    apart: bool


@dataclass(frozen=True)
class _Sums:
    """An expectation step under way, as it is saved."""

    step: StepIdentity
    so_far: Expectation


RECORDS = (
    Origin, Course, Finding, StepIdentity, _Sums, Inputs, InputFile, RefineSettings, ClassifySettings, MemoryLimits,
    Grid, State, PoseTable, Progressed, Expectation, Tally, Cost, Backprojection, InputPrior, Moves, SignSums,
    RefinedOptics, Defocus, OpticsGroup, CtfState,
    CurvatureEvidence,
)  # fmt: skip


class Checkpoints:
    """The checkpoints of the run in a folder.

    minutes: how often sums are saved within an iteration; device: where tensors go that did not lie on the CPU; rank,
    world: which process this is, and of how many.
    """

    def __init__(
        self, run: Path, minutes: float, device: torch.device | str = "cpu", rank: int = 0, world: int = 1
    ) -> None:
        self.run, self.folder, self.device, self.rank, self.world = run, run / "checkpoint", device, rank, world
        self.interval, self.saved = 60 * minutes, time.monotonic()
        self.fault = ""

    @contextmanager
    def held(self, command: str) -> Iterator[None]:
        """Keep other processes from the run while the block lasts. command: what is being run, to tell them."""
        made_folder(self.folder)
        with only_process(self.folder / "lock", str(self.run), command):
            yield

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Within the block, a fault that the user can mend says how to go on after that."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{error}. Then go on with: halfmap resume {self.run}") from error

    @property
    def exist(self) -> bool:
        """Whether there is something to go on from."""
        return (self.folder / "state").is_file()

    @property
    def within_iteration(self) -> bool:
        """Whether there are sums of an iteration under way."""
        return self._sums.is_file()

    @property
    def _sums(self) -> Path:
        return self.folder / ("sums" if self.world == 1 else f"sums_{self.rank + 1}_of_{self.world}")

    def save(self, course: Course) -> None:
        """Keep the state after an iteration. Sums are deleted first: they may be large, and the disk may be full."""
        self.drop_sums()
        with replaced_atomically(self.folder / "state") as stream:
            checkpoint.dump(stream, course)
        self.saved, self.fault = time.monotonic(), ""

    def load(self) -> tuple[Course, dict[str, str]]:
        """The last state kept, and the versions of the libraries that wrote it. Raises as `checkpoint.load`."""
        course, libraries = self._read("state")
        return course, libraries

    def keep(self, step: StepIdentity, so_far: Expectation) -> str:
        """Save an expectation step under way, if it is time to.

        Returns what went wrong, and says it once: the run itself does not need these sums.
        """
        if self.fault or time.monotonic() - self.saved < self.interval:
            return ""
        try:
            with replaced_atomically(self._sums) as stream:
                checkpoint.dump(stream, _Sums(step, so_far))
        except InputError as error:
            self.fault = str(error)
        self.saved = time.monotonic()
        return self.fault

    def begun(self, step: StepIdentity, place: Place | None = None) -> tuple[Expectation | None, str]:
        """An expectation step as far as it was saved, or why it cannot be gone on with.

        place: where its sums are put (None: in memory).
        """
        if not self.within_iteration:
            return None, self._of_others()
        try:
            sums: _Sums = self._read(self._sums.name, place)[0]
        except InputError as error:
            return None, str(error)
        if sums.step != step:
            return None, ""
        made = tuple(tuple(one.beside_core() for one in quarters) for quarters in sums.so_far.statistics)
        return replace(sums.so_far, statistics=made), ""

    def _of_others(self) -> str:
        """Delete sums that another number of processes saved, in the first process, and say so."""
        saved = {path: OF_PROCESSES.fullmatch(path.name) for path in self.folder.glob("sums*")}
        others = {path: int(name[1] or 1) for path, name in saved.items() if name and int(name[1] or 1) != self.world}
        if self.rank or not others:
            return ""
        for path in others:
            _delete(path)
        count = max(others.values())
        return f"what was kept of it is the work of {'one process' if count == 1 else f'{count} processes'}"

    def drop_sums(self) -> None:
        """Delete this process's sums: their iteration is over, or starts anew."""
        _delete(self._sums)

    def remove(self) -> None:
        """The run is finished: there is nothing to go on with."""
        for path in (self.folder / "state", *self.folder.glob("sums*"), self.folder / "lock"):
            _delete(path)
        with suppress(OSError):  # something else lies there
            self.folder.rmdir()

    def clean(self) -> None:
        """Delete what was being written when the run was killed."""
        for folder in (self.run, self.folder, self.run / "iterations"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if TEMPORARY.fullmatch(path.name):
                    _delete(path)

    def _read(self, name: str, place: Place | None = None) -> tuple[Any, dict[str, str]]:
        return checkpoint.load(self.folder / name, RECORDS, self.device, place)


def _delete(path: Path) -> None:
    """Where a file cannot be deleted, writing the next one says why."""
    with suppress(OSError):
        path.unlink()
