"""A step of the descent to a sparse and smooth map, and what it has reached, where Triton has kernels for it.

Elsewhere regularisation.proximal, which says what is computed, does it in plain torch. All arrays are float32
[z, y, x], where the map lies.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import NamedTuple, cast

from torch import Tensor

from halfmap.kernels.paths import elsewhere


@dataclass(frozen=True)
class Weights:
    """alpha, beta and gamma; eps and eps' of the logarithms; mu, which rounds the length of the gradient; and the
    distance of neighbouring voxels: as regularisation.proximal.Penalty has them."""

    sparse: float
    smooth: float
    inertia: float
    eps: float
    eps_gradient: float
    rounding: float
    spacing: float

    @property
    def numbers(self) -> tuple[float, ...]:
        """All of them, in this order."""
        return astuple(self)


@dataclass(frozen=True)
class Term:
    """What F is made of beside the map. linear: b. previous: what gamma pulls towards, or None; strength: factor of
    alpha and beta at every voxel, or None for 1."""

    linear: Tensor
    previous: Tensor | None
    strength: Tensor | None
    weights: Weights


class DescentSums(NamedTuple):
    """Numbers, float64, where the map lies: F, the square of what a step changed, and that of the map."""

    value: Tensor
    moved: Tensor
    power: Tensor


def proximal_step(y: Tensor, applied: Tensor, bound: Tensor, term: Term) -> Tensor:
    """The minimiser [z, y, x] of the bound of F about y; applied: A y; bound: of A's eigenvalues, a number."""
    return cast(Tensor, elsewhere("proximal_step", y.device)(y, applied, bound, term))


def descent_sums(z: Tensor, applied: Tensor, before: Tensor, term: Term) -> DescentSums:
    """F at z, and how far the map has moved from ``before``; applied: A z."""
    return cast(DescentSums, elsewhere("descent_sums", z.device)(z, applied, before, term))
