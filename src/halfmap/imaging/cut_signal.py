"""How masks turn the phase of a CTF: what they cut off lies on one side of what is left.

A CTF moves the signal of a frequency k by d(k), the slope of its phase over 2 pi (`imaging.delocalisation`), and of its
power a mask leaves the share f(d). It also mixes neighbouring coefficients. For a particle of random phases, whose
transform V has the power Q(k) in the ring of radius k, the masked image of c V, with c = E sin x, has on average

    f (E sin x + t E cos x) V(k),    t = -1 / (4 pi f Q) d/dk (Q f'(d))

beside V(k): to first order in d', the width in which the CTF spreads a frequency, and in the slope of Q over k. The sum
over k of f Q t is zero, so that a phase that all coefficients have in common is not felt. One that grows with k, as
those of spherical aberration and defocus do, is: more of a signal would be left if it were moved less, and a model that
loses the same share f everywhere takes that for evidence. Measured on images of a transporter without noise
(benchmarks/claims/cut_signal.py) t is what is found: 0.01 to 0.05, which a fit of the spherical aberration takes for
0.1 mm too much.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.delocalisation import MILLIMETRE, ProjectedPower
from halfmap.imaging.optics import OpticsGroup

STEP = 8.0  # A, of central differences: less than masks and particles measure, more than the rings of a small one
LARGEST = 0.3  # what is left of a shell that has a larger t is next to nothing


def other_quadrature(
    power: ProjectedPower, signal: Tensor, optics: OpticsGroup, defocus: Defocus, mask: Tensor
) -> Tensor:
    """How much of the other quadrature of a CTF masked images hold beside one of it: t as above, float64 [b, s].

    power: of the particle's projections; signal [s + 1]: mean power of a coefficient of the particle by shell of the
    images, and of one shell more; mask [b]: radii of circular masks in A. Astigmatism is small beside defocus, and its
    mean is taken. Shell 0, of which nothing is known, has none.
    """
    lowest = torch.finfo(torch.float64).tiny
    shells = torch.arange(len(signal), dtype=torch.float64, device=signal.device)
    k = shells / optics.box_length
    ring = (signal.double() * shells).clamp_min(lowest)
    wavelength = optics.wavelength
    moved = 0.5 * (defocus.u + defocus.v).double()[:, None] * (wavelength * k)
    moved = moved - optics.spherical_aberration * MILLIMETRE * wavelength**3 * k**3
    rings = power.radius[:2]
    step = max(STEP, 1.5 * float(rings[-1] - rings[0]))
    slope = (power.within(mask, (moved + step).abs()) - power.within(mask, (moved - step).abs())) / (2 * step)
    left = power.within(mask, moved.abs())[:, 1:-1]
    flow = ring * slope
    change = (flow[:, 2:] - flow[:, :-2]) * (0.5 * optics.box_length) / ring[1:-1]
    found = torch.zeros_like(moved[:, :-1])
    found[:, 1:] = (change / (-4 * math.pi * left.clamp_min(1e-3))).clamp(-LARGEST, LARGEST)
    return found
