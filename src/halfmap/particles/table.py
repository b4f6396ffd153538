"""The particle table: one row per image, with what refinement needs and every column that the user's file had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.text_column import TextColumn

Integers = NDArray[np.int64]
FLAT = 1 - 1e-12  # cosine of a tilt of 0
Column = list[str] | TextColumn | NDArray[np.generic]


def _no_numbers() -> Integers:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class ParticleTable:
    """Particles in the layout of RELION 3.1, whatever file they were read from.

    The fields are what counts. `columns` keeps every column of the file (labels without underscore) so that it can be
    written again, and `write_star` makes it agree with the fields. Tensors: defocus, rotations[b,3,3] (float64,
    reference to image frame; None where the file has no orientations), origins[b,2] (float64, x and y in A with
    RELION's sign). Numpy int64: optics_index[b] into optics, stack_index[b] into stacks, image_index[b] from 0 in the
    stack, half[b] 0 or 1 (None where there are no half sets), micrograph[b] and group[b] ids from 0, the latter into
    group_names, rows[b] from 0 in `source`. By default each micrograph is a group, and rows are in order.
    """

    columns: dict[str, Column]
    optics: tuple[OpticsGroup, ...]
    optics_index: Integers
    stacks: tuple[Path, ...]
    stack_index: Integers
    image_index: Integers
    defocus: Defocus
    rotations: Tensor | None
    origins: Tensor
    half: Integers | None
    micrograph: Integers
    source: Path
    group: Integers = field(default_factory=_no_numbers)
    group_names: tuple[str, ...] = ()
    rows: Integers = field(default_factory=_no_numbers)
    optics_columns: dict[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(len(self)))
        if not len(self.group):
            object.__setattr__(self, "group", self.micrograph)
        if not self.group_names and len(self):
            names = tuple(f"group {number}" for number in range(1, int(self.group.max()) + 2))
            object.__setattr__(self, "group_names", names)

    def __len__(self) -> int:
        return len(self.stack_index)

    @property
    def pixel_size(self) -> Tensor:
        """Pixel size of each particle's image in A (float64 [b])."""
        return torch.tensor([group.pixel_size for group in self.optics], dtype=torch.float64)[self.optics_index]

    @property
    def micrographs(self) -> Integers | None:
        """How many particles each micrograph has, those with none left out; None where the file names none."""
        if "rlnMicrographName" not in self.columns:
            return None
        counts = np.bincount(self.micrograph)
        return counts[counts > 0]

    @property
    def flat(self) -> bool:
        """Whether its angles are those of 2D classes: psi alone, or no tilt in any row."""
        if self.rotations is None:
            return "rlnAnglePsi" in self.columns
        return bool((self.rotations[:, 2, 2] > FLAT).all())

    def numbers(self, label: str) -> NDArray[np.float64]:
        """A column [b] as numbers. Raises InputError where it holds what is no number."""
        try:
            return np.array(self.columns[label], np.float64)
        except ValueError as error:
            raise InputError(f"{self.source}: {label} holds what is not a number ({error}); correct it") from None

    def name(self, index: int) -> str:
        """Names a particle in a message: the file and its row, counted from 1."""
        return f"{self.source}: row {self.rows[index] + 1}"

    def select(self, index: ArrayLike | Tensor) -> ParticleTable:
        """The particles at `index` (integers or a mask), in that order. Stacks and groups keep their ids."""
        chosen = np.asarray(index)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        at = torch.from_numpy(chosen)
        return replace(
            self,
            columns={label: taken(column, chosen) for label, column in self.columns.items()},
            optics_index=self.optics_index[chosen],
            stack_index=self.stack_index[chosen],
            image_index=self.image_index[chosen],
            defocus=self.defocus[at],
            rotations=None if self.rotations is None else self.rotations[at],
            origins=self.origins[at],
            half=None if self.half is None else self.half[chosen],
            micrograph=self.micrograph[chosen],
            group=self.group[chosen],
            rows=self.rows[chosen],
        )


def with_poses(table: ParticleTable, rotations: Tensor, origins: Tensor,
               half: ArrayLike | Tensor | None = None,
               extra: Mapping[str, ArrayLike] | None = None) -> ParticleTable:
    """The table with new rotations[b,3,3], origins[b,2] in A, half[b] (None: as before) and `extra` columns.

    `extra` maps RELION labels without underscore to one value per particle. Columns with these labels are replaced.
    """
    columns = dict(table.columns)
    for label, values in (extra or {}).items():
        column = np.asarray(values)
        if column.shape != (len(table),):
            raise ValueError(f"{label} has shape {column.shape} for {len(table)} particles")
        columns[label] = column
    halves = table.half if half is None else np.asarray(half).astype(np.int64)
    return replace(table, columns=columns, rotations=rotations.detach().double().cpu(),
                   origins=origins.detach().double().cpu(), half=halves)


def taken(column: Column, index: Integers) -> Column:
    """The values of a column at ``index`` [b], in that order."""
    return [column[i] for i in index.tolist()] if isinstance(column, list) else column[index]


def different(column: Column) -> tuple[Integers, tuple[str, ...]]:
    """Which of the different words of a column each row holds, and these words."""
    if isinstance(column, TextColumn):
        kinds = column.kinds()
        return kinds.number, kinds.words
    known: dict[str, int] = {}
    return np.array([known.setdefault(str(word), len(known)) for word in column], np.int64), tuple(known)
