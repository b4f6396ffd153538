"""How much of its own noise an image finds in its reference, which is made from it, too.

Of n images a voxel of their map is sum s c y / sum s^2 c^2, so that an image meets s^2 c |y|^2 / (sigma2 sum s^2 c^2)
of itself in ``cross``: a signal that any change of the CTF loses, and that pulls every value to the old one. In small
sets it outweighs the particle at high resolution. The map of the other half set has the same particle and none of this
noise. The difference of the products with both maps, summed over many images, is the noise alone: for each shell a
share e of (s^2 / sigma2) c, which `products` takes off; c is the CTF with which the map was made. Poses that have
followed noise are in it, too. Nothing but these few numbers, which tell less than the FSC does, goes from one half set
to the other.

The CTF moves an image's noise when the map is made, as it moved the signal when the image was. So the share is another
one for images of another defocus, and goes with the share f of the signal that masks leave, but by less: what is moved
out of the box comes back on its other side, and images of which less is left weigh less beside their own noise. It is
fitted as a parabola in f. With e f in place of that, B factors of simulated micrographs at 2.1 um came out 150 A^2 too
small beside those at 1 um (1,200 images, half maps that hardly agreed at the finest shells).

Measured on 1,000 images of a transporter (192 pixels of 1.2 A, signal over noise 0.03) against half maps of 500 images
each, 3.8 A: changes of defocus with a spread of 151 A are found at 0.51 of their size, with a rms error of 80 A, and at
0.90 with one of 55 A where own noise is taken off (0.89 and 56 A against the map of the other half set;
relion_ctf_refine 3.1.3: 0.46 and 90 A). Half maps that lie 0.3 A apart change this by 2 %.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import OwnNoiseShare, PosedImages, Range

SMOOTHED, SMOOTHED_SHAPE = 3, 13  # shells that are averaged: for the share, and for how it depends on f
TERMS = 3  # of the polynomial in f
PRIOR = 1.0  # information about each power of f but the first: by about 1 it may differ from none
LEAST = 1e-300


class OwnNoise:
    """Sums over images against the references of their own half set and of the other one. used: shells that count.

    By shell: the difference of the products, times powers of f, its expectation for e = 1, times powers of f, and its
    variance.
    """

    def __init__(self, used: Range) -> None:
        self._used = used
        self._match = torch.zeros(TERMS, used.last + 1, dtype=torch.float64)
        self._weight = torch.zeros(2 * TERMS - 1, used.last + 1, dtype=torch.float64)
        self._variance = torch.zeros(1, used.last + 1, dtype=torch.float64)

    def add_(self, posed: PosedImages, own: bool) -> None:
        """Count images against the reference of their own half set, or of the other one. All are to be counted in both
        ways."""
        products = replace(posed, own_noise=None).products(self._used)
        part = posed.stretch(self._used)
        contrast, shell = posed.made_ctf(self._used), posed.shell(self._used).cpu()
        left = posed.left.index_select(1, posed.images.geometry.band.shell[part])

        def count_(into: Tensor, values: Tensor, sign: float) -> None:
            for power in into:
                power.index_add_(0, shell, values.sum(dim=0).cpu().double(), alpha=sign)
                values = values * left

        count_(self._match, products.cross.real * contrast, 1.0 if own else -1.0)
        # Of Re conj(r) n / sigma2 half of |r|^2 / sigma2, with r the reference and n the noise of an image.
        count_(self._variance, products.norm * contrast.square(), 0.5)
        if own:
            count_(self._weight, posed.own_noise_weight(self._used) * contrast.square(), 1.0)

    def sums(self) -> list[Tensor]:
        """What was counted, in tensors that add up over processes, in place."""
        return [self._match, self._weight, self._variance]

    def share(self) -> OwnNoiseShare:
        """The share e by shell of the reference."""
        match, weight = (_averaged(sums[:1], SMOOTHED)[0] for sums in (self._match, self._weight))
        mean = torch.where(weight > 0, match / weight.clamp_min(LEAST), 0.0).clamp_min(0.0)
        # Relative to the mean, which falls steeply, the dependence on f is much the same in shells beside each other.
        # Each says so much of it as the mean stands out of what chance makes of the difference.
        told = mean * self._weight[0] / self._variance[0].clamp_min(LEAST)
        shape = _fitted(_averaged(told * self._match, SMOOTHED_SHAPE),
                        _averaged(told * mean * self._weight, SMOOTHED_SHAPE))
        level = (shape * self._weight[:TERMS]).sum(dim=0) / self._weight[0].clamp_min(LEAST)
        return OwnNoiseShare(torch.where(level > 0, shape * (mean / level.clamp_min(LEAST)), _constant(mean)))


def _fitted(match: Tensor, weight: Tensor) -> Tensor:
    """Polynomials [TERMS, s] in f by least squares, near 1 where sums tell little. match, weight: normal equations, the
    latter in units of information."""
    places = torch.arange(TERMS)
    matrix = weight[places[:, None] + places].permute(2, 0, 1) + (PRIOR * (places > 0)).to(weight).diag()
    known = (weight[0] > 0)[:, None, None]
    plain = _constant(torch.ones_like(weight[0])).T[:, :, None]
    rest = torch.where(known, match.T[:, :, None] - matrix @ plain, 0.0)
    return (plain + torch.linalg.solve(torch.where(known, matrix, torch.eye(TERMS).to(matrix)), rest))[:, :, 0].T


def _constant(values: Tensor) -> Tensor:
    """Polynomials [TERMS, s] that are these values [s] everywhere."""
    return torch.stack([values, *[torch.zeros_like(values)] * (TERMS - 1)])


def _averaged(sums: Tensor, shells: int) -> Tensor:
    """Sums [n, s] over so many shells around each."""
    kernel = torch.ones(1, 1, shells, dtype=torch.float64)
    return torch.nn.functional.conv1d(sums[:, None], kernel, padding=shells // 2)[:, 0]
