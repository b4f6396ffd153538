"""The curvature of the Ewald sphere: parts of a particle at different heights are seen at different defoci.

To first order in the scattering, an image is the sum of what lies at each height z (the third row of R x), imaged with
the underfocus dz - s z, where the sign s depends on the hand of the images: +1 as `relion_reconstruct --ewald` has it,
-1 as with --reverse_curvature. With V(k, h) the transform of the particle at the height h above the plane of the
slice, and a = i exp(i gamma) = CTF + i Q, that is

    y(k) = (a V(k, -s w) + conj(a) V(k, s w)) / 2,   w = lambda |f|^2 / 2,   Q = cos(gamma)

(DeRosier 2000, Ultramicroscopy 81, 83; Russo & Henderson 2018, Ultramicroscopy 187, 56; gamma: imaging.ctf). With w = 0
it is CTF V. Back-projection inserts each coefficient at both points, conj(a) y / 2 at -s w and a y / 2 at s w ("simple
insertion": Wolf et al. 2006, Ultramicroscopy 106, 376). What is inserted at -s w is, but for noise,

    (V(k, -s w) + conj(a)^2 V(k, s w)) / 4

of an image with |a| = 1. Far apart, the two values of V have nothing to do with each other, the second term averages
out over views and defoci, and the weight is |a|^2 / 4. Where w is so small that both are the same, both points together
hold CTF^2 V, as in a flat insertion. Between them the weight is

    (C CTF^2 + (1 - C) |a|^2 / 2) / 2,   C = E[V(k, w)* V(k, -w)] / E|V|^2,

so that the map's grey scale is that of the flat one at all resolutions. Atoms that scatter with random phases make C
the characteristic function of their distribution along the beam, at 2 w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.imaging.ctf import Defocus, quadrature, untouched_ctf
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.optics import CtfState, OpticsGroup

SURE = 4.0  # standard errors by which one sign must fit better than the other


def depth_resolution(wavelength: float, diameter: float) -> float:
    """The resolution in A where the flat model is a quarter of a turn wrong at the near and far side of a particle.

    The phase error at the height z is pi lambda z / d^2, so d = sqrt(lambda diameter). Of the amplitude of a slab that
    is so thick a flat reconstruction keeps sinc(lambda diameter / (2 d^2)): 0.64 there.
    """
    return math.sqrt(wavelength * diameter)


@dataclass(frozen=True)
class CurvatureEvidence:
    """What images say about the sign of the curvature.

    total: log-likelihood of so many ``images`` with positive curvature, less that with negative, in nats; error: its
    standard error, from how it varies among them.
    """

    total: float
    error: float
    images: int

    @property
    def errors(self) -> float:
        """The total in standard errors."""
        return self.total / self.error if self.error > 0 else 0.0

    @property
    def sign(self) -> int:
        """The sign that fits better; 0 where images do not tell."""
        return 0 if abs(self.errors) < SURE else (1 if self.total > 0 else -1)


@dataclass(frozen=True)
class CurvedImages:
    """What the curvature of the Ewald sphere adds to images on their band.

    quadrature [b, k]: Q, on the scale of the CTF. curvature float64 [b]: height -s w over the squared distance from the
    origin, both in cycles per box of the reference. overlap [b, s]: C by shell of the image.
    """

    quadrature: Tensor
    curvature: Tensor
    overlap: Tensor

    @staticmethod
    def of(
        band: Band, optics: OpticsGroup, defocus: Defocus, sign: int, length: float, power: ProjectedPower
    ) -> CurvedImages:
        """Those of images of an optics group, against a reference whose box is ``length`` A wide.

        power: of the particle's projections. Images that were multiplied by their CTF hold nothing near its zeros that
        would tell the two terms apart: ValueError.
        """
        if optics.ctf_state is CtfState.PREMULTIPLIED:
            raise ValueError(f"optics group {optics.name}: multiplied by the CTF")
        other = quadrature(band.kxy, optics, defocus)
        if optics.ctf_state is CtfState.PHASE_FLIPPED:  # sign(CTF) y is given: times sign(CTF)
            other.copysign_(other * untouched_ctf(band.kxy, optics, defocus))
        f = torch.arange(band.limit + 1, dtype=torch.float64, device=defocus.u.device) / optics.box_length
        curvature = torch.full_like(defocus.u.double(), -0.5 * sign * optics.wavelength / length)
        overlap = power.correlation_along_beam(optics.wavelength * f.square()).float()
        return CurvedImages(other, curvature, overlap.expand(len(defocus), -1))

    def some(self, rows: Tensor) -> CurvedImages:
        """Those of the images that ``rows`` int64 [j] names."""
        return CurvedImages(self.quadrature[rows], self.curvature[rows], self.overlap[rows])

    @staticmethod
    def together(parts: Sequence[CurvedImages], order: Tensor) -> CurvedImages:
        """Those of several parts, one after the other, in this order [b]."""
        return CurvedImages(
            torch.cat([part.quadrature for part in parts])[order],
            torch.cat([part.curvature for part in parts])[order],
            torch.cat([part.overlap for part in parts])[order],
        )
