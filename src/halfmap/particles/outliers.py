"""Images that stand out from the others of their stack: another brightness, another contrast, an extreme pixel.

Robust statistics: the median of a stack, and 1.4826 times the median distance from it, which is the standard deviation
of normal values and does not see outliers (Hampel 1974, J. Am. Stat. Assoc. 69, 383).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.particles.table import Integers, ParticleTable

ABSURD = 20.0  # robust standard deviations: no image of a microscope; it would be most of a map
DOUBTFUL = 6.0  # worth a look: ice, an edge of carbon, a hot pixel
FEWEST = 16  # images that a stack is judged by; those of smaller ones are compared with all of their optics group
# Images that were normalised are all but alike, and what tells them apart then is nothing to be judged by: the least
# spread of brightness, in sds of the pixels, and of the logarithms of contrast and of the extreme pixel.
LEAST_SPREAD = 0.1
TRAITS = ("brightness", "contrast", "extreme pixel")


class Odd(NamedTuple):
    """How far each image [b] stands out, in robust standard deviations, and in which of TRAITS."""

    deviation: NDArray[np.float64]
    trait: Integers


def traits(raw: Tensor, normalised: Tensor) -> Tensor:
    """Mean, sd and largest pixel off the background, in sds of it, of images [b, y, x] as stored and normalised:
    float64 [b, 3]."""
    variance, mean = torch.var_mean(raw.flatten(1).float(), dim=1)
    low, high = torch.aminmax(normalised.flatten(1), dim=1)
    return torch.stack([mean, variance.sqrt(), torch.maximum(-low, high)], dim=1).double()


def odd_ones(table: ParticleTable, seen: Tensor, sound: NDArray[np.bool_]) -> Odd:
    """Each sound image of the table against those of its stack; seen [b, 3] as `traits`. The others deviate by 0."""
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
    """The sound images by stack, those of small stacks by optics group."""
    count = np.bincount(table.stack_index[sound], minlength=len(table.stacks))
    company = np.where(count[table.stack_index] >= FEWEST, len(table.optics) + table.stack_index, table.optics_index)
    rows = np.flatnonzero(sound)
    order = rows[np.argsort(company[rows], kind="stable")]
    return [part for part in np.split(order, np.flatnonzero(np.diff(company[order])) + 1) if len(part)]
