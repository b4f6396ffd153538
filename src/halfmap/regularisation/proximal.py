"""Sparse and smooth maps: the penalties of OPUS-SSRI, and a descent that never raises the objective.

Luo et al. (2021) PNAS 118, e2013756118, equations 3-6. The objective to minimise is

    F(x) = 1/2 <x, A x> - <b, x> + gamma/2 |x - previous|^2
           + alpha sum_v log(1 + |x_v| / eps) + beta sum_v log(1 + h(|grad x|_v) / eps'),

with h(d) = d^2 / (2 mu) below mu and d - mu/2 above, which is Nesterov's smoothing of the norm. grad is the forward
difference along each axis, and 0 across the edge of the box.

The logarithms are concave in |x| and in the square of |grad x|. So their tangents at a point y bound them from above: a
weighted l1 norm (equation 4) and a weighted sum of squared differences. The curvature of all but the l1 norm is bounded
by the Lipschitz constant L of the quadratic part plus twice the diagonal of the weighted differences. The minimiser of
the whole bound is a gradient step, with a length of its own at every voxel, followed by a soft threshold (equation 6).
Each step therefore lowers F, including the TV term. Reweighting happens at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.kernels.descent import Term, Weights, descent_sums, has_kernels, proximal_step
from halfmap.regularisation.normal_equations import NormalEquations

TINY = 1e-60  # a square that is as good as none
LOOK = 4  # steps after which a GPU is asked whether a descent is over
_AXES = (0, 1, 2)


@dataclass(frozen=True)
class Strength:
    """Factors of the strengths: sparse multiplies alpha, smooth multiplies beta."""

    sparse: float = 1.0
    smooth: float = 1.0


@dataclass(frozen=True)
class SmoothBound:
    """The bound of the TV term about a point: the term's gradient [z, y, x] there, and the diagonal [z, y, x] that the
    bound's curvature nowhere exceeds."""

    gradient: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class Penalty:
    """What is weighed against the data. All of it is in densities, or per mean weight.

    sparse: alpha. smooth: beta. inertia: gamma. eps, eps_gradient: eps and eps' of the logarithms. rounding: mu.
    spacing: distance of neighbouring voxels, in voxels of the map that eps_gradient was chosen for. local: factor of
    alpha and beta at every voxel [z, y, x], or one for all.
    """

    sparse: float
    smooth: float
    inertia: float
    eps: float
    eps_gradient: float
    rounding: float
    spacing: float = 1.0
    local: Tensor | float = 1.0

    def times(self, strength: Strength) -> Penalty:
        """The penalty with alpha and beta multiplied."""
        return replace(self, sparse=self.sparse * strength.sparse, smooth=self.smooth * strength.smooth)

    def value(self, x: Tensor) -> Tensor:
        """Both logarithmic terms of F for the map x [z, y, x], a float64 number where the map lies."""
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        if self.sparse > 0:
            total += self.sparse * (self.local * (x.abs() / self.eps).log1p()).sum(dtype=torch.float64)
        if self.smooth > 0:
            d = _length(self._differences(x))
            h = torch.where(d < self.rounding, d.square() / (2 * self.rounding), d - self.rounding / 2)
            total += self.smooth * (self.local * (h / self.eps_gradient).log1p()).sum(dtype=torch.float64)
        return total

    def smooth_bound(self, x: Tensor) -> SmoothBound:
        """The bound of the TV term about the map x [z, y, x]."""
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
        return SmoothBound(gradient, diagonal)

    def _differences(self, x: Tensor) -> list[Tensor]:
        """Forward differences along z, y and x, each [z, y, x] and 0 at the last voxel."""
        result = []
        for axis in _AXES:
            difference = torch.zeros_like(x)
            count = x.shape[axis] - 1
            torch.sub(x.narrow(axis, 1, count), x.narrow(axis, 0, count), out=difference.narrow(axis, 0, count))
            result.append(difference.div_(self.spacing))
        return result


def _length(differences: list[Tensor]) -> Tensor:
    """|grad x| [z, y, x] from the differences along z, y and x."""
    z, y, x = differences
    return (z * z).addcmul_(y, y).addcmul_(x, x).sqrt_()


def soft_threshold(y: Tensor, threshold: Tensor) -> Tensor:
    """The z that minimises 1/2 (z - y)^2 + threshold |z|: sign(y) max(|y| - threshold, 0)."""
    return y - torch.maximum(-threshold, torch.minimum(y, threshold))


@dataclass(frozen=True)
class Descent:
    """The map [z, y, x] that was reached, and F at the start and after every step that lowered it."""

    map: Tensor
    objective: tuple[float, ...]


@dataclass(frozen=True)
class Reached:
    """What a step has reached, float64 numbers where the map lies: F, and how much of its norm the map has changed."""

    value: Tensor
    change: Tensor


