"""What two-dimensional classes need before their images are read: the grid of the means, who has which images, and room
for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.expectation.soft import WEIGHTS_AT_ONCE
from halfmap.maps.grid import Grid
from halfmap.particles.source import ParticleSource
from halfmap.reconstruction.class_means import Plane
from halfmap.refinement.averaging_schedule import ClassSchedule
from halfmap.refinement.memory_plan import PER_PIXEL, PROGRAM, SPARE, half_disc
from halfmap.refinement.process_layout import Room
from halfmap.runtime.distributed import ALONE, Ranks
from halfmap.runtime.memory import allowance

HELD = 24  # bytes of a coefficient of an image: data and contrast, twice while parts are joined
PIXELS = 1 << 23  # of images that are read at once
SLICES = 60  # bytes of a coefficient of a slice: slices, sums of both halves, and these while they are inserted
WEIGHTS = 16  # bytes of a posterior weight and its log-likelihood, of both mates
PLANES = 160  # bytes of a place of a mean's plane: sums of both halves, folded, divided, moved
POSES = 300  # bytes of an image in the first process: its pose, where it travels, and in the checkpoint


@dataclass(frozen=True)
class SharedImages:
    """The images of several processes. rows: the particles [b] of each, int64, in equal stretches of the files."""

    ranks: Ranks
    rows: list[Tensor]

    @staticmethod
    def alone(images: int) -> SharedImages:
        """All images in this process."""
        return SharedImages(ALONE, [torch.arange(images)])

    @staticmethod
    def divided(source: ParticleSource, ranks: Ranks) -> SharedImages:
        """Equal stretches of the images of a source."""
        every = torch.arange(len(source.table))
        return SharedImages(ranks, [source.share(every, part, ranks.world) for part in range(ranks.world)])

    @property
    def mine(self) -> Tensor:
        """The particles [b] of this process."""
        return self.rows[self.ranks.rank]


def reference_grid(source: ParticleSource) -> Grid:
    """The grid of class means: that of the optics group with most images."""
    table = source.table
    largest = table.optics[int(np.bincount(table.optics_index, minlength=len(table.optics)).argmax())]
    return Grid(largest.box, largest.pixel_size)


def averaging_room(schedule: ClassSchedule, processes: int, world: int | None = None, gpu: bool = False) -> Room:
    """What each process holds at its worst, known before an image is read. processes: of a machine; world: of all
    machines; gpu: slices are elsewhere."""
    limit = schedule.last
    images, k = -(-schedule.images // (world or processes)), half_disc(limit)
    plan = schedule.plan(schedule.iterations, None)
    slices = schedule.classes * schedule.angles(schedule.grid.length / limit)
    span = 2 * Plane(schedule.grid.box, limit).extent + 1
    working = 0 if gpu else SLICES * slices * k + WEIGHTS * max(WEIGHTS_AT_ONCE, 2 * slices * len(plan.shifts))
    working += PLANES * schedule.classes * span**2 + POSES * schedule.images
    peak = PROGRAM + HELD * images * k + max(PER_PIXEL * PIXELS, working)
    return Room(int(SPARE * peak), allowance(processes=processes))
