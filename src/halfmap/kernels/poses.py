"""Poses as the kernels take and return them, as flat lists: entry j belongs to image ``image[j]`` of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Starts:
    """Poses that a search starts from, sorted by image.

    image int64 [j]; rotations [j, 3, 3] (RELION's A); shifts [j, 2] in pixels.
    """

    image: Tensor
    rotations: Tensor
    shifts: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def joined(self, other: Starts) -> Starts:
        """Both lists as one, sorted by image."""
        image = torch.cat([self.image, other.image])
        order = image.argsort(stable=True)
        rotations, shifts = torch.cat([self.rotations, other.rotations]), torch.cat([self.shifts, other.shifts])
        return Starts(image[order], rotations[order], shifts[order])


@dataclass(frozen=True)
class Polished:
    """What Levenberg-Marquardt makes of `Starts`, in the same order, float64.

    rotations [j, 3, 3]; shifts [j, 2] in pixels; gain [j]: log-likelihood above a model without a particle, prior
    included, in nats; precision [j, 5, 5]: of the posterior, over three rotations in radians and two shifts in pixels.
    """

    rotations: Tensor
    shifts: Tensor
    gain: Tensor
    precision: Tensor


@dataclass(frozen=True)
class PolishOptions:
    """How starts are polished.

    box: side of the image in pixels; steps: most steps taken; prior: precision of the zero-centred shift prior in
    1/pixel^2; tolerance: smallest predicted gain worth a step, in nats; max_step: largest rotation of one step, in
    radians.
    """

    box: int
    steps: int
    prior: float
    tolerance: float
    max_step: float


@dataclass(frozen=True)
class Samples:
    """Poses at which images are back-projected.

    image int64 [j]; rotations [j, 3, 3]; shifts [j, 2] in pixels; mass [j]: how much of the image is inserted there.
    """

    image: Tensor
    rotations: Tensor
    shifts: Tensor
    mass: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def where(self, chosen: Tensor) -> Samples:
        """The samples that ``chosen`` [j] marks."""
        return Samples(self.image[chosen], self.rotations[chosen], self.shifts[chosen], self.mass[chosen])
