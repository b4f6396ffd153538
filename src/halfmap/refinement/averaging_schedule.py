"""What each iteration of two-dimensional classification does: detail, tempering, shifts, angles, how many images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from halfmap.geometry.shift_grid import shift_grid
from halfmap.maps.grid import Grid

TEMPERED = 0.6  # of the iterations: until then log-likelihoods are multiplied by less than 1
COOLEST = 0.15  # by which they are multiplied at first: assignments stay soft until means differ
RAMP = 0.7  # of the iterations: until then the limit grows
NULL_FROM = 0.6  # of tempering: from there on images of nothing belong to no class
SEEDED = 0.75  # of the iterations: until then empty classes are seeded anew
WHOLE = 3  # last iterations, which use all images
A_CLASS = 40  # images of the first subset
FEWEST = 1000
SHIFT_RANGE = 0.1  # of the diameter
PLACED_AT = 9.0  # a search over all shifts is done at detail of the diameter over this, at finest
BOLD = 1.3  # the next limit, over the resolution that the better half of the images' classes have


@dataclass(frozen=True)
class ClassPlan:
    """One iteration.

    limit: last shell of the reference; tempering: of log-likelihoods; images: of the subset; angles: in [0, 180);
    shifts [t, 2] (A): about each image's last place, or about zero where ``everywhere``. null: whether images may hold
    no particle; seeds: whether empty classes are seeded anew. area: of the shifts that are visited, as a share of
    those allowed.
    """

    iteration: int
    limit: int
    tempering: float
    images: int
    angles: int
    shifts: Tensor
    everywhere: bool
    null: bool
    seeds: bool
    area: float


@dataclass(frozen=True)
class ClassSchedule:
    """How two-dimensional classification goes on. diameter, coarse, fine: in A; images: of the whole set."""

    grid: Grid
    diameter: float
    coarse: float
    fine: float
    iterations: int
    classes: int
    images: int

    @property
    def range(self) -> float:
        """How far a particle may lie off the centre, in A."""
        return SHIFT_RANGE * self.diameter

    @property
    def last(self) -> int:
        """The last shell ever used."""
        return max(3, int(self.grid.length / self.fine))

    @property
    def placing(self) -> int:
        """The shell up to which all shifts are searched."""
        return min(self.last, max(3, int(self.grid.length * PLACED_AT / self.diameter)))

    def plan(self, iteration: int, earned: float | None) -> ClassPlan:
        """The plan of an iteration, from 1. earned: frequency (1/A) that means have reached; None: not known yet."""
        done = (iteration - 1) / max(1, self.iterations - 1)
        frequency = 1 / self.coarse + (1 / self.fine - 1 / self.coarse) * min(1.0, done / RAMP)
        if earned is not None:
            frequency = min(frequency, max(1 / self.coarse, BOLD * earned))
        limit = min(self.last, max(3, int(self.grid.length * frequency + 1e-6)))
        detail = self.grid.length / limit
        tempering = min(1.0, COOLEST + (1 - COOLEST) * done / TEMPERED)
        everywhere = limit <= self.placing
        step = 0.25 * detail
        shifts = self.all_shifts(step) if everywhere else shift_grid(1.5 * step, step)
        area = 1.0 if everywhere else min(1.0, len(shifts) * step**2 / (math.pi * self.range**2))
        return ClassPlan(iteration, limit, tempering, self._subset(iteration), self.angles(detail), shifts, everywhere,
                         tempering >= NULL_FROM, done <= SEEDED, area)

    def all_shifts(self, step: float) -> Tensor:
        """All shifts that are allowed, in A."""
        return shift_grid(self.range, min(step, self.range / 1.5))

    def angles(self, detail: float) -> int:
        """Angles in [0, 180) whose steps at the particle's rim are as long as the detail."""
        return max(6, math.ceil(0.5 * math.pi * self.diameter / detail))

    def _subset(self, iteration: int) -> int:
        """Images used: a random subset that grows to four times its size, and all in the last iterations."""
        first = max(FEWEST, A_CLASS * self.classes)
        if iteration > self.iterations - WHOLE or first >= self.images:
            return self.images
        return min(self.images, round(first * 4 ** ((iteration - 1) / max(1, self.iterations - WHOLE))))


def earned_frequency(resolution: Sequence[float], share: Tensor) -> float:
    """The frequency (1/A) that classes reach which hold the better half of the images. resolution: in A, of each class;
    share [c]: of the images."""
    order = sorted(range(len(resolution)), key=lambda c: resolution[c])
    held = 0.0
    for c in order:
        held += float(share[c])
        if held >= 0.5 * float(share.sum()):
            return 1 / resolution[c]
    return 1 / resolution[order[-1]]
