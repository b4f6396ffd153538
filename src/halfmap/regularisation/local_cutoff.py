"""The local cut-off that cross-validation between two maps prefers: Punjani et al. (2020), equations 3-8, done fast.

For cut-offs f_j and low-passes h_j, two maps m1 and m2 with independent noise, and windows w_j of extent gamma / f_j,

    E_j(x) = w_j * ( |h_j*m1 - m2|^2 + |h_j*m2 - m1|^2 ) (x),      f*(x) = argmin_j E_j(x).

What makes it fast, with no full-size array per candidate: both maps ride in one complex transform; a cut-off needs a
grid only as fine as itself; the window makes E smooth, so E is kept on a coarse lattice, where separable windows are
three small matrix products; and E is smooth in ln f too (a Butterworth filter of order 8 takes a quarter of its cut-off
to fall), so candidates that stand closer than EVALUATION_STEP are interpolated between neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.regularisation.local_filter import Butterworth, Lattice, separable, window_weights

EVALUATION_STEP = 1.6  # in ln(cut-off), divided by the order of the filter
SEARCH_TAIL = 0.2  # amplitude to which filters have fallen where the search's grids end
PER_EXTENT = 3.0  # lattice points across the extent of the narrowest window: 2.5 % of a Gaussian's detail is lost


@dataclass(frozen=True)
class CrossValidation:
    """How cut-offs are compared.

    filter: the low-pass; awf: extent of the window in wavelengths of the cut-off (gamma; cryoSPARC's adaptive window
    factor); window: ``box`` (the extent is its side) or ``gaussian``, with the variance of that box.

    form: ``literal`` compares the E_j above. Windows of different size see different parts of the map, so a wide window
    that reaches out of the molecule dilutes the error there and wins unjustly; ``increment`` adds up what each step of
    the cut-off changes, seen through the window of that step: sum_i<=j w_i * (e_i - e_(i-1)). For equal windows both
    are the same.

    target: ``quarter`` is the criterion as published: it finds the best cut-off for each of the two maps. ``half``
    takes off half the noise, w_j * |h_j*(m1 - m2)|^2 / 2, which finds the best one for their average.
    """

    filter: Butterworth = field(default_factory=Butterworth)
    awf: float = 3.0
    window: str = "gaussian"
    form: str = "increment"
    target: str = "half"


def local_cutoff(first: Tensor, second: Tensor, candidates: Tensor, method: CrossValidation) -> Lattice:
    """The candidate [j], ascending and in cycles per box, with the least cross-validated error at each lattice point.

    first, second: maps [z, y, x] of one molecule with independent noise.
    """
    nodes, errors, spacing = _errors_at_nodes(first, second, candidates, method)
    least = torch.full_like(errors[0], torch.inf)
    best = torch.full_like(errors[0], float(candidates[0]))
    for cutoff, row in zip(candidates.tolist(), _interpolation(candidates, nodes).to(errors), strict=True):
        error = torch.tensordot(row, errors, dims=1)
        best = torch.where(error < least, cutoff, best)
        least = torch.minimum(error, least)
    return Lattice(best, spacing, first.shape[0])


def local_error(
    first: Tensor, second: Tensor, candidates: Tensor, method: CrossValidation
) -> tuple[Tensor, float]:
    """E_j at the lattice points [j, z, y, x], but for what is the same for all j, and the spacing in voxels."""
    nodes, errors, spacing = _errors_at_nodes(first, second, candidates, method)
    return torch.tensordot(_interpolation(candidates, nodes).to(errors), errors, dims=1), spacing


def _errors_at_nodes(
    first: Tensor, second: Tensor, candidates: Tensor, method: CrossValidation
) -> tuple[list[int], Tensor, float]:
    """Which candidates were evaluated, their errors [node, z, y, x] at the lattice points, and the spacing."""
    spacing = max(1.0, method.awf * first.shape[0] / float(candidates[-1]) / PER_EXTENT)
    nodes = evaluated(candidates, EVALUATION_STEP / method.filter.order)
    search = _Search(first, second, spacing, method, float(candidates[-1]))
    windows = _window_cutoffs(candidates, nodes, method)
    errors: list[Tensor] = []
    before = None
    for i, node in enumerate(nodes):
        terms = search.terms(float(candidates[node]))
        if method.form == "literal":
            errors.append(search.smooth(terms, windows[i]) + search.constant(windows[i]))
            continue
        # A step is seen through one window, which is laid over the errors at both its ends.
        here = search.smooth(terms, windows[i])
        errors.append(here - before if before is not None else torch.zeros_like(here))
        before = search.smooth(terms, windows[i + 1]) if i + 1 < len(nodes) else None
    stacked = torch.stack(errors)
    return nodes, stacked.cumsum(dim=0) if method.form == "increment" else stacked, spacing


def evaluated(candidates: Tensor, step: float) -> list[int]:
    """Which candidates are evaluated: the first, the last, and steps of at most ``step`` in ln f between them, if
    candidates are that close."""
    nodes = [0]
    for j in range(1, len(candidates) - 1):
        near_end = float(candidates[-1]) < float(candidates[j]) * math.exp(0.5 * step)
        if math.log(float(candidates[j + 1]) / float(candidates[nodes[-1]])) > step and not near_end:
            nodes.append(j)
    return [*nodes, len(candidates) - 1] if len(candidates) > 1 else nodes


def _window_cutoffs(candidates: Tensor, nodes: list[int], method: CrossValidation) -> list[float]:
    """Cut-off whose window belongs to each node: its own, or in the increment form the mean of those it stands for."""
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
    """Two maps, ready to be filtered and compared at one cut-off after another."""

    def __init__(self, first: Tensor, second: Tensor, spacing: float, method: CrossValidation, highest: float) -> None:
        self.box, self.method = first.shape[0], method
        self.finest = (highest, self.box)
        self.sum, self.difference = torch.fft.rfftn(first + second), torch.fft.rfftn(first - second)
        self.positions = Lattice.positions(self.box, spacing)
        self.power = first.square() + second.square() if method.form == "literal" else None

    def terms(self, cutoff: float) -> Tensor:
        """|h*m1 - m2|^2 + |h*m2 - m1|^2 - |m1|^2 - |m2|^2 on a grid that holds the cut-off.

        In terms of the sum s and the difference d of both maps it is |d filtered by sqrt(h + h^2/2)|^2 - |s filtered by
        sqrt(h - h^2/2)|^2, as far as h is the same for all frequencies that beat within a window.
        """
        size = self.method.filter.grid(cutoff, self.finest, SEARCH_TAIL)
        h = self.method.filter.gain(size, cutoff)
        noise = 0.5 * h.square() if self.method.target == "quarter" else 0.0
        pair = kernels.filtered_pair(
            self.sum, self.difference, size, (h - 0.5 * h.square()).sqrt(), (h + noise).sqrt()
        )
        return kernels.power_difference(pair)

    def smooth(self, values: Tensor, cutoff: float) -> Tensor:
        """Means of values [z, y, x], on a grid of any size, in the window of this cut-off about the lattice points."""
        extent = self.method.awf * self.box / cutoff
        weight = window_weights(self.positions, values.shape[0], self.box, extent, self.method.window)
        return separable(values, weight.to(values))

    def constant(self, cutoff: float) -> Tensor:
        """w * (|m1|^2 + |m2|^2): the same for all cut-offs but for the window."""
        assert self.power is not None
        return self.smooth(self.power, cutoff)
