"""How much memory a process holds while it makes starts, known before an image is read.

Bytes, for images of k coefficients, and r slices of k coefficients (all classes together) at the finest detail:

    images      IMAGES n k while they are read; HELD n k from then on
    slices      SLICES r k: those of a search and its sums, those of the half before and of the iteration before it, and
                of the best start so far; JOINED r k more where those of several classes are put together
    weights     WEIGHTS of the posteriors that are held at once
    maps        four half volumes and sums of every class

The first process also takes the best start further, in somewhat finer detail: it needs most, and the others are counted
alike. Measured: 1.1 GB for 800 images of 96 pixels without symmetry, which these numbers put at 1.7 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from halfmap.expectation.soft import WEIGHTS_AT_ONCE
from halfmap.fourier.transform import half_volume_extent
from halfmap.geometry.orientation_grid import orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.maps.grid import Grid
from halfmap.refinement.memory_plan import PER_PIXEL, PROGRAM, SPARE, half_disc
from halfmap.refinement.process_layout import Room
from halfmap.refinement.soft_em import PADDING
from halfmap.refinement.starting_schedule import order_for, search_at
from halfmap.runtime.memory import allowance

IMAGES, HELD = 36, 12  # bytes of a coefficient of an image: data and CTF, thrice while they are divided
SLICES, JOINED = 60, 12  # bytes of a coefficient of a slice
WEIGHTS = 16  # bytes of a posterior weight and its log-likelihood, of both mates
PIXELS = 1 << 23  # of images that are read at once
VOLUME = 60  # bytes of a coefficient of a map's transform: sums of both halves and of all, transform, ratio


@dataclass(frozen=True)
class StartingDemand:
    """What decides the memory of a start. images: of all; grid: of the maps; diameter, in A; operators [o, 3, 3];
    classes: maps that are sought."""

    images: int
    grid: Grid
    diameter: float
    operators: torch.Tensor
    classes: int

    def room(self, processes: int, gpu: bool = False) -> Room:
        """What each of so many processes of a machine holds at its worst. gpu: slices and maps are elsewhere."""
        limit = self.grid.box // 2 - 2
        coefficients, pixels = half_disc(limit), PER_PIXEL * PIXELS
        reading = IMAGES * self.images * coefficients + pixels
        working = HELD * self.images * coefficients + (0 if gpu else self._search(limit, coefficients))
        peak = PROGRAM + max(reading, working)
        return Room(int(SPARE * peak), allowance(processes=processes))

    def _search(self, limit: int, coefficients: int) -> int:
        """Bytes of the search at the finest detail there is."""
        detail = self.grid.length / limit
        search = search_at(self.grid, self.diameter, limit, order_for(detail, self.diameter), 1.0)
        slices = self.classes * len(orientation_grid(search.order, self.operators))
        weights = 2 * slices * len(shift_grid(search.reach, search.step))
        m = half_volume_extent(PADDING, limit)
        maps = self.classes * VOLUME * (2 * m + 1) ** 2 * (m + 1)
        each = SLICES + (JOINED if self.classes > 1 else 0)
        return each * slices * coefficients + WEIGHTS * max(WEIGHTS_AT_ONCE, weights) + maps
