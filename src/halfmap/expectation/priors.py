"""Priors of a pose: shifts are normal about zero, with the width that the particles themselves show.

A local search may have a prior about given poses beside it (kernels.poses.PosePrior). Where that knows shifts it takes
the place of the one about zero: what the spread of all shifts says of a particle, its given shift says already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.kernels.poses import PosePrior


@dataclass(frozen=True)
class ShiftPrior:
    """Zero-centred isotropic normal prior of shifts; precision in 1/pixel^2 (0: flat)."""

    precision: float = 0.0

    @staticmethod
    def from_spread(sigma: float) -> ShiftPrior:
        """Prior with standard deviation sigma (pixels) along each axis."""
        return ShiftPrior(1.0 / max(sigma, 0.25) ** 2)

    def log_density(self, shifts: Tensor) -> Tensor:
        """Log prior [t] of shifts [t, 2], zero at the centre."""
        return -0.5 * self.precision * (shifts**2).sum(dim=-1)


def log_peak(prior: ShiftPrior, about: PosePrior | None, mates: int) -> float:
    """Log density of a pose where its prior is highest, over turns in radians and shifts in pixels.

    Rotations are uniform, 1 / (8 pi^2), and each stands for its ``mates`` under the point group; or they are normal
    about one of the mates (``about``), or in equal shares about several poses.
    """
    if about is None or about.turn == 0:
        rotation = math.log(mates / (8 * math.pi**2))
    else:
        rotation = -math.log(_normal_volume(about.turn) * len(about.mates))
    precision = about.shift if about is not None and about.shift > 0 else prior.precision
    return rotation + math.log(max(precision, 1e-12) / (2 * math.pi))


def _normal_volume(precision: float) -> float:
    """The integral of exp(-precision angle^2 / 2) over all rotations, of which there are 8 pi^2.

    8 pi (1 - cos angle) d angle of them turn by an angle. Near zero that is the 4 pi angle^2 of a vector.
    """
    angle = torch.linspace(0, min(math.pi, 10 / math.sqrt(precision)), 2001, dtype=torch.float64)
    density = 16 * math.pi * torch.sin(angle / 2) ** 2 * torch.exp(-0.5 * precision * angle**2)
    return float(torch.trapezoid(density, angle))
