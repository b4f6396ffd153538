"""Global scoring: the log-likelihood of every image under every reference as two matrix products.

loglik[b, t, r] = 2 Re( (y c shifted by t)[bt, k] . conj P[k, r] ) - ( c^2[b, k] . |P|^2[k, r] ), relative to the null
model without a particle, with y and c whitened. A reference turned by 180 degrees in plane is the complex conjugate of
its mate, so the products of real and of imaginary parts, taken apart, score two references each.

A grid is scored block by block of its rotations, and the best points so far are kept. Its slices are all held, or each
block is projected, scored and dropped: the results are the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.kernels import BestPoints
from halfmap.kernels.reference_search import products

BLOCK = 4096  # rotations of a grid that are scored before the best are chosen; a multiple of REFERENCES_AT_ONCE
PER_SLICE = 12  # bytes of a coefficient of a slice: real and imaginary part, power
PROJECTED_AT_ONCE = 1 << 22  # coefficients that are projected before they are taken apart


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
        real, imag, power = (volume.real.new_empty((len(rotations), len(coords))) for _ in range(3))
        step = max(1, PROJECTED_AT_ONCE // max(1, len(coords)))
        for r in range(0, len(rotations), step):
            part = slice(r, r + step)
            slices = kernels.project_slices(volume, coords * padding, rotations[part])
            real[part], imag[part] = slices.real, slices.imag
            power[part] = real[part] * real[part] + imag[part] * imag[part]
        return ReferenceSlices(rotations, real, imag, power)

    def part(self, some: slice) -> ReferenceSlices:
        """Those of some of the rotations; no copy."""
        return ReferenceSlices(self.rotations[some], self.real[some], self.imag[some], self.power[some])

    def __len__(self) -> int:
        return len(self.rotations)


class SliceGrid:
    """Slices of one reference at all rotations [r, 3, 3] of a grid, in blocks of BLOCK rotations.

    hold: whether all slices are made now and held; otherwise a block is made whenever its turn comes, and dropped.
    """

    def __init__(self, volume: Tensor, coords: Tensor, padding: int, rotations: Tensor, hold: bool = True) -> None:
        self.volume, self.coords, self.padding, self.rotations = volume, coords, padding, rotations
        self._held = ReferenceSlices.build(volume, coords, padding, rotations) if hold else None

    def blocks(self) -> Iterator[ReferenceSlices]:
        """The blocks, in the order of the rotations."""
        for r in range(0, len(self.rotations), BLOCK):
            part = slice(r, r + BLOCK)
            if self._held is not None:
                yield self._held.part(part)
            else:
                yield ReferenceSlices.build(self.volume, self.coords, self.padding, self.rotations[part])


def grid_rotation(rotations: Tensor, index: Tensor) -> Tensor:
    """Rotation matrices [.., 3, 3] of indices [..] into scores of a grid of rotations [r, 3, 3] and, after them, their
    mates turned by 180 degrees in plane."""
    count = len(rotations)
    rotation = rotations[index % count]
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
    score, chosen = kernels.score_block(y, c, slices, phases, log_prior)
    return score.flatten(1), chosen.flatten(1)


def best_points(y: Tensor, c: Tensor, grid: SliceGrid, phases: Tensor, log_prior: Tensor, most: int) -> BestPoints:
    """The ``most`` best points of a whole grid for every image, best first; of equal ones the first of the grid.

    Those beyond the grid's are its rotations turned by 180 degrees in plane (see `grid_rotation`). Other arguments are
    those of ``score_grid``.
    """
    first, count = 0, len(grid.rotations)
    best = BestPoints(len(y), min(most, 2 * count), y.device)
    for block in grid.blocks():
        score, chosen = score_grid(y, c, block, phases, log_prior)
        index = torch.arange(first, first + len(block), device=y.device)
        best.add_(score, chosen, torch.cat([index, index + count]))
        first += len(block)
        del block, chosen, score  # before the next is made
    best.sort_()
    return best


def profile_scale(y: Tensor, c: Tensor, blocks: Iterable[ReferenceSlices], phases: Tensor) -> tuple[Tensor, Tensor]:
    """Unknown grey scale: each image's (cross, norm) of the reference with the best profile likelihood cross^2/norm.

    blocks: the slices of all references. The maximum-likelihood common scale of many images is sum(cross) / sum(norm).
    """
    zero = y.real.new_zeros(len(phases))
    best = y.real.new_full((len(y),), -torch.inf)
    cross_best, norm_best = torch.zeros_like(best), torch.ones_like(best)
    for block in blocks:
        for found in products(y, c, block, phases):
            some, norm = found.images, found.norm.clamp_min(1e-12)
            cross, _ = kernels.best_shift(found.real, found.imag, torch.zeros_like(norm), zero)
            cross = 0.5 * cross.amax(dim=1).clamp_min(0)
            value, index = (cross**2 / norm).max(dim=1)
            better = value > best[some]
            best[some] = torch.where(better, value, best[some])
            cross_best[some] = torch.where(better, cross.gather(1, index[:, None])[:, 0], cross_best[some])
            norm_best[some] = torch.where(better, norm.gather(1, index[:, None])[:, 0], norm_best[some])
    return cross_best, norm_best
