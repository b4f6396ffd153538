"""Particle files as columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfmap.errors import InputError
from halfmap.finding import Finding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]


class Particles(Mapping[str, "NDArray[Any]"]):
    """The columns [b] of a particle file by name: ``particles["rlnAngleRot"]``. The file is read when one is asked for.

    Of a STAR file the names are RELION's without the underscore; whole numbers are int64, other numbers float64, and
    the rest is text. Of a .cs file the columns are those of its structured array. findings: what the command that wrote
    the file remarked.
    """

    def __init__(self, path: str | os.PathLike[str], *, findings: Sequence[Finding] = ()) -> None:
        self.path = Path(path)
        self.findings = tuple(findings)

    def __fspath__(self) -> str:
        return str(self.path)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """The number of columns; that of particles is ``count``."""
        return len(self._columns)

    @property
    def count(self) -> int:
        """The number of particles."""
        return len(next(iter(self._columns.values()), ()))

    @property
    def optics(self) -> Mapping[str, NDArray[Any]]:
        """The columns [g] of the table of optics groups; empty where the file has none."""
        return self._tables[1]

    @property
    def _columns(self) -> Columns:
        return self._tables[0]

    @cached_property
    def _tables(self) -> tuple[Columns, Columns]:
        """The columns of the particles, and those of the optics groups. Raises InputError where there are none."""
        if self.path.suffix.lower() in (".cs", ".csg"):
            from halfmap.particles.cryosparc_file import load_dataset

            return dict(load_dataset(self.path).fields), {}
        from halfmap.particles.star_text import read_tables

        tables = {table.name: {label: _array(column) for label, column in table.columns.items()}
                  for table in read_tables(self.path)}
        found = tables.get("particles") or next((t for t in tables.values() if "rlnImageName" in t), None)
        if found is None:
            raise InputError(f"{self.path}: holds no table of particles; give a particle file")
        return found, tables.get("optics", {})

    def __repr__(self) -> str:
        return f"Particles({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from halfmap.api.notebook import particles_html

        return particles_html(self)


def _array(column: Any) -> NDArray[Any]:
    """A column of words as numbers where all of them are, else as text."""
    import numpy as np

    words = np.asarray(column, dtype=np.str_)
    for kind in (np.int64, np.float64):
        try:
            return words.astype(kind)
        except ValueError:
            continue
    return words
