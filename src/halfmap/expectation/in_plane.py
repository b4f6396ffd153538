"""Slices of class means: their transforms at the coefficients of the images, turned in plane.

A mean is a real image of few pixels, and its transform at any frequency is a sum over them: no interpolation. A slice
turned by 180 degrees is the complex conjugate of its mate, so angles in [0, 180) are enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.expectation.score import ReferenceSlices
from halfmap.geometry.rotations import euler_to_matrix
from halfmap.reconstruction.class_means import waves

AT_ONCE = 1 << 22  # complex values of a product along one axis


def in_plane_rotations(count: int) -> Tensor:
    """Rotations [a, 3, 3] by psi from 0 to below 180 degrees in equal steps."""
    psi = torch.arange(count, dtype=torch.float64) * (180.0 / count)
    return euler_to_matrix(torch.stack([torch.zeros_like(psi), torch.zeros_like(psi), psi], dim=1))


def turned_slices(means: Tensor, box: int, coords: Tensor, rotations: Tensor) -> ReferenceSlices:
    """Slices of means [c, y, x] at coords [k, 2] (cycles per box) turned by rotations [a, 3, 3]: those of class c are
    c a .. c a + a - 1. box: pixels of the box, in which the transform is unscaled."""
    classes, side = len(means), means.shape[-1]
    k, angles = len(coords), len(rotations)
    real, imag = (means.new_empty((classes, angles, k)) for _ in range(2))
    rows = (means * (box / side) ** 2).reshape(classes * side, side)
    step = max(1, AT_ONCE // (classes * side))
    for a, rotation in enumerate(rotations.to(coords.device).double()):
        q = coords.double() @ rotation[:2, :2]
        for first in range(0, k, step):
            part = slice(first, first + step)
            across, down = waves(q[part, 0], side), waves(q[part, 1], side)
            along = torch.complex(rows @ across.real.T, rows @ across.imag.T).view(classes, side, -1)
            value = (along * down.T).sum(dim=1)
            real[:, a, part], imag[:, a, part] = value.real, value.imag
    power = real.square() + imag.square()
    turned = rotations.to(means).repeat(classes, 1, 1)
    return ReferenceSlices(turned, *(one.flatten(0, 1) for one in (real, imag, power)))
