"""Sparse and smooth maps: the penalties of OPUS-SSRI and a descent that never goes up.

Luo et al. (2021) PNAS 118, e2013756118, equations 3-6. Minimised is

    F(x) = 1/2 <x, A x> - <b, x> + gamma/2 |x - previous|^2
           + alpha sum_v log(1 + |x_v| / eps) + beta sum_v log(1 + h(|grad x|_v) / eps'),

h(d) = d^2 / (2 mu) below mu and d - mu/2 above: Nesterov's smoothing of the norm. grad is the forward difference along
each axis, nothing across the box's edge. Both logarithms are concave, in |x| and in the square of |grad x|, so their
tangents at a point y bound them from above: a weighted l1 norm (equation 4) and a weighted sum of squared differences.
The quadratic part, Lipschitz constant L, plus twice the diagonal of the weighted differences bounds the rest, and the
minimiser of the whole bound is a gradient step with a length of its own at every voxel and a soft threshold (equation
6). Each step therefore lowers F, the gradient of the TV term included. Reweighting happens at every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.regularisation.normal_equations import NormalEquations

_AXES = (0, 1, 2)


@dataclass(frozen=True)
class Penalty:
    """What is weighed against the data, all of it in densities or per mean weight.

    sparse: alpha; smooth: beta; inertia: gamma; eps, eps_gradient: of the logarithms; rounding: mu; spacing: distance
    of neighbouring voxels, in voxels of the map that eps_gradient was chosen for; local: factor of alpha and beta at
    every voxel [z, y, x], or one for all.
    """

    sparse: float
    smooth: float
    inertia: float
    eps: float
    eps_gradient: float
    rounding: float
    spacing: float = 1.0
    local: Tensor | float = 1.0

    def times(self, sparse: float, smooth: float) -> Penalty:
        """With both strengths multiplied."""
        return replace(self, sparse=self.sparse * sparse, smooth=self.smooth * smooth)

    def value(self, x: Tensor) -> float:
        """Of both logarithms."""
        total = 0.0
        if self.sparse > 0:
            total += self.sparse * float((self.local * (x.abs() / self.eps).log1p()).sum(dtype=torch.float64))
        if self.smooth > 0:
            d = _length(self._differences(x))
            h = torch.where(d < self.rounding, d.square() / (2 * self.rounding), d - self.rounding / 2)
            total += self.smooth * float((self.local * (h / self.eps_gradient).log1p()).sum(dtype=torch.float64))
        return total

    def smooth_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the TV term [z, y, x], and a diagonal that its bound's curvature nowhere exceeds."""
        differences = self._differences(x)
        d = _length(differences)
        h = torch.where(d < self.rounding, d.square() / (2 * self.rounding), d - self.rounding / 2)
        weight = self.local * (self.smooth / self.spacing) / (d.clamp_min(self.rounding) * (self.eps_gradient + h))
        gradient, diagonal = torch.zeros_like(x), torch.zeros_like(x)
        for axis, difference in zip(_AXES, differences, strict=True):
            count = x.shape[axis] - 1
            low, high = gradient.narrow(axis, 0, count), gradient.narrow(axis, 1, count)
            pull = (weight * difference).narrow(axis, 0, count)
            low -= pull
            high += pull
            edge = weight.narrow(axis, 0, count) * (2 / self.spacing)
            diagonal.narrow(axis, 0, count).add_(edge)
            diagonal.narrow(axis, 1, count).add_(edge)
        return gradient, diagonal

    def _differences(self, x: Tensor) -> list[Tensor]:
        """Forward differences along z, y and x, each [z, y, x], 0 at the last voxel."""
        result = []
        for axis in _AXES:
            difference = torch.zeros_like(x)
            count = x.shape[axis] - 1
            torch.sub(x.narrow(axis, 1, count), x.narrow(axis, 0, count), out=difference.narrow(axis, 0, count))
            result.append(difference.div_(self.spacing))
        return result


def _length(differences: list[Tensor]) -> Tensor:
    z, y, x = differences
    return (z * z).addcmul_(y, y).addcmul_(x, x).sqrt_()


def soft_threshold(y: Tensor, threshold: Tensor) -> Tensor:
    """The z that minimises 1/2 (z - y)^2 + threshold |z|: sign(y) max(|y| - threshold, 0)."""
    return y - torch.maximum(-threshold, torch.minimum(y, threshold))


@dataclass(frozen=True)
class Descent:
    """The map [z, y, x] that was reached and F at the start and after every step."""

    map: Tensor
    objective: tuple[float, ...]


@dataclass(frozen=True)
class Problem:
    """F: the data, the penalty and the previous map (None where there is none, and then no pull towards it)."""

    data: NormalEquations
    penalty: Penalty
    previous: Tensor | None = None

    def times(self, sparse: float, smooth: float) -> Problem:
        """With both strengths multiplied."""
        return replace(self, penalty=self.penalty.times(sparse, smooth))

    @property
    def inertia(self) -> float:
        """gamma, if there is anything to hold on to."""
        return self.penalty.inertia if self.previous is not None else 0.0

    def value(self, x: Tensor, applied: Tensor) -> float:
        """F of a map x, given A x."""
        total = float((x.double() * (0.5 * applied - self.data.linear).double()).sum()) + self.penalty.value(x)
        if self.previous is not None:
            total += 0.5 * self.inertia * float((x - self.previous).double().square().sum())
        return total

    def step(self, y: Tensor, applied: Tensor, bound: float) -> Tensor:
        """Minimiser of the bound of F about y, given A y and a bound of A."""
        gradient = applied - self.data.linear
        if self.previous is not None:
            gradient = gradient + self.inertia * (y - self.previous)
        curvature = torch.full_like(y, bound + self.inertia)
        if self.penalty.smooth > 0:
            smooth, diagonal = self.penalty.smooth_gradient(y)
            gradient, curvature = gradient + smooth, curvature + diagonal
        z = y - gradient / curvature
        if self.penalty.sparse > 0:
            z = soft_threshold(z, self.penalty.local * self.penalty.sparse / ((self.penalty.eps + y.abs()) * curvature))
        return z


def descend(problem: Problem, start: Tensor, steps: int, tolerance: float, share: float = 0.0) -> Descent:
    """Lower F from ``start`` by at most ``steps`` steps, until one changes the map by less than ``tolerance`` of it, or
    lowers F by less than ``share`` of what all of them have.

    Steps are accelerated (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2, 183) and restarted where that would raise F.
    Where a plain step raises F the estimate of the largest eigenvalue of A was too small; it grows, to the largest
    weight at most, which bounds it.
    """
    data = problem.data
    bound = data.largest_eigenvalue
    ceiling = max(data.largest_weight, bound)
    x, applied = start, data.apply(start)
    value = problem.value(x, applied)
    objective, before, momentum = [value], (x, applied), 1.0
    for _ in range(steps):
        grown = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
        ahead = (momentum - 1) / grown
        z = problem.step(x + ahead * (x - before[0]), applied + ahead * (applied - before[1]), bound)
        z_applied = data.apply(z)
        z_value = problem.value(z, z_applied)
        if z_value > value:
            if ahead == 0:
                if bound >= ceiling:
                    break  # rounding is all that is left
                bound = min(1.5 * bound, ceiling)
            before, momentum = (x, applied), 1.0
            continue
        change = float((z - x).norm() / z.norm().clamp_min(torch.finfo(z.dtype).tiny))
        before, momentum = (x, applied), grown
        gained, x, applied, value = value - z_value, z, z_applied, z_value
        objective.append(value)
        if change < tolerance or gained < share * (objective[0] - value):
            break
    return Descent(x, tuple(objective))
