"""Images of a refinement that least and most probably hold a particle, each beside what the map says it should show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.fourier.transform import coarser_box, resample_volume
from halfmap.maps.grid import Grid
from halfmap.particles.source import ParticleSource
from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import Integers, ParticleTable
from halfmap.refinement.outputs import PROBABILITY
from halfmap.workflows.inspect_images import LOWPASS, low_passed
from halfmap.workflows.projections import Projector

LEAST, MOST = 12, 6  # images shown of those that probably hold no particle, and of those that hold one for sure
TAIL = 1.5  # frequency, over that of LOWPASS, beyond which nothing is left of a low-passed image


@dataclass(frozen=True)
class Example:
    """An image, and what it should show if its pose is right.

    image, expected [y, x]: the normalised image and the projection of the map at its pose, under its CTF and on an
    arbitrary grey scale; both are low-passed at LOWPASS A. number: of the image in its stack, from 1.
    """

    image: NDArray[np.float32]
    expected: NDArray[np.float32]
    probability: float
    stack: str
    number: int


@dataclass(frozen=True)
class Examples:
    """The images that least probably hold a particle, least first, and those that most probably do, most first."""

    least: list[Example]
    most: list[Example]


def particle_examples(table: ParticleTable, volume: Tensor, pixel_size: float, diameter: float) -> Examples:
    """Read up to LEAST images that probably hold no particle and MOST that do, and project the map at their poses.

    table: as a refinement writes it, with poses and probabilities. Of equal probabilities the likelihood decides.
    volume [z, y, x]: the map, cleared outside its mask, of pixel_size A. diameter: of the particle in A; what lies
    around it is background. Nothing is read where every image probably holds a particle. Raises InputError where the
    table lacks a column or an image cannot be read.
    """
    probability = _numbers(table, PROBABILITY)
    order = np.lexsort((_numbers(table, "rlnLogLikeliContribution"), probability))
    least = order[:LEAST][probability[order[:LEAST]] < 0.5]
    if not len(least):
        return Examples([], [])
    best = order[::-1][:MOST]
    most = best[probability[best] >= 0.5]
    shown = _examples(table, np.concatenate([least, most]), probability, volume, Grid(volume.shape[-1], pixel_size),
                      diameter)
    return Examples(shown[: len(least)], shown[len(least) :])


def _examples(
    table: ParticleTable, rows: Integers, probability: NDArray[np.float64], volume: Tensor, grid: Grid,
    diameter: float,
) -> list[Example]:  # fmt: skip
    """The examples at these rows, in their order. grid: of the volume."""
    chosen = table.select(rows)
    limit = min(math.ceil(TAIL * grid.length / LOWPASS), grid.box // 2 - 1)
    coarse = resample_volume(volume.float(), coarser_box(grid.box, 2 * limit + 2))
    projector = Projector.of(coarse, grid, limit)
    found: dict[int, Example] = {}
    everything = ParticleSource(chosen, diameter).stream(torch.arange(len(chosen)))
    for batch in (part for whole in everything for part in whole.apart()):
        size = chosen.optics[batch.group].pixel_size
        expected = low_passed(projector.images(chosen, batch.index, batch.group), size)
        for i, image, model in zip(batch.index.tolist(), low_passed(batch.images, size), expected, strict=True):
            stack = chosen.stacks[chosen.stack_index[i]].name
            found[i] = Example(image.numpy(), model.numpy(), float(probability[rows[i]]), stack,
                               int(chosen.image_index[i]) + 1)
    return [found[i] for i in range(len(rows))]


def _numbers(table: ParticleTable, label: str) -> NDArray[np.float64]:
    """The column [b]. Raises InputError where it is missing or holds what is no number."""
    if label not in table.columns:
        raise InputError(f"{table.source}: has no column {label}; give the particles.star of a run of this version")
    values = numbers_of(table.columns[label])
    if not np.isfinite(values).all():
        raise InputError(f"{table.source}: {label} holds what is no number; correct or remove the row")
    return values
