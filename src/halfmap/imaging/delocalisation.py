"""How far the CTF spreads the signal of a spatial frequency beyond the particle, and how much of it a mask leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import CtfState, OpticsGroup

MILLIMETRE = 1e7  # in A
RINGS = 32  # of projected power, up to the edge of the box
CENTRED = 8 / math.pi**2  # of the power of |sin|: its mean, which moves nothing; the rest has twice the phase of sin
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

        At frequencies where atoms scatter with random phases, projections add their power: that of a voxel is the
        square of its density. Of the views of a voxel at distance r, 1 - sqrt(1 - (x / r)^2) show it within x.
        """
        box = density.shape[0]
        step = max(1, box // 64)  # the mean over a ring needs no more voxels than these
        axis = torch.arange(box, device=density.device, dtype=torch.float64)[::step] - box // 2
        distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().flatten()
        power = density[::step, ::step, ::step].double().square().flatten()
        width = box / 2 / RINGS
        ring = (distance / width).long()
        ball = kernels.sums_at(ring, power, int(ring.max()) + 1)
        middle = (torch.arange(len(ball), dtype=torch.float64, device=density.device) + 0.5) * width
        edges = torch.arange(len(ball) + 1, dtype=torch.float64, device=density.device) * width
        seen = 1 - (1 - (edges[:, None] / middle) ** 2).clamp_min(0).sqrt()
        rings = seen.diff(dim=0) @ ball
        if not float(rings.max()) > 0:  # a map of nothing is as good as a point
            return ProjectedPower(middle[:1] * pixel_size, torch.ones_like(middle[:1]))
        strong = rings >= LEAST_POWER * rings.max()
        return ProjectedPower(middle[strong] * pixel_size, rings[strong] / rings[strong].sum())

    def within(self, mask: Tensor, distance: Tensor) -> Tensor:
        """Share [b, s] of the power, moved by ``distance`` [b, s], that circles of radius ``mask`` [b] hold, in A."""
        ring, moved, mask = self.radius[:, None, None], distance.double().clamp_min(1e-6), mask.double()[:, None]
        cosine = (mask**2 - ring**2 - moved**2) / (2 * ring * moved)
        return torch.einsum("r,rbs->bs", self.share, 1 - torch.arccos(cosine.clamp(-1, 1)) / math.pi)

    def correlation_along_beam(self, spacing: Tensor) -> Tensor:
        """Correlation [s] of the particle's transform at points that lie ``spacing`` [s] (1/A) apart along the beam.

        Where atoms scatter with random phases it is the characteristic function of how their power is distributed along
        the beam: over all views the same as along a line in the projection, of whose rings each gives J0.
        """
        turns = 2 * math.pi * spacing.double()[:, None] * self.radius
        return torch.special.bessel_j0(turns) @ self.share

    def left(self, state: CtfState, mask: Tensor, box: Tensor, distance: Tensor) -> Tensor:
        """Share [b, s] of the model's power that is left in images under circular masks.

        mask, box [b]: radii of the masks, and of the images, in A. distance [b, s]: by which the CTF moves signal.
        state: what was done to the images, whole, about their CTF. Flipping phases brings most of the signal back to
        the particle, and the rest goes twice as far. What counts of an image that is multiplied by its CTF is its
        product with the particle's projection, which no mask cuts.
        """
        if state is CtfState.UNTOUCHED:
            return self.within(mask, distance)
        held = self.within(box, distance)
        if state is CtfState.PREMULTIPLIED:
            return held
        back, away = self.within(mask, torch.zeros_like(distance)), self.within(mask, 2 * distance)
        return held * (CENTRED * back + (1 - CENTRED) * away)
