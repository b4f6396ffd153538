"""RUN/checkpoint: what a refinement needs to go on after it was stopped, at any moment.

`state` is rewritten after every iteration, when the results of the iteration are in their files; `sums` within an
iteration that takes long, so that it goes on at the batch where it stood: by every process, of its own images. Each
appears whole or not at all. The folder goes away when the run is finished.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically
from halfmap.reconstruction.statistics import Backprojection, Place
from halfmap.refinement.em import Expectation, Tally
from halfmap.refinement.input_files import InputFile, Inputs
from halfmap.refinement.outputs import Record, made_folder
from halfmap.refinement.schedule import Progressed
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime import checkpoint
from halfmap.runtime.lock import only_process
from halfmap.settings.refine import RefineSettings

OF_PROCESSES = re.compile(r"sums(?:_\d+_of_(\d+))?")
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # what replaced_atomically leaves when it is killed


@dataclass(frozen=True)
class Origin:
    """How a run began: settings, time and working folder; the device's kind; the rows [b] of the particle file that it
    uses; box and pixel size of its maps; and what it reads."""

    settings: RefineSettings
    started: str
    working_folder: Path
    device: str
    rows: np.ndarray
    grid: tuple[int, float]
    inputs: Inputs


@dataclass
class Course:
    """A run between two iterations: how it began, where it stands, what each iteration achieved, for the schedule and
    in full, and warnings that wait for the next record."""

    origin: Origin
    state: State
    history: list[Progressed] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Sums:
    """An expectation step under way, and what it depends on: the iteration whose state it started from, the size of
    batches (None: as usual), and whether quarter sets are made apart."""

    under: tuple[int, int | None, bool]
    so_far: Expectation


RECORDS = (
    Origin, Course, _Sums, Inputs, InputFile, RefineSettings, State, PoseTable, Progressed, Expectation, Tally,
    Backprojection,
)  # fmt: skip


class Checkpoints:
    """The checkpoints of the run in a folder. minutes: how often sums are saved within an iteration; process: which one
    of how many this is."""

    def __init__(
        self, run: Path, minutes: float, device: torch.device | str = "cpu", process: tuple[int, int] = (0, 1)
    ) -> None:
        self.run, self.folder, self.device, self.process = run, run / "checkpoint", device, process
        self.interval, self.saved = 60 * minutes, time.monotonic()
        self.fault = ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from the run while the block lasts."""
        made_folder(self.folder)
        with only_process(self.folder / "lock", str(self.run)):
            yield

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """A fault within the block, which the user can mend, says how to go on then."""
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
        rank, world = self.process
        return self.folder / ("sums" if world == 1 else f"sums_{rank + 1}_of_{world}")

    def save(self, course: Course) -> None:
        """Keep the state after an iteration. Its sums, which may be large, go first: the disk may be full."""
        self.drop_sums()
        with replaced_atomically(self.folder / "state") as stream:
            checkpoint.dump(stream, course)
        self.saved, self.fault = time.monotonic(), ""

    def load(self) -> tuple[Course, dict[str, str]]:
        """The last state kept, and the versions of the libraries that wrote it; InputError as `checkpoint.load`."""
        course, libraries = self._read("state")
        return course, libraries

    def keep(self, under: tuple[int, int | None, bool], so_far: Expectation) -> str:
        """Save an expectation step under way if it is time to; under: see _Sums. Returns what went wrong, once: the run
        itself does not need it."""
        if self.fault or time.monotonic() - self.saved < self.interval:
            return ""
        try:
            with replaced_atomically(self._sums) as stream:
                checkpoint.dump(stream, _Sums(under, so_far))
        except InputError as error:
            self.fault = str(error)
        self.saved = time.monotonic()
        return self.fault

    def begun(
        self, under: tuple[int, int | None, bool], place: Place | None = None
    ) -> tuple[Expectation | None, str]:
        """An expectation step as far as it was saved, and why it cannot be gone on with.

        place: where its sums are put (None: in memory).
        """
        if not self.within_iteration:
            return None, self._of_others()
        try:
            sums: _Sums = self._read(self._sums.name, place)[0]
        except InputError as error:
            return None, str(error)
        return (sums.so_far if sums.under == under else None), ""

    def _of_others(self) -> str:
        """Says if sums were saved by another number of processes, which the first process then deletes."""
        rank, world = self.process
        saved = {path: OF_PROCESSES.fullmatch(path.name) for path in self.folder.glob("sums*")}
        others = {path: int(name[1] or 1) for path, name in saved.items() if name and int(name[1] or 1) != world}
        if rank or not others:
            return ""
        for path in others:
            _delete(path)
        count = max(others.values())
        return f"what was kept of it is the work of {'one process' if count == 1 else f'{count} processes'}"

    def drop_sums(self) -> None:
        """Forget this process's sums of an iteration that is over, or starts anew."""
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
