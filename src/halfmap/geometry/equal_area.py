"""Cells of equal area on the sphere, in rings of constant tilt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Equal-area cells in rings of constant tilt: ring edges [ring+1] (radians) and cells per ring [ring]."""

    edges: Float
    counts: NDArray[np.int64]

    @property
    def first(self) -> NDArray[np.int64]:
        """Index of the first cell of each ring [ring+1], with the number of all cells at the end."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    def locate(self, directions: Float) -> NDArray[np.int64]:
        """Index [b] of the cell that holds each unit vector [b,3]."""
        tilt = np.arccos(np.clip(directions[:, 2], -1, 1))
        ring = np.clip(np.searchsorted(self.edges, tilt, side="right") - 1, 0, len(self.counts) - 1)
        turn = np.mod(np.arctan2(directions[:, 1], directions[:, 0]) / (2 * np.pi), 1.0)
        place = (turn * self.counts[ring]).astype(np.int64)
        return self.first[ring] + np.minimum(place, self.counts[ring] - 1)


@lru_cache(maxsize=4)
def equal_area_cells(rings: int) -> Cells:
    """Nearly square cells of exactly equal area.

    The number of cells in a ring follows its circumference. The edges of the rings are then moved so that a ring's
    share of the area, (cos edge - cos next edge) / 2, equals its share of the cells.
    """
    middle = (np.arange(rings) + 0.5) * np.pi / rings
    counts = np.maximum(np.round(2 * rings * np.sin(middle)), 3).astype(np.int64)
    share = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    return Cells(np.arccos(np.clip(1 - 2 * share, -1, 1)), counts)


def cell_centres(cells: Cells) -> Float:
    """Unit vectors [cell,3] at the centres of the cells."""
    ring = np.repeat(np.arange(len(cells.counts)), cells.counts)
    place = np.arange(int(cells.counts.sum())) - cells.first[ring]
    turn = 2 * np.pi * (place + 0.5) / cells.counts[ring]
    tilt = (cells.edges[ring] + cells.edges[ring + 1]) / 2
    return np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)], axis=1)
