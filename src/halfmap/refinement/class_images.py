"""Images as coefficients to a coarse limit, read once and held: two-dimensional classes are found without the stacks.

Of an image of 100 pixels some 300 coefficients are held: 4 kB, a tenth of its pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.imaging.forward import Geometries, ImagingGeometry, band_images
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle
from halfmap.particles.source import ParticleSource
from halfmap.runtime.memory import allowance

MASK_EDGE = 5.0  # pixels of the cosine edge of the circular image mask
HELD = 12  # bytes of a coefficient: data and contrast
ROOM = 0.45  # of the memory there is that coefficients may take: they are there twice while parts are joined


@dataclass(frozen=True)
class HeldImages:
    """Images of one frame.

    geometry: of their coefficients k; index int64 [b]: their particles, ascending in `order`; groups int64 [b]: optics
    groups; values complex64 [b, k]: under a circular mask; contrast float32 [b, k]: the CTF. mask_power: mean square of
    the mask.
    """

    geometry: ImagingGeometry
    index: Tensor
    groups: Tensor
    values: Tensor
    contrast: Tensor
    mask_power: float

    def __len__(self) -> int:
        return len(self.index)

    def whitened(self, some: Tensor, sigma2: Tensor, scale: float, count: int) -> Whitened:
        """The first ``count`` coefficients of images ``some`` [b] (places in this frame), under noise sigma2 [g, s]."""
        shell = self.geometry.band.shell[:count]
        root = torch.rsqrt(sigma2[:, shell]).float()[self.groups[some]]
        return Whitened(self.values[some, :count] * root, self.contrast[some, :count] * root * scale)


@dataclass(frozen=True)
class Whitened:
    """Data y [b, k] and contrast c [b, k] over the standard deviation of the noise."""

    y: Tensor
    c: Tensor


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


def held_images(
    source: ParticleSource, grid: Grid, limit: int, advance: Callable[[int], None] = lambda n: None
) -> list[HeldImages]:
    """Stream all images once and keep their coefficients up to a shell ``limit`` of the reference, by frame."""
    table = source.table
    geometries = Geometries(grid.box, grid.pixel_size, limit, torch.device("cpu"))
    frames: dict[object, list[HeldImages]] = {}
    for batch in source.stream(torch.arange(len(table))):
        for part in batch.apart():
            optics = table.optics[part.group]
            geometry = geometries.of(optics)
            radius = min(0.5 * source.diameter / optics.pixel_size, optics.box / 2 - 1.0)
            mask = soft_circle(optics.box, radius, MASK_EDGE)
            flat = torch.ones(optics.box // 2 + 1)
            seen = band_images(part.images, mask, geometry, table.defocus[part.index], flat, torch.ones(len(part)))
            held = HeldImages(geometry, part.index, part.groups, seen.scored, seen.ctf, float((mask**2).mean()))
            frames.setdefault(optics.frame, []).append(held)
        advance(len(batch))
    return [_together(parts) for parts in frames.values()]


def _together(parts: list[HeldImages]) -> HeldImages:
    first = parts[0]
    index, groups, values, contrast = (torch.cat([getattr(part, name) for part in parts])
                                       for name in ("index", "groups", "values", "contrast"))
    return HeldImages(first.geometry, index, groups, values, contrast, first.mask_power)
