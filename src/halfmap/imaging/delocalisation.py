"""How far the CTF spreads the signal of a spatial frequency beyond the particle, and how large a box holds it."""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup

MILLIMETRE = 1e7  # in A


def delocalisation(optics: OpticsGroup, defocus: Defocus, frequency: float) -> Tensor:
    """Distance [b] in A by which signal of a spatial frequency (1/A) is moved in each image, along the axis of the
    larger defocus.

    It is the slope of the wave aberration, |lambda dz f - Cs lambda^3 f^3| (Lentzen et al. 2002, Ultramicroscopy 92,
    233); underfocus dz is positive.
    """
    wavelength = optics.wavelength
    spherical = optics.spherical_aberration * MILLIMETRE * wavelength**3 * frequency**3
    slopes = [(wavelength * dz * frequency - spherical).abs() for dz in (defocus.u, defocus.v)]
    return torch.maximum(*slopes)
