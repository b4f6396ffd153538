"""What two-dimensional classes need before their images are read: the grid of the means, and room for coefficients."""

from __future__ import annotations

import numpy as np

from halfmap.errors import InputError
from halfmap.maps.grid import Grid
from halfmap.particles.source import ParticleSource
from halfmap.runtime.memory import allowance

HELD = 12  # bytes of a coefficient: data and contrast
ROOM = 0.45  # of the memory there is that coefficients may take: they are there twice while parts are joined


def reference_grid(source: ParticleSource) -> Grid:
    """The grid of class means: that of the optics group with most images."""
    table = source.table
    largest = table.optics[int(np.bincount(table.optics_index, minlength=len(table.optics)).argmax())]
    return Grid(largest.box, largest.pixel_size)


def check_memory(source: ParticleSource, limit: int) -> None:
    """Raise InputError where coefficients up to a shell of the reference would not fit into memory."""
    needed = HELD * len(source.table) * 1.6 * (limit + 1) ** 2
    there = ROOM * allowance()
    if needed > there:
        raise InputError(f"{source.table.source}: the coefficients of {len(source.table):,} images would take "
                         f"{needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are free for them; give a random part of "
                         "the images, or a coarser --max-resolution")
