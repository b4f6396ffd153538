"""Whether images show the Thon rings that their CTF predicts, and to which resolution, before any pose is known.

The power of coefficient k of image i is P = N(s) + S(s) ctf_i(k)^2 with noise N and signal S by shell s = |k|, apart
from its own exponential scatter. Least squares over all coefficients of a shell give both. S is found from where each
image has its own rings, so images of different defocus add up, and a wrong defocus, voltage or pixel size gives none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RUN = 5  # number of shells that are judged together
CERTAIN = 3.0  # a signal of more standard errors than this counts as a ring
FIRST = 2  # shells below it hold the particle's shape and the ramp of the background


@dataclass(frozen=True)
class Rings:
    """Thon rings by shell [s], float64.

    signal, noise: S and N in units of power; contrast: mean ctf^2; certainty: S over its standard error, pooled over
    RUN shells. images: how many were summed.
    """

    signal: Tensor
    noise: Tensor
    contrast: Tensor
    certainty: Tensor
    images: int

    @property
    def reach(self) -> int:
        """The last shell up to which rings are seen without a gap; 0 where there are none."""
        seen = self.certainty[FIRST:] > CERTAIN
        gaps = torch.nonzero(~seen)
        count = int(gaps[0]) if len(gaps) else len(seen)
        return FIRST + count - 1 if count else 0


class RingSums:
    """Sums over images of one optics group, for shells 0 .. limit."""

    def __init__(self, shell: Tensor) -> None:
        """shell [k]: that of each coefficient, as a Band holds them."""
        self.shell, self.images = shell, 0
        # Sums of 1, P, c, P^2, P c and c^2 by shell, with power P and contrast c.
        self.sums = torch.zeros(6, int(shell[-1]) + 1, dtype=torch.float64, device=shell.device)

    def add(self, power: Tensor, contrast: Tensor) -> None:
        """Add images by their power |y|^2 and contrast ctf^2, both [b, k]."""
        p, c = power.double(), contrast.double()
        terms = (torch.ones_like(p), p, c, p * p, p * c, c * c)
        self.sums.index_add_(1, self.shell, torch.stack([term.sum(dim=0) for term in terms]))
        self.images += len(p)

    def rings(self) -> Rings:
        """Signal and noise that explain the sums best."""
        n = self.sums[0].clamp_min(1)
        p, c, pp, pc, cc = (row / n for row in self.sums[1:])
        varies = (cc - c * c).clamp_min(1e-12)
        signal = (pc - p * c) / varies
        noise = p - signal * c
        scatter = (pp - p * p - signal.square() * varies).clamp_min(0)
        error = (scatter / (n * varies)).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        ratio = torch.where(self.sums[0] > 2, signal / error, 0.0)
        ones = ratio.new_ones(1, 1, RUN)
        total, count = (torch.nn.functional.conv1d(v[None, None], ones, padding=RUN // 2)[0, 0]
                        for v in (ratio, torch.ones_like(ratio)))
        return Rings(signal, noise, c, total / count.sqrt(), self.images)
