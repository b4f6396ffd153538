"""How the log-likelihood of an image depends on its mean defocus, and on what else changes its phase.

An image leaves its log-likelihood L(M) at evenly spaced changes M of the mean defocus. L is a sum of cosines up to a
frequency (`cells`: 2 pi lambda |f|^2 of the finest shell), and nodes are four times as close as their sampling needs,
so that a cubic spline has what lies between to 0.2 % of its quickest cosine. Changes x of other values
(`phase_values`) are kept to second order at every node, by the slope g and the Fisher information H:

    L(M, x) = L(M) + g(M) x - x H(M) x / 2
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_refinement.cells import Cells, cell_sums
from halfmap.ctf_refinement.phase_values import MEAN, phase_functions
from halfmap.ctf_refinement.products import Products


@dataclass(frozen=True)
class Profiles:
    """Of images b at nodes n: likelihood [b, n], 0 where nothing changes; slope [b, r, n] and information [b, r, r, n]
    for the r other values."""

    likelihood: Tensor
    slope: Tensor
    information: Tensor

    def at(self, offset: Tensor) -> Profiles:
        """The same where the other values have changed by offset [b, r]."""
        turned = (self.information * offset[:, None, :, None]).sum(dim=2)
        change = ((self.slope - 0.5 * turned) * offset[:, :, None]).sum(dim=1)
        return Profiles(self.likelihood + change, self.slope - turned, self.information)


@dataclass(frozen=True)
class Conditional:
    """Two values of every image, normal about 0 before, given its mean defocus.

    likelihood [b, n]: of the defocus, with these values integrated out. mean, square [b, 2, n]: means of the values
    and of their squares.
    """

    likelihood: Tensor
    mean: Tensor
    square: Tensor

    @staticmethod
    def of(profiles: Profiles, first: int, spread: float) -> Conditional:
        """Of the values ``first`` and the one after. spread: their standard deviation before."""
        g, h = profiles.slope[:, first : first + 2], profiles.information[:, first : first + 2, first : first + 2]
        if spread == 0.0:
            return Conditional(profiles.likelihood, torch.zeros_like(g), torch.zeros_like(g))
        a, b, c = h[:, 0, 0] + spread ** -2, h[:, 1, 1] + spread ** -2, h[:, 0, 1]
        determinant = a * b - c * c
        mean = torch.stack([b * g[:, 0] - c * g[:, 1], a * g[:, 1] - c * g[:, 0]], dim=1) / determinant[:, None]
        won = 0.5 * (g * mean).sum(dim=1) - 0.5 * (determinant * spread ** 4).log()
        variance = torch.stack([b, a], dim=1) / determinant[:, None]
        return Conditional(profiles.likelihood + won, mean, mean.square() + variance)


class ProfileSums:
    """Profiles of all particles of a table.

    count: of particles; others: columns of `phase_values` beside the mean defocus; reach: how far defocus may change,
    A; wavelength: the longest, A.
    """

    def __init__(self, count: int, others: list[int], cells: Cells, reach: float, wavelength: float) -> None:
        self.others, self._cells = others, cells
        intervals = math.ceil(reach * 8.0 * wavelength * cells.finest ** 2)
        self.nodes = torch.linspace(-reach, reach, 2 * intervals + 1, dtype=torch.float64)
        n, r = len(self.nodes), len(others)
        self.seen = torch.zeros(count)
        self._likelihood, self._slope = torch.zeros(count, n), torch.zeros(count, r, n)
        self._information = torch.zeros(count, r * (r + 1) // 2, n)
        self._designs: dict[float, _Design] = {}

    def add_(self, products: Products) -> None:
        """Count images of one optics group."""
        wavelength = products.optics.wavelength
        if wavelength not in self._designs:
            self._designs[wavelength] = _Design.of(self._cells, wavelength, self.nodes, products.norm.device)
        design = self._designs[wavelength]
        for some in cell_sums(products, self._cells):
            index, sums = products.index[some.part], some.sums.double()
            value = sums.flatten(1) @ design.value
            self._likelihood[index] = (value - value[:, len(self.nodes) // 2, None]).float().cpu()
            for i, column in enumerate(self.others):
                slope = (sums * design.functions[:, column]).flatten(1) @ design.slope
                self._slope[index, i] = slope.float().cpu()
            for at, (i, j) in enumerate(self._pairs()):
                product = sums * (design.functions[:, self.others[i]] * design.functions[:, self.others[j]])
                self._information[index, at] = (product.flatten(1) @ design.information).float().cpu()
            self.seen[index] = 1.0

    def sums(self) -> list[Tensor]:
        """All that was counted."""
        return [self.seen, self._likelihood, self._slope, self._information]

    def of(self, number: Tensor) -> Profiles:
        """The profiles of the particles ``number`` int64 [b], float64."""
        r = len(self.others)
        information = torch.zeros(len(number), r, r, len(self.nodes), dtype=torch.float64)
        for at, (i, j) in enumerate(self._pairs()):
            information[:, i, j] = information[:, j, i] = self._information[number, at].double()
        return Profiles(self._likelihood[number].double(), self._slope[number].double(), information)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return ((i, j) for i in range(len(self.others)) for j in range(i, len(self.others)))


@dataclass(frozen=True)
class _Design:
    """What sums of cells, [b, 5 c], are multiplied with: matrices [5 c, n] for values, slopes and information at nodes
    n; functions [c, 5] of `phase_values`."""

    value: Tensor
    slope: Tensor
    information: Tensor
    functions: Tensor

    @staticmethod
    def of(cells: Cells, wavelength: float, nodes: Tensor, device: torch.device) -> _Design:
        functions = phase_functions(cells, wavelength)
        turn = torch.outer(functions[:, MEAN], nodes)
        cosine, sine, cosine2, sine2 = turn.cos(), turn.sin(), (2.0 * turn).cos(), (2.0 * turn).sin()
        zero, one = torch.zeros_like(turn), torch.ones_like(turn)
        value = torch.cat([2.0 * cosine, 2.0 * sine, -one, -cosine2, -sine2])
        slope = torch.cat([-2.0 * sine, 2.0 * cosine, zero, 2.0 * sine2, -2.0 * cosine2])
        information = torch.cat([zero, zero, 2.0 * one, -2.0 * cosine2, -2.0 * sine2])
        return _Design(value.to(device), slope.to(device), information.to(device), functions.to(device))
