"""The grid of a map, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The grid of a cubic map: side in voxels, and size of a voxel in angstrom."""

    box: int
    pixel_size: float

    @property
    def length(self) -> float:
        """Side in angstrom."""
        return self.box * self.pixel_size


class VoxelIndex(NamedTuple):
    """Which voxel, or how many, along each axis."""

    x: int = 0
    y: int = 0
    z: int = 0


class Angstroms(NamedTuple):
    """Lengths in A along each axis."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0


FIRST, NOWHERE = VoxelIndex(), Angstroms()


@dataclass(frozen=True)
class Placement:
    """Where the first voxel of a map lies, which a file says in two ways.

    start: its indices on the grid of the whole cell (nxstart, nystart, nzstart); origin: its place in A. Of a map that
    has both, ChimeraX takes the origin, and programs of crystallography the start indices.
    """

    start: VoxelIndex = FIRST
    origin: Angstroms = NOWHERE

    def corner(self, pixel_size: float) -> Tensor:
        """Place [3] (x, y, z; A) of the first voxel: the origin, or what the start indices say where it is zero."""
        return torch.tensor(self.origin, dtype=torch.float64) if any(self.origin) else self.start_corner(pixel_size)

    def start_corner(self, pixel_size: float) -> Tensor:
        """Place [3] (x, y, z; A) of the first voxel by the start indices alone."""
        return torch.tensor(self.start, dtype=torch.float64) * pixel_size

    def contradictory(self, pixel_size: float) -> bool:
        """Whether origin and start indices are both given and place the map more than a voxel apart."""
        apart = self.corner(pixel_size) - self.start_corner(pixel_size)
        return any(self.start) and float(apart.abs().max()) > pixel_size

    def extended(self, before: VoxelIndex, pixel_size: float) -> Placement:
        """The placement once so many voxels are put in front of the first one: what was there stays."""
        start = VoxelIndex(*(index - more for index, more in zip(self.start, before, strict=True)))
        if not any(self.origin):
            return Placement(start)
        origin = Angstroms(*(place - more * pixel_size for place, more in zip(self.origin, before, strict=True)))
        # An origin that comes out as zero says nothing, and the start indices must not speak in its place.
        return Placement(start, origin) if any(origin) else Placement()


AT_ZERO = Placement()  # the first voxel at 0 A
