"""The values of an image that the phase -gamma of its CTF depends on linearly, and the functions that they multiply.

    -gamma(f) = pi lambda (M |f|^2 + A1 (fx^2 - fy^2) + A2 2 fx fy) + constant - pi/2 Cs lambda^3 |f|^4 - even(f)

M is the mean defocus (u + v) / 2, A1 and A2 are (u - v) / 2 times cosine and sine of twice the angle, and the constant
is the phase shift plus asin(amplitude contrast). Columns [5] are in this order.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.cells import Cells
from halfmap.imaging.ctf import Defocus
from halfmap.particles.table import ParticleTable

MEAN, ALONG, ACROSS, CONSTANT, SPHERICAL = range(5)  # A, A, A, radians, mm


def phase_values(table: ParticleTable) -> Tensor:
    """The values of every particle, float64 [b, 5]."""
    d = table.defocus
    u, v, twice = d.u.double(), d.v.double(), 2.0 * d.angle.double()
    amplitude, spherical = (
        torch.tensor(values, dtype=torch.float64)[torch.from_numpy(np.asarray(table.optics_index))]
        for values in ([math.asin(group.amplitude_contrast) for group in table.optics],
                       [group.spherical_aberration for group in table.optics])
    )  # fmt: skip
    half = 0.5 * (u - v)
    return torch.stack([0.5 * (u + v), half * twice.cos(), half * twice.sin(), d.phase_shift.double() + amplitude,
                        spherical], dim=1)


def phase_functions(cells: Cells, wavelength: float) -> Tensor:
    """The functions at every cell, float64 [c, 5], in radians for a unit of the value. wavelength in A."""
    squared = cells.squared()
    return torch.cat([
        math.pi * wavelength * cells.quadratic(), torch.ones_like(squared)[:, None],
        (-0.5 * math.pi * 1e7 * wavelength ** 3 * squared.square())[:, None],
    ], dim=1)  # fmt: skip


def changed(defocus: Defocus, change: Tensor) -> Defocus:
    """The defocus of images after changes float64 [b, p] of their first p values, 4 at most."""
    u, v, angle, phase = defocus.u.double(), defocus.v.double(), defocus.angle.double(), defocus.phase_shift.double()
    if change.shape[1] > CONSTANT:
        phase = phase + change[:, CONSTANT]
    if change.shape[1] > ALONG:
        half = 0.5 * (u - v)
        along = half * (2.0 * angle).cos() + change[:, ALONG]
        across = half * (2.0 * angle).sin() + change[:, ACROSS]
        turned = (change[:, ALONG] != 0) | (change[:, ACROSS] != 0)
        size, mean = torch.hypot(along, across), 0.5 * (u + v)
        u, v = torch.where(turned, mean + size, u), torch.where(turned, mean - size, v)
        angle = torch.where(turned, 0.5 * torch.atan2(across, along), angle)
    return replace(defocus, u=u + change[:, MEAN], v=v + change[:, MEAN], angle=angle, phase_shift=phase)


def still_physical(defocus: Defocus, change: Tensor) -> Tensor:
    """Of images [b] whether such a change leaves underfocus underfocus, and overfocus overfocus."""
    new = changed(defocus, change)
    return (torch.sign(new.u) == torch.sign(defocus.u)) & (torch.sign(new.v) == torch.sign(defocus.v))
