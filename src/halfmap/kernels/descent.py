"""A step of the descent to a sparse and smooth map, and what it has reached: compiled, by Numba or Triton.

regularisation.proximal says what is computed, and does it in plain torch where there is no kernel. All arrays are
float32 [z, y, x], where the map lies.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from halfmap.kernels.paths import compiled_by_triton, elsewhere
from halfmap.kernels.threads import for_ranges

PLANES = 8  # at least, that a thread takes at once: each part computes the weights of the plane before it anew


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


def has_kernels(x: Tensor) -> bool:
    """Whether the functions below take a map x: one of float32, on the CPU or a GPU that Triton compiles for."""
    return x.dtype == torch.float32 and (x.device.type == "cpu" or compiled_by_triton(x.device))


def proximal_step(y: Tensor, applied: Tensor, bound: Tensor, term: Term) -> Tensor:
    """The minimiser [z, y, x] of the bound of F about y; applied: A y; bound: of A's eigenvalues, a number."""
    if y.device.type != "cpu":
        return cast(Tensor, elsewhere("proximal_step", y.device)(y, applied, bound, term))
    from halfmap.kernels.numba_proximal import step_range

    y = y.contiguous()
    out, highest = torch.empty_like(y), float(bound)
    o, given, numbers = out.numpy(), _arrays(y, applied, term), _numbers(term)
    for_ranges(lambda i, j: step_range(o, y.numpy(), *given, numbers, highest, i, j), len(y), PLANES)
    return out


def descent_sums(z: Tensor, applied: Tensor, before: Tensor, term: Term) -> DescentSums:
    """F at z, and how far the map has moved from ``before``; applied: A z."""
    if z.device.type != "cpu":
        return cast(DescentSums, elsewhere("descent_sums", z.device)(z, applied, before, term))
    from halfmap.kernels.numba_proximal import sums_range

    z = z.contiguous()
    out = torch.empty((len(z), 3), dtype=torch.float64)
    o, given, earlier = out.numpy(), _arrays(z, applied, term), before.contiguous().numpy()
    for_ranges(lambda i, j: sums_range(o, z.numpy(), *given, earlier, _numbers(term), i, j), len(z), PLANES)
    return DescentSums(*out.sum(dim=0).unbind())


def _arrays(like: Tensor, applied: Tensor, term: Term) -> list[np.ndarray]:
    """A y, b, what gamma pulls towards and the strength, as a kernel of the CPU takes them: nothing pulls away from
    ``like``."""
    strength = torch.ones_like(like) if term.strength is None else term.strength
    previous = like if term.previous is None else term.previous
    return [one.contiguous().numpy() for one in (applied, term.linear, previous, strength)]


def _numbers(term: Term) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in term.weights.numbers)