@dataclass(frozen=True)
class Problem:
    """F: the data, the penalty and the previous map [z, y, x]; without one (None) nothing pulls towards it."""

    data: NormalEquations
    penalty: Penalty
    previous: Tensor | None = None

    def times(self, strength: Strength) -> Problem:
        """The problem with alpha and beta multiplied."""
        return replace(self, penalty=self.penalty.times(strength))

    @property
    def inertia(self) -> float:
        """gamma, or 0 without a previous map."""
        return self.penalty.inertia if self.previous is not None else 0.0

    @property
    def term(self) -> Term:
        """All this, as compiled kernels take it."""
        p = self.penalty
        weights = Weights(p.sparse, p.smooth, self.inertia, p.eps, p.eps_gradient, p.rounding, p.spacing)
        local = p.local if isinstance(p.local, Tensor) else None
        return Term(self.data.linear, self.previous, local, weights)

    def reached(self, z: Tensor, applied: Tensor, x: Tensor) -> Reached:
        """What a step from x to z [z, y, x] has reached; applied: A z."""
        if has_kernels(z):
            sums = descent_sums(z, applied, x, self.term)
            return Reached(sums.value, (sums.moved / sums.power.clamp_min(TINY)).sqrt())
        return self.plainly_reached(z, applied, x)

    def plainly_reached(self, z: Tensor, applied: Tensor, x: Tensor) -> Reached:
        """The same in plain torch, on any device and of any precision."""
        change = (z - x).norm() / z.norm().clamp_min(torch.finfo(z.dtype).tiny)
        return Reached(self.value(z, applied), change.double())

    def value(self, x: Tensor, applied: Tensor) -> Tensor:
        """F of a map x [z, y, x], a float64 number where the map lies; applied: A x."""
        total = (x.double() * (0.5 * applied - self.data.linear).double()).sum() + self.penalty.value(x)
        if self.previous is not None:
            total += 0.5 * self.inertia * (x - self.previous).double().square().sum()
        return total

    def step(self, y: Tensor, applied: Tensor, bound: Tensor) -> Tensor:
        """Minimiser [z, y, x] of the bound of F about y; applied: A y; bound: of the eigenvalues of A, a number."""
        if has_kernels(y):
            return proximal_step(y, applied, bound, self.term)
        return self.plain_step(y, applied, bound)

    def plain_step(self, y: Tensor, applied: Tensor, bound: Tensor) -> Tensor:
        """The same in plain torch, on any device and of any precision."""
        gradient = applied - self.data.linear
        if self.previous is not None:
            gradient = gradient + self.inertia * (y - self.previous)
        curvature = (bound + self.inertia).to(y.dtype)
        if self.penalty.smooth > 0:
            smooth = self.penalty.smooth_bound(y)
            gradient, curvature = gradient + smooth.gradient, curvature + smooth.curvature
        z = y - gradient / curvature
        if self.penalty.sparse > 0:
            z = soft_threshold(z, self.penalty.local * self.penalty.sparse / ((self.penalty.eps + y.abs()) * curvature))
        return z


def descend(problem: Problem, start: Tensor, steps: int, tolerance: float, share: float = 0.0) -> Descent:
    """Lower F from the map ``start`` [z, y, x], in at most ``steps`` steps.

    The descent ends earlier when a step changes the map by less than ``tolerance`` times its norm, or lowers F by less
    than ``share`` of what all steps together have.

    Steps are accelerated (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2, 183), and the acceleration starts anew where it
    would raise F. Where a plain step raises F, the estimate of the largest eigenvalue of A is too small. It is then
    increased, at most to the largest weight, which is an upper bound.

    Every decision is made where the map lies, so that nothing waits for a GPU within LOOK steps: then it is asked
    whether the descent is over. Steps after its end change nothing.
    """
    data, nothing = problem.data, torch.zeros((), dtype=torch.float64, device=start.device)
    bound, one, over = nothing + data.largest_eigenvalue, nothing + 1, nothing > 0
    ceiling = torch.clamp_min(bound, data.largest_weight)
    look = 1 if start.device.type == "cpu" else LOOK
    x, applied = start, data.apply(start)
    value = first = problem.reached(x, applied, x).value
    before, before_applied, momentum = x, applied, one
    values, taken = [value], [~over]
    for step in range(1, steps + 1):
        grown = 0.5 * (1 + (1 + 4 * momentum**2).sqrt())
        ahead = (momentum - 1) / grown
        z = problem.step(x + ahead * (x - before), applied + ahead * (applied - before_applied), bound)
        z_applied = data.apply(z)
        reached = problem.reached(z, z_applied, x)
        z_value = reached.value
        raised = z_value > value
        lowered = ~(raised | over)
        stuck = raised & (ahead == 0)
        over = over | (stuck & (bound >= ceiling))  # only rounding errors are left
        bound = torch.where(stuck, torch.minimum(1.5 * bound, ceiling), bound)
        enough = (reached.change < tolerance) | (value - z_value < share * (first - z_value))
        over = over | (lowered & enough)
        before, before_applied, momentum = x, applied, torch.where(lowered, grown, one)
        x, applied, value = (_either(lowered, new, old) for new, old in
                             ((z, x), (z_applied, applied), (z_value, value)))
        values.append(value)
        taken.append(lowered)
        if step % look == 0 and bool(over):
            break
    steps_taken = torch.stack(values)[torch.stack(taken)]
    return Descent(x, tuple(steps_taken.tolist()))


def _either(first: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``new`` if ``first`` says so, else ``old``; no copy where that can be asked without waiting."""
    if first.device.type == "cpu":
        return new if bool(first) else old
    return torch.where(first, new, old)
