"""OUT/checkpoint of a command that goes on where it was stopped when it is given again.

`begun` says with which settings and files the command began; beside it lie the parts that are done. Every file appears
whole or not at all. The folder goes away when everything is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from halfmap.errors import InputError
from halfmap.maps.mrc import replaced_atomically
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable
from halfmap.refinement.input_files import InputFile, Inputs
from halfmap.refinement.outputs import made_folder
from halfmap.runtime import checkpoint
from halfmap.runtime.lock import only_process
from halfmap.settings.checks import BEGUN, stopped
from halfmap.settings.classes2d import Classes2dSettings
from halfmap.settings.particle_files import ParticleImageOptions
from halfmap.settings.start import StartSettings

COMMANDS = {StartSettings: "start", Classes2dSettings: "classes2d"}
FREE = ("out", "threads", "processes", "device", "data_dir")  # results are the same, or up to rounding; images may
# be moved


@dataclass(frozen=True)
class _Begun:
    settings: ParticleImageOptions
    inputs: Inputs


class CommandCheckpoints:
    """The checkpoints of a command in settings.out. device: where tensors go that did not lie on the CPU. parts:
    pattern of the names of parts. free: names of settings that may be others when the command is given again, beside
    FREE."""

    def __init__(
        self, settings: ParticleImageOptions, device: torch.device, parts: str, free: Iterable[str] = ()
    ) -> None:  # fmt: skip
        self.settings, self.device, self.parts, self.free = settings, device, parts, {*FREE, *free}
        self.path = settings.out / BEGUN
        self.folder = self.path.parent

    def check(self) -> None:
        """Raise InputError where the folder holds what another command, other settings, or particles that have
        changed since, left there."""
        if stopped(self.settings.out):
            self._begun()

    def advice(self) -> str:
        """What to do when a process of the command is gone."""
        return "The same command, given again, goes on" if stopped(self.settings.out) else ""

    def _begun(self) -> Inputs:
        out, name = f"--out {self.settings.out}", COMMANDS[type(self.settings)]
        try:
            begun: _Begun = checkpoint.load(self.path, (_Begun, Inputs, InputFile, *COMMANDS)).content
        except InputError as error:
            raise InputError(f"{out}: holds a command that was stopped and cannot be gone on with ({error}); name "
                             "another folder") from error
        if type(begun.settings) is not type(self.settings):
            other = COMMANDS[type(begun.settings)]
            raise InputError(f"{out}: holds a `halfmap {other}` that was stopped; give that command, or name another "
                             "folder")
        for f in fields(self.settings):
            before, now = getattr(begun.settings, f.name), getattr(self.settings, f.name)
            if f.name not in self.free and before != now:
                raise InputError(f"{out}: holds a `halfmap {name}` that was stopped, with {f.name} = {before}, not "
                                 f"{now}; give the same command, or name another folder")
        begun.inputs.check_files()
        return begun.inputs

    @contextmanager
    def held(self, table: ParticleTable, files: StackFiles) -> Iterator[None]:
        """Keep other processes from the folder while the block lasts, and begin, or go on with the same particles."""
        made_folder(self.folder)
        with only_process(self.folder / "lock", str(self.settings.out), f"halfmap {COMMANDS[type(self.settings)]}"):
            if stopped(self.settings.out):
                self._begun().check_particles(table)
                for path in (*self.settings.out.glob(".*.tmp"), *self.folder.glob(".*.tmp")):  # left by a killed one
                    _delete(path)
            else:
                named = [path for path in (self.settings.particles, self.settings.passthrough) if path is not None]
                with replaced_atomically(self.path) as stream:
                    checkpoint.dump(stream, _Begun(self.settings, Inputs.of(named, table, files)))
            yield

    def keep(self, part: str, content: Any) -> None:
        """Write a part that is done, as `checkpoint.dump` takes it."""
        with replaced_atomically(self.folder / part) as stream:
            checkpoint.dump(stream, content)

    def kept(self, part: str, records: Iterable[type]) -> Any:
        """A part as it was written, or None. records: as `checkpoint.load` takes them. Raises InputError where it is
        there and cannot be used."""
        path = self.folder / part
        return checkpoint.load(path, records, self.device).content if path.is_file() else None

    def drop(self, part: str) -> None:
        """Forget a part."""
        _delete(self.folder / part)

    def remove(self) -> None:
        """Everything is written: there is nothing to go on with."""
        for path in (self.path, *self.folder.glob(self.parts), self.folder / "lock"):
            _delete(path)
        with suppress(OSError):  # something else lies there
            self.folder.rmdir()


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
