"""What a command left in a folder, read when it is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfmap.api.particles import Particles
from halfmap.errors import InputError
from halfmap.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]


class Maps(Mapping[str, "Float32"]):
    """The maps [z, y, x] of a folder by the names of their files without .mrc: ``maps["half1_unfil"]``.

    A map is read when it is first asked for, and kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._files = {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.mrc"))}
        self._read: dict[str, Float32] = {}
        self._voxels: dict[str, float] = {}

    def __getitem__(self, name: str) -> Float32:
        if name not in self._read:
            from halfmap.maps.mrc import read_volume

            found = read_volume(self._files[name])
            self._read[name], self._voxels[name] = found.data.numpy(), found.pixel_size
        return self._read[name]

    def voxel_size(self, name: str) -> float:
        """Side of a voxel of this map in A."""
        if name not in self._voxels:
            from halfmap.maps.mrc import read_volume

            self._voxels[name] = read_volume(self._files[name]).pixel_size
        return self._voxels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        return f"Maps({', '.join(self._files)})"


class Results:
    """What a command left.

    path: its folder, or the one file that it wrote; None where nothing was to be written. ok: whether the command line
    would end with status 0: starts agree, a refinement could begin, no particle is there twice. findings: what the
    command remarked.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, findings: Sequence[Finding] = (), ok: bool = True,
        values: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.path = None if path is None else Path(path).expanduser().absolute()
        if self.path is not None and not self.path.exists():
            raise InputError(f"{self.path}: no such folder; give one that a command wrote")
        self._findings, self.ok, self._values = tuple(findings), ok, values

    def __fspath__(self) -> str:
        if self.path is None:
            raise TypeError("nothing was written, so there is no path")
        return str(self.path)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the command remarked: warnings, and notes."""
        return self._findings

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one."""
        return self.path if self.path is not None and self.path.is_dir() else None

    @cached_property
    def maps(self) -> Maps:
        """All maps of the folder by name."""
        return Maps(self.folder)

    @cached_property
    def particles(self) -> Particles:
        """The particles that were written. Raises InputError where none were."""
        if self.path is not None and self.path.suffix.lower() in (".star", ".cs"):
            return Particles(self.path)
        star = None if self.folder is None else self.folder / "particles.star"
        if star is None or not star.is_file():
            raise InputError(f"{self.path}: holds no particles.star")
        return Particles(star)

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """What was measured, as the command's JSON file says it, or as it was told where nothing was written.

        Of several such files, their contents by name.
        """
        if self._values is not None:
            return self._values
        files = [] if self.folder is None else sorted(self.folder.glob("*.json"))
        read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
        only = next(iter(read.values())) if len(read) == 1 else read
        return only if isinstance(only, Mapping) else read

    @property
    def report(self) -> Path | None:
        """The page, if one was written."""
        pages = [] if self.folder is None else sorted(self.folder.glob("*.html"))
        return next((page for page in pages if page.name == "report.html"), pages[0] if pages else None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({None if self.path is None else str(self.path)!r})"

    def _repr_html_(self) -> str:
        from halfmap.api.notebook import results_html

        return results_html(self)
