"""The files that a run reads, as they were when it began: a run that goes on must find the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from halfmap.errors import InputError
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable

END = 1 << 12  # bytes looked at of either end of an image stack
READERS = 8  # files looked at together: on a network disk each one is a wait
REMEDY = "since the run began; put the old file back, or refine anew"


@dataclass(frozen=True)
class InputFile:
    """A file as it was: path, size in bytes, time of the last change in ns, SHA-256 (of both ends only for a stack)."""

    path: Path
    size: int
    changed: int
    digest: str


@dataclass(frozen=True)
class Inputs:
    """The files named by the settings, the image stacks in use, and a digest of what is said about the images.

    The digest is needed because a particle file may refer to others, which change unseen.
    """

    files: tuple[InputFile, ...]
    stacks: tuple[InputFile, ...]
    particles: str

    @staticmethod
    def of(named: Sequence[Path], table: ParticleTable, files: StackFiles) -> Inputs:
        """The named files and the images of the table, as they are now; stacks through ``files``."""
        with ThreadPoolExecutor(READERS) as pool:
            stacks = tuple(pool.map(partial(_seen_stack, files), _stacks(table)))
        return Inputs(tuple(map(_seen, named)), stacks, _particles_digest(table))

    def check_files(self) -> None:
        """Raise InputError, which names the file, where one that the settings name is not what it was."""
        for file in self.files:
            _check(file, file.path)

    def check_particles(self, table: ParticleTable) -> None:
        """Raise InputError, which names the file, where images or what the table says about them have changed.

        Stacks may lie elsewhere now.
        """
        if _particles_digest(table) != self.particles:
            raise InputError(f"{table.source}: says something else about the images {REMEDY}")
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(_check, self.stacks, _stacks(table), repeat(True)):
                pass


def _stacks(table: ParticleTable) -> list[Path]:
    """The stacks in use."""
    return [table.stacks[i] for i in np.unique(table.stack_index)]


def _particles_digest(table: ParticleTable) -> str:
    digest = hashlib.sha256(repr(table.optics).encode())
    images = (table.stack_index, table.image_index, table.optics_index, table.group)
    for values in (*images, *(getattr(table.defocus, f.name).numpy() for f in fields(table.defocus))):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _seen(path: Path) -> InputFile:
    path = Path(path).absolute()
    try:
        about = path.stat()
        return InputFile(path, about.st_size, about.st_mtime_ns, _digest(path, ends=False))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _seen_stack(files: StackFiles, path: Path) -> InputFile:
    head, tail = bytearray(END), bytearray(END)
    with files.opened(path) as stack:
        version = stack.version
        read = stack.read([memoryview(head)], 0), stack.read([memoryview(tail)], max(0, version.size - END))
    digest = hashlib.sha256(head[: read[0]] + tail[: read[1]]).hexdigest()
    return InputFile(Path(path).absolute(), version.size, version.changed, digest)


def _digest(path: Path, ends: bool) -> str:
    with path.open("rb") as stream:
        if not ends:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        head = stream.read(END)
        stream.seek(max(0, path.stat().st_size - END))
        return hashlib.sha256(head + stream.read(END)).hexdigest()


def _check(before: InputFile, path: Path, ends: bool = False) -> None:
    """Raise InputError where a file, now at ``path``, has changed. Another time of change alone does not count."""
    path = Path(path).absolute()
    try:
        about = path.stat()
        if about.st_size != before.size:
            raise InputError(f"{path}: had {before.size} bytes and has {about.st_size} {REMEDY}")
        if ends and path == before.path and about.st_mtime_ns == before.changed:
            return
        if _digest(path, ends) != before.digest:
            raise InputError(f"{path}: was changed {REMEDY}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; put it back") from error
