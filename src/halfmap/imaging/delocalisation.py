"""How far the CTF spreads the signal of a spatial frequency beyond the particle, and how much of it a mask leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup

MILLIMETRE = 1e7  # in A
RINGS, SLANTS = 32, 16  # of projected power: rings up to the edge of the box, and slants of a voxel's direction
LEAST_POWER = 1e-4  # of the strongest ring's: weaker rings do not count


def delocalisation(optics: OpticsGroup, defocus: Defocus, frequency: float | Tensor) -> Tensor:
    """Distance [b] in A by which signal of a spatial frequency (1/A) is moved in each image, along the axis of the
    larger defocus; [b, s] for frequencies [s].

    It is the slope of the wave aberration, |lambda dz f - Cs lambda^3 f^3| (Lentzen et al. 2002, Ultramicroscopy 92,
    233); underfocus dz is positive.
    """
    wavelength = optics.wavelength
    spherical = optics.spherical_aberration * MILLIMETRE * wavelength**3 * frequency**3
    every = (dz[:, None] if isinstance(frequency, Tensor) else dz for dz in (defocus.u, defocus.v))
    slopes = [(wavelength * dz * frequency - spherical).abs() for dz in every]
    return torch.maximum(*slopes)


@dataclass(frozen=True)
class ProjectedPower:
    """Where the power of a particle's projections lies, whatever the view.

    share [r]: of the power in a ring about the centre; radius [r]: of the ring, in A.
    """

    radius: Tensor
    share: Tensor

    @staticmethod
    def of(density: Tensor, pixel_size: float) -> ProjectedPower:
        """That of a map [z, y, x] of this pixel size in A.

        At frequencies where atoms scatter with random phases, projections add their power: that of a voxel is the square
        of its density. A voxel at distance r is seen at r sin(theta), with cos(theta) evenly distributed.
        """
        step = max(1, density.shape[0] // 64)  # the mean over a ring needs no more voxels than these
        axis = torch.arange(-(density.shape[0] // 2), math.ceil(density.shape[0] / 2), device=density.device)[::step]
        distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).double().sqrt().flatten()
        power = density[::step, ::step, ::step].double().square().flatten()
        sine = (1 - ((torch.arange(SLANTS, dtype=torch.float64) + 0.5) / SLANTS) ** 2).sqrt()
        width = float(axis[-1]) / RINGS
        total = torch.zeros(2 * RINGS, dtype=torch.float64, device=density.device)
        for part in sine.tolist():
            total.index_add_(0, (part * distance / width).long().clamp_max(2 * RINGS - 1), power)
        radius = (torch.arange(2 * RINGS, dtype=torch.float64, device=density.device) + 0.5) * width * pixel_size
        seen = total >= LEAST_POWER * total.max()
        return ProjectedPower(radius[seen], total[seen] / total[seen].sum().clamp_min(1e-300))

    def within(self, mask: Tensor, distance: Tensor) -> Tensor:
        """Share [b, s] of the power that circles of radius ``mask`` [b] hold, moved by ``distance`` [b, s], all in A."""
        ring, moved, mask = self.radius[:, None, None], distance.double().clamp_min(1e-6), mask.double()[:, None]
        cosine = (mask**2 - ring**2 - moved**2) / (2 * ring * moved)
        return torch.einsum("r,rbs->bs", self.share, 1 - torch.arccos(cosine.clamp(-1, 1)) / math.pi)
