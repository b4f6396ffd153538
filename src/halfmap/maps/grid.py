"""The grid of a map."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """The grid of a cubic map: side in voxels, and size of a voxel in angstrom."""

    box: int
    pixel_size: float

    @property
    def length(self) -> float:
        """Side in angstrom."""
        return self.box * self.pixel_size
