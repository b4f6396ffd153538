"""Global scoring: the log-likelihood of every image under every reference as two matrix products.

loglik[b, t, r] = 2 Re( (y c shifted by t)[bt, k] . conj P[k, r] ) - ( c^2[b, k] . |P|^2[k, r] ), relative to the null
model without a particle, with y and c whitened. A reference turned by 180 degrees in plane is the complex conjugate of
its mate, so the products of real and of imaginary parts, taken apart, score two references each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap import kernels

REFERENCES_AT_ONCE = 1024
SCORES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class ReferenceSlices:
    """Slices of one reference at the grid rotations [r, 3, 3] with in-plane angles in [0, 180): real and imaginary
    parts and power, each [r, k]."""

    rotations: Tensor
    real: Tensor
    imag: Tensor
    power: Tensor

    @staticmethod
    def build(volume: Tensor, coords: Tensor, padding: int, rotations: Tensor) -> ReferenceSlices:
        """Project a half volume at ``coords`` [k, 2] (reference cycles per box)."""
        slices = kernels.project_slices(volume, coords * padding, rotations)
        real, imag = slices.real.contiguous(), slices.imag.contiguous()
        return ReferenceSlices(rotations, real, imag, real * real + imag * imag)

    def rotation(self, index: Tensor) -> Tensor:
        """Rotation matrices of flat indices into scores [b, 2 r]: the second half is turned by 180 degrees in plane."""
        count = len(self.rotations)
        rotation = self.rotations[index % count]
        sign = torch.where(index >= count, -1.0, 1.0).to(rotation.dtype)
        half_turn = torch.stack([sign, sign, torch.ones_like(sign)], dim=-1)
        return half_turn[..., None] * rotation


def shift_phases(kxy: Tensor, shifts: Tensor, box: int) -> Tensor:
    """exp(+2 pi i k.t / box) [t, k]: undoes shifts [t, 2] (pixels) of the data."""
    angle = shifts.double() @ kxy.to(shifts.device).double().T * (2 * math.pi / box)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def score_grid(
    y: Tensor, c: Tensor, slices: ReferenceSlices, phases: Tensor, log_prior: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores [b, 2 r] of whitened images y[b, k] under contrast c[b, k], maximised over shifts; best shifts [b, 2 r].

    phases[t, k] from ``shift_phases``, log_prior[t]. Columns r.. are the references turned by 180 degrees in plane.
    """
    images, shifts, count = len(y), len(phases), len(slices.real)
    score = y.real.new_empty((images, 2, count))
    chosen = torch.empty((images, 2, count), dtype=torch.int16, device=y.device)
    step = max(1, SCORES_AT_ONCE // (shifts * min(count, REFERENCES_AT_ONCE)))
    for b in range(0, images, step):
        some = slice(b, b + step)
        shifted = (2 * c[some] * y[some])[:, None] * phases
        rows = shifted.reshape(-1, shifted.shape[-1])
        real, imag = rows.real.contiguous(), rows.imag.contiguous()
        squared = c[some] ** 2
        for r in range(0, count, REFERENCES_AT_ONCE):
            part = slice(r, r + REFERENCES_AT_ONCE)
            cross_re = (real @ slices.real[part].T).view(-1, shifts, min(REFERENCES_AT_ONCE, count - r))
            cross_im = (imag @ slices.imag[part].T).view_as(cross_re)
            norm = squared @ slices.power[part].T
            score[some, :, part], chosen[some, :, part] = kernels.best_shift(cross_re, cross_im, norm, log_prior)
    return score.view(images, 2 * count), chosen.view(images, 2 * count)


def profile_scale(y: Tensor, c: Tensor, slices: ReferenceSlices, phases: Tensor) -> tuple[Tensor, Tensor]:
    """Unknown grey scale: each image's (cross, norm) of the reference with the best profile likelihood cross^2/norm.

    The maximum-likelihood common scale of many images is sum(cross) / sum(norm).
    """
    zero = y.real.new_zeros(len(phases))
    best = y.real.new_full((len(y),), -torch.inf)
    cross_best, norm_best = torch.zeros_like(best), torch.ones_like(best)
    shifted = ((2 * c * y)[:, None] * phases).reshape(-1, y.shape[-1])
    for r in range(0, len(slices.real), REFERENCES_AT_ONCE):
        part = slice(r, r + REFERENCES_AT_ONCE)
        width = len(slices.real[part])
        cross_re = (shifted.real.contiguous() @ slices.real[part].T).view(-1, len(phases), width)
        cross_im = (shifted.imag.contiguous() @ slices.imag[part].T).view(-1, len(phases), width)
        norm = (c**2 @ slices.power[part].T).clamp_min(1e-12)
        cross, _ = kernels.best_shift(cross_re, cross_im, torch.zeros_like(norm), zero)
        cross = 0.5 * cross.amax(dim=1).clamp_min(0)
        value, index = (cross**2 / norm).max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        cross_best = torch.where(better, cross.gather(1, index[:, None])[:, 0], cross_best)
        norm_best = torch.where(better, norm.gather(1, index[:, None])[:, 0], norm_best)
    return cross_best, norm_best
