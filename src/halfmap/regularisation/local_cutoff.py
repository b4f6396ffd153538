"""The local cut-off that cross-validation between two maps prefers: Punjani et al. (2020), equations 3-8, done fast.

For cut-offs f_j and low-passes h_j, two maps m1 and m2 with independent noise, and windows w_j of extent gamma / f_j,

    E_j(x) = w_j * ( |h_j*m1 - m2|^2 + |h_j*m2 - m1|^2 ) (x),      f*(x) = argmin_j E_j(x).

No candidate needs an array of full size:

- Both maps share one complex transform.
- The grid of a cut-off is only as fine as that cut-off needs.
- The window makes E smooth, so E is kept on a coarse lattice, where separable windows are three small matrix products.
- E is smooth in ln f too (a Butterworth filter of order 8 takes a quarter of its cut-off to fall), so candidates that
  stand closer than EVALUATION_STEP are interpolated between neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.real_transforms import rfftn
from halfmap.regularisation.local_filter import Butterworth, Lattice, separable, window_weights

EVALUATION_STEP = 1.6  # in ln(cut-off), to be divided by the order of the filter
SEARCH_TAIL = 0.2  # amplitude of a filter where the grid it is evaluated on ends
PER_EXTENT = 3.0  # lattice points across the narrowest window: 2.5 % of a Gaussian's detail is lost


@dataclass(frozen=True)
class CrossValidation:
    """How cut-offs are compared.

    filter: the low-pass. awf: extent of the window in wavelengths of the cut-off (gamma; cryoSPARC's adaptive window
    factor). window: ``box`` (the extent is its side) or ``gaussian``, with the variance of that box.

    form: ``literal`` compares the E_j above. Windows of different size see different parts of the map: a wide window
    that reaches out of the molecule dilutes the error there and wins unjustly. ``increment`` adds up the changes that
    each step of the cut-off makes, seen through the window of that step: sum_i<=j w_i * (e_i - e_(i-1)). With equal
    windows both forms are the same.

    target: ``quarter`` is the published criterion, which finds the best cut-off for each of the two maps. ``half``
    subtracts half the noise, w_j * |h_j*(m1 - m2)|^2 / 2, and so finds the best cut-off for their average.
    """

    filter: Butterworth = field(default_factory=Butterworth)
    awf: float = 3.0
    window: str = "gaussian"
    form: str = "increment"
    target: str = "half"


@dataclass(frozen=True)
class MapsToCompare:
    """Two maps m1 and m2 of one molecule with independent noise, as transforms (rfftn) of their mean and of
    their difference. Each is on a grid of its own over the same extent.

    noise_gain [s]: factor of the difference in each shell; None: 1. It makes up for noise that is the same in both maps
    and so missing in their difference.
    """

    mean: Tensor
    difference: Tensor
    noise_gain: Tensor | None = None

    @staticmethod
    def of(first: Tensor, second: Tensor) -> MapsToCompare:
        """From two maps [z, y, x] with independent noise."""
        return MapsToCompare(rfftn((first + second) / 2), rfftn(first - second))

    @property
    def box(self) -> int:
        """Side of the mean's grid; positions count its voxels."""
        return self.mean.shape[0]

    def on_grid(self, size: int, sum_gain: Tensor, difference_gain: Tensor) -> Tensor:
        """sum_gain * (m1 + m2) + i difference_gain * (m1 - m2), a complex map [z, y, x] on a grid of ``size``.

        The gains [k^2] are indexed by the squared frequency.
        """
        if self.noise_gain is not None:
            shell = torch.arange(len(difference_gain), dtype=torch.float64).sqrt().round().long()
            difference_gain = difference_gain * self.noise_gain.cpu()[shell.clamp(max=len(self.noise_gain) - 1)]
        return kernels.filtered_pair(self.mean, self.difference, size, 2 * sum_gain, difference_gain)

    def maps(self, size: int) -> tuple[Tensor, Tensor]:
        """m1 and m2 [z, y, x] on a grid of ``size``."""
        one = torch.ones(3 * (size // 2) ** 2 + 1, dtype=torch.float64)
        pair = kernels.filtered_pair(self.mean, self.difference, size, one, 0.5 * one)
        return pair.real + pair.imag, pair.real - pair.imag


def local_cutoff(pair: MapsToCompare, candidates: Tensor, method: CrossValidation) -> Lattice:
    """The candidate with the least cross-validated error at every lattice point.

    candidates [j]: cut-offs in cycles per box, ascending.
    """
    found = local_errors(pair, candidates, method)
    least = torch.full_like(found.errors[0], torch.inf)
    best = torch.full_like(found.errors[0], float(candidates[0]))
    for cutoff, error in zip(candidates.tolist(), found.of_candidates(), strict=True):
        best = torch.where(error < least, cutoff, best)
        least = torch.minimum(error, least)
    return Lattice(best, found.spacing, pair.box)


@dataclass(frozen=True)
class LocalErrors:
    """Errors of the candidates that were evaluated, the nodes between which the others are interpolated.

    candidates [j]: cut-offs in cycles per box. nodes: indices of those that were evaluated. errors [node, z, y, x]: at
    the lattice points, up to a term that is the same for all. spacing: of the lattice points, in voxels.
    """

    candidates: Tensor
    nodes: list[int]
    errors: Tensor
    spacing: float

    def of_candidates(self) -> Iterator[Tensor]:
        """E_j [z, y, x] of one candidate after the other, because all of them together would fill memory."""
        for row in _interpolation(self.candidates, self.nodes).to(self.errors):
            yield torch.tensordot(row, self.errors, dims=1)


def local_errors(pair: MapsToCompare, candidates: Tensor, method: CrossValidation) -> LocalErrors:
    """Cross-validated errors at the lattice points; candidates [j]: cut-offs in cycles per box, ascending."""
    spacing = max(1.0, method.awf * pair.box / float(candidates[-1]) / PER_EXTENT)
    nodes = _evaluated(candidates, EVALUATION_STEP / method.filter.order)
    search = _Search(pair, spacing, method, float(candidates[-1]))
    windows = _window_cutoffs(candidates, nodes, method)
    errors: list[Tensor] = []
    before, total = None, torch.zeros((), dtype=torch.float64)
    for i, node in enumerate(nodes):
        terms = search.terms(float(candidates[node]))
        if method.form == "literal":
            errors.append(search.smooth(terms, windows[i]) + search.constant(windows[i]))
            continue
        # A step is seen through one window, which is applied to the errors at both ends of the step.
        here = search.smooth(terms, windows[i])
        total = total + (here - before if before is not None else torch.zeros_like(here)).double()
        errors.append(total.to(here))
        before = search.smooth(terms, windows[i + 1]) if i + 1 < len(nodes) else None
    return LocalErrors(candidates, nodes, torch.stack(errors), spacing)


def _evaluated(candidates: Tensor, step: float) -> list[int]:
    """Indices of the candidates to evaluate: the first, the last, and some between them.

    Neighbours are at most ``step`` apart in ln f, if candidates are that close.
    """
    nodes = [0]
    for j in range(1, len(candidates) - 1):
        near_end = float(candidates[-1]) < float(candidates[j]) * math.exp(0.5 * step)
        if math.log(float(candidates[j + 1]) / float(candidates[nodes[-1]])) > step and not near_end:
            nodes.append(j)
    return [*nodes, len(candidates) - 1] if len(candidates) > 1 else nodes


def _window_cutoffs(candidates: Tensor, nodes: list[int], method: CrossValidation) -> list[float]:
    """The cut-off that sets each node's window: its own, or in the increment form the mean of those it stands for."""
    f = candidates.double()
    if method.form == "literal":
        return [float(f[node]) for node in nodes]
    return [float(f[0])] + [float(f[a + 1 : b + 1].mean()) for a, b in pairwise(nodes)]


def _interpolation(candidates: Tensor, nodes: list[int]) -> Tensor:
    """Matrix [j, node] of the natural cubic spline in ln f through the nodes."""
    from scipy.interpolate import CubicSpline

    x = np.log(candidates.double().cpu().numpy())
    if len(nodes) < 4:
        hat = [np.interp(x, x[nodes], row) for row in np.eye(len(nodes))]
        return torch.from_numpy(np.stack(hat, axis=1))
    return torch.from_numpy(CubicSpline(x[nodes], np.eye(len(nodes)), bc_type="natural")(x))


class _Search:
    """Filters and compares two maps at one cut-off after another.

    spacing: of the lattice points, in voxels. highest: the highest cut-off, in cycles per box.
    """

    def __init__(self, pair: MapsToCompare, spacing: float, method: CrossValidation, highest: float) -> None:
        self.pair, self.box, self.method = pair, pair.box, method
        self.highest, self.finest = highest, pair.difference.shape[0]
        self.positions = Lattice.positions(self.box, spacing)
        self.power: Tensor | None = None
        if method.form == "literal":
            first, second = pair.maps(self.finest)
            self.power = first.square() + second.square()

    def terms(self, cutoff: float) -> Tensor:
        """|h*m1 - m2|^2 + |h*m2 - m1|^2 - |m1|^2 - |m2|^2 [z, y, x] on a grid that is fine enough for the cut-off.

        With the sum s and the difference d of both maps it is |d filtered by sqrt(h + h^2/2)|^2 - |s filtered by
        sqrt(h - h^2/2)|^2, as far as h is the same for all frequencies that beat within a window.
        """
        size = self.method.filter.grid(cutoff, self.highest, self.finest, SEARCH_TAIL)
        h = self.method.filter.gain(size, cutoff)
        noise = 0.5 * h.square() if self.method.target == "quarter" else 0.0
        both = self.pair.on_grid(size, (h - 0.5 * h.square()).sqrt(), (h + noise).sqrt())
        return kernels.power_difference(both)

    def smooth(self, values: Tensor, cutoff: float) -> Tensor:
        """Means [z, y, x] of values in the window of this cut-off about every lattice point.

        values [z, y, x]: on a grid of any size over the box.
        """
        extent = self.method.awf * self.box / cutoff
        weight = window_weights(self.positions, values.shape[0], self.box, extent, self.method.window)
        return separable(values, weight.to(values))

    def constant(self, cutoff: float) -> Tensor:
        """w * (|m1|^2 + |m2|^2) [z, y, x] at the lattice points; it depends on the cut-off through the window only."""
        assert self.power is not None
        return self.smooth(self.power, cutoff)
