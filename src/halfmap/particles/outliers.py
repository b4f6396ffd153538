"""Images that differ from the others of their stack in brightness, contrast or an extreme pixel.

Statistics are robust: the median of a stack, and 1.4826 times the median distance from it. The latter is the standard
deviation of normal values and is not affected by outliers (Hampel 1974, J. Am. Stat. Assoc. 69, 383).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.particles.preprocess import ROUNDING
from halfmap.particles.table import Integers, ParticleTable

# Both in robust standard deviations. No microscope makes an absurd image, and a single one would dominate a map.
ABSURD = 20.0
DOUBTFUL = 6.0  # worth a look: ice, an edge of carbon, a hot pixel
FEWEST = 16  # images of a stack with fewer are compared with all images of their optics group
# The least spread of brightness, in sds of the pixels, and of the logarithms of contrast and of the extreme pixel.
# Normalised images are nearly equal in these, and the small differences between them mean nothing.
LEAST_SPREAD = 0.1
TRAITS = ("brightness", "contrast", "extreme pixel")


class Odd(NamedTuple):
    """How far each image [b] deviates, in robust standard deviations, and in which of TRAITS."""

    deviation: NDArray[np.float64]
    trait: Integers


def traits(raw: Tensor, normalised: Tensor) -> Tensor:
    """What images are judged by: float64 [b, 3].

    Mean and sd of the images [b, y, x] as stored, and the largest distance of a pixel from the background in the
    normalised ones, in sds of the background.
    """
    variance, mean = torch.var_mean(raw.flatten(1).float(), dim=1)
    low, high = torch.aminmax(normalised.flatten(1), dim=1)
    return torch.stack([mean, variance.sqrt(), torch.maximum(-low, high)], dim=1).double()


def constant(seen: Tensor) -> NDArray[np.bool_]:
    """Whether all pixels of an image [b] are the same, but for rounding; seen [b, 3] as from `traits`."""
    return (seen[:, 1] <= ROUNDING * seen[:, 0].abs()).numpy()


def odd_ones(table: ParticleTable, seen: Tensor, sound: NDArray[np.bool_]) -> Odd:
    """Compare each sound image of the table with those of its stack; seen [b, 3] as from `traits`.

    Images that are not sound have a deviation of 0.
    """
    values = seen.numpy()
    deviation, trait = np.zeros(len(table)), np.zeros(len(table), np.int64)
    for members in _companies(table, sound):
        mean, sd, extreme = values[members].T
        level = max(float(np.median(sd)), np.finfo(np.float64).tiny)
        brightness = (mean - np.median(mean)) / np.maximum(sd, level)
        measures = np.stack([brightness, np.log(np.maximum(sd / level, 1e-9)), np.log(np.maximum(extreme, 1e-9))])
        off = np.abs(measures - np.median(measures, axis=1, keepdims=True))
        spread = np.maximum(1.4826 * np.median(off, axis=1, keepdims=True), LEAST_SPREAD)
        deviation[members], trait[members] = (off / spread).max(axis=0), (off / spread).argmax(axis=0)
    return Odd(deviation, trait)


def _companies(table: ParticleTable, sound: NDArray[np.bool_]) -> list[Integers]:
    """The rows of sound images that are judged together: by stack, or by optics group for images of small stacks."""
    count = np.bincount(table.stack_index[sound], minlength=len(table.stacks))
    company = np.where(count[table.stack_index] >= FEWEST, len(table.optics) + table.stack_index, table.optics_index)
    rows = np.flatnonzero(sound)
    order = rows[np.argsort(company[rows], kind="stable")]
    return [part for part in np.split(order, np.flatnonzero(np.diff(company[order])) + 1) if len(part)]
