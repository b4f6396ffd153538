"""What images say about changes of their CTF's phase, gathered in cells of the Fourier plane.

With a phase d added to gamma a CTF S = scale E sin(-gamma) becomes S cos a + C sin a, where a = -d and C is its other
quadrature (`imaging.ctf.quadratures`). A change of defocus, astigmatism or phase shift gives a smooth phase

    a = pi lambda (M |f|^2 + A1 (fx^2 - fy^2) + A2 2 fx fy) + phase shift

(M: mean defocus; A1, A2 = (u - v)/2 times cosine and sine of twice the angle), a change of scale and B factor a gain
e = exp(log scale - B |f|^2 / 4). Where a and e are the same for all coefficients of a cell, the log-likelihood

    L = sum 2 e (A cos a + A' sin a) - e^2 (B0 + B cos 2a + B' sin 2a)

needs five sums of a cell and nothing else, whatever the change: A of D S, A' of D C, B0 of N (S^2 + C^2) / 2, B of
N (S^2 - C^2) / 2 and B' of N S C, with D = Re cross and N = norm of `products`. They add up over images.

Cells are rings of equal area, so of equal width in |f|^2, cut into sectors of equal width in the azimuth (of a half
turn: all functions are even). A ring is as wide as a change of defocus by ``reach`` angstrom turns 2a by half a radian:
within it 2a is spread by 0.5 rad / sqrt(12) then, which takes 1 % off the terms; 0.01 % for a tenth of the reach. In
sixteen sectors an astigmatism of 100 A spreads 2a by 0.5 rad at 3 A and 300 kV at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import Products, row_blocks

TURN = 0.5  # radians of 2a within a cell, at most
SUMS = 5  # of a cell


@dataclass(frozen=True)
class Cells:
    """Rings and sectors of the Fourier plane up to a frequency.

    finest: the highest frequency, 1/A; rings: how many of equal width in |f|^2; sectors: of a half turn, of every ring.
    Cell c = ring * sectors + sector.
    """

    finest: float
    rings: int
    sectors: int = 1

    @staticmethod
    def of_reach(reach: float, wavelength: float, finest: float, sectors: int = 1) -> Cells:
        """Cells narrow enough for changes of defocus up to ``reach`` A. wavelength in A, finest in 1/A."""
        most = 2.0 * math.pi * wavelength * reach * finest ** 2
        return Cells(finest, max(8, math.ceil(most / TURN)), sectors)

    def __len__(self) -> int:
        return self.rings * self.sectors

    def holding(self, frequencies: Tensor) -> Tensor:
        """The cell int64 [k] that each of the frequencies [k, 2] (1/A) lies in; the last ring holds what is beyond."""
        x, y = frequencies.double().unbind(-1)
        ring = ((x * x + y * y) * (self.rings / self.finest ** 2)).long().clamp_(max=self.rings - 1)
        turn = torch.remainder(torch.atan2(y, x) / math.pi, 1.0)
        return ring * self.sectors + (turn * self.sectors).long().clamp_(max=self.sectors - 1)

    def squared(self) -> Tensor:
        """Mean |f|^2 of every cell, float64 [c]."""
        middle = (torch.arange(self.rings, dtype=torch.float64) + 0.5) * (self.finest ** 2 / self.rings)
        return middle.repeat_interleave(self.sectors)

    def quadratic(self) -> Tensor:
        """Means over every cell of |f|^2, fx^2 - fy^2 and 2 fx fy, float64 [c, 3]."""
        width = math.pi / self.sectors
        twice = 2.0 * width * (torch.arange(self.sectors, dtype=torch.float64) + 0.5)
        mean = math.sin(width) / width
        around = torch.stack([torch.ones_like(twice), mean * twice.cos(), mean * twice.sin()], dim=1)
        return self.squared()[:, None] * around.repeat(self.rings, 1)


def cell_sums(products: Products, cells: Cells) -> Iterator[CellSums]:
    """The five sums of every cell, float32 [b, 5, c], of a few images after the other."""
    holding = cells.holding(products.frequencies)
    for part in row_blocks(len(products), len(holding)):
        at = products.quadratures(part)
        data, norm, sine, cosine = products.cross[part].real, products.norm[part], at.sine, at.cosine
        square, other = norm * sine.square(), norm * cosine.square()
        terms = (data * sine, data * cosine, (square + other).mul_(0.5), (square - other).mul_(0.5),
                 sine.mul_(cosine).mul_(norm))
        sums = torch.stack([term.new_zeros((len(term), len(cells))).index_add_(1, holding, term) for term in terms], 1)
        yield CellSums(part, sums)


@dataclass(frozen=True)
class CellSums:
    """Sums [b, 5, c] of a stretch of a batch."""

    part: slice
    sums: Tensor
