"""OUT/checkpoint: the starts that a stopped `halfmap start` has finished; the same command goes on from them.

`begun` says with which settings and files the command began; `start_01` and so on each hold a start at its end. Every
file appears whole or not at all. The folder goes away when everything is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.expectation.soft import GridSums
from halfmap.maps.mrc import replaced_atomically
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable
from halfmap.refinement.input_files import InputFile, Inputs
from halfmap.refinement.outputs import made_folder
from halfmap.refinement.soft_em import ImagePoses, SlicesSeen, SoftMaps, SoftStep, SoftTask
from halfmap.refinement.starts import Start
from halfmap.runtime import checkpoint
from halfmap.runtime.lock import only_process
from halfmap.settings.start import BEGUN, StartSettings, stopped

FREE = ("starts", "hand", "out", "threads", "device", "data_dir")  # no start depends on them; images may be moved


@dataclass(frozen=True)
class _Begun:
    settings: StartSettings
    inputs: Inputs


@dataclass(frozen=True)
class _Slices:
    """`SlicesSeen` of a frame without its images, which are in their files."""

    rotations: Tensor
    sums: GridSums


@dataclass(frozen=True)
class _Kept:
    """A start without the slices that its last iteration saw, and these, frame by frame."""

    start: Start
    seen: list[_Slices]


RECORDS = (_Begun, _Slices, _Kept, StartSettings, Inputs, InputFile, Start, SoftStep, SoftMaps, ImagePoses, GridSums)


class StartCheckpoints:
    """The checkpoints of the starts in settings.out. device: where tensors go that did not lie on the CPU."""

    def __init__(self, settings: StartSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.path = settings.out / BEGUN
        self.folder = self.path.parent

    def check(self) -> None:
        """Raise InputError where the folder holds starts of other settings, or of particles that have changed."""
        if stopped(self.settings.out):
            self._begun()

    def _begun(self) -> Inputs:
        try:
            begun: _Begun = checkpoint.load(self.path, RECORDS).content
        except InputError as error:
            raise InputError(f"--out {self.settings.out}: holds a start that was stopped and cannot be gone on with "
                             f"({error}); name another folder") from error
        for f in fields(StartSettings):
            before, now = getattr(begun.settings, f.name), getattr(self.settings, f.name)
            if f.name not in FREE and before != now:
                raise InputError(f"--out {self.settings.out}: holds a start that was stopped, with {f.name} = {before},"
                                 f" not {now}; give the same command, or name another folder")
        begun.inputs.check_files()
        return begun.inputs

    @contextmanager
    def held(self, table: ParticleTable, files: StackFiles) -> Iterator[None]:
        """Keep other processes from the folder while the block lasts, and begin, or go on with the same particles."""
        made_folder(self.folder)
        with only_process(self.folder / "lock", str(self.settings.out), "halfmap start"):
            if stopped(self.settings.out):
                self._begun().check_particles(table)
                for path in (*self.settings.out.glob(".*.tmp"), *self.folder.glob(".*.tmp")):  # left by a killed one
                    _delete(path)
            else:
                named = [path for path in (self.settings.particles, self.settings.passthrough) if path is not None]
                with replaced_atomically(self.path) as stream:
                    checkpoint.dump(stream, _Begun(self.settings, Inputs.of(named, table, files)))
            yield

    def save(self, start: Start) -> None:
        """Keep a start that is finished."""
        seen = [_Slices(one.rotations, one.sums) for one in start.last.seen]
        with replaced_atomically(self._of(start.number)) as stream:
            checkpoint.dump(stream, _Kept(replace(start, last=replace(start.last, seen=[])), seen))

    def load(self, number: int, task: SoftTask) -> Start | None:
        """Start ``number`` as it was kept, or None. Raises InputError where it is there and cannot be used."""
        path = self._of(number)
        if not path.is_file():
            return None
        kept: _Kept = checkpoint.load(path, RECORDS, self.device).content
        seen = []
        for images, one in zip(task.halves[0], kept.seen, strict=True):
            k = one.sums.real.shape[1]
            seen.append(SlicesSeen(replace(images, y=images.y[:, :k], c=images.c[:, :k]), one.rotations, one.sums))
        return replace(kept.start, last=replace(kept.start.last, seen=seen))

    def remove(self) -> None:
        """Everything is written: there is nothing to go on with."""
        for path in (self.path, *self.folder.glob("start_*"), self.folder / "lock"):
            _delete(path)
        with suppress(OSError):  # something else lies there
            self.folder.rmdir()

    def _of(self, number: int) -> Path:
        return self.folder / f"start_{number:02d}"


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
