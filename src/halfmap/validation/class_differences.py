"""Where two classes differ by more than their noise.

The difference of two maps is divided, place by place, by its standard deviation, which half maps within each class
tell: of classes a and b with half maps 1 and 2 the difference is (a1 + a2 - b1 - b2) / 2, and its variance is that of
(a1 - a2) / 2 plus that of (b1 - b2) / 2, both averaged over a window. What the images of a class have in common because
they were sorted by the same noise is in both of its half maps, and counts as difference; with few images, or where
images waver between classes, it is strong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.maps.filters import gaussian_lowpass, lowpass

# Standard deviations beyond which a difference is one. Chance alone stays below 5 in a map of a few thousand resolved
# places; one molecule in two classes, sorted by noise, reached 5.6; a domain of 10 kDa more or less 17 to 30.
SURE = 7.0
WINDOW = 3.0  # resolutions: width at half height of the window that noise is averaged in


@dataclass(frozen=True)
class ClassDifference:
    """One class less another. sds [z, y, x]: the difference in its standard deviations, 0 outside the mask; resolution:
    to which both were filtered, in A; share: of the mask where it is beyond SURE; strongest [3]: its voxel (x, y, z)
    off the box centre; peak: the value there."""

    sds: Tensor
    resolution: float
    share: float
    strongest: Tensor
    peak: float


def class_difference(
    first: tuple[Tensor, ...], second: tuple[Tensor, ...], mask: Tensor, pixel_size: float, resolution: float
) -> ClassDifference:
    """The first class less the second, each given by its raw half maps [z, y, x], within a mask [z, y, x].

    resolution: in A, to which both are low-passed, that of the worse one.
    """
    def filtered(v: Tensor) -> Tensor:
        return lowpass(v.double(), pixel_size, resolution)

    difference = filtered(first[0] + first[1] - second[0] - second[1]) / 2
    square = sum((filtered(one[0] - one[1]) / 2).square() for one in (first, second))
    assert isinstance(square, Tensor)
    # a Gaussian gain of 1/2 at 1/r is a window of 2 r ln 2 / pi at half height
    variance = gaussian_lowpass(square, pixel_size, WINDOW * resolution * math.pi / (2 * math.log(2)))
    sd = variance.clamp_min(1e-4 * float(variance[mask > 0.5].mean())).sqrt()
    sds = torch.where(mask > 0.5, difference / sd, 0.0)
    place = int(sds.abs().argmax())
    box = sds.shape[-1]
    zyx = torch.tensor([place // box**2, place // box % box, place % box]) - box // 2
    inside = (mask > 0.5).sum().clamp_min(1)
    return ClassDifference(sds.float(), resolution, float((sds.abs() > SURE).sum() / inside), zyx.flip(0),
                           float(sds.flatten()[place]))
