"""A point group as the kernels apply it to sums on a grid.

The sum of F(g q) over a group is wanted on the grid. The elements that map the grid onto itself, the signed
permutations of the axes, form a subgroup H: they move voxels onto voxels, and A(q), the sum of F(h q) over H, is exact.
The group falls into cosets H c, so the whole sum is A(q) plus A(c q) for one c of every other coset. Only these values
lie between grid points: two for C3, C6 and D3, four for the 60 elements of I1.

They are interpolated linearly, numerator and weight alike, so that no weight is ever negative however few the slices
are. That multiplies the ratio of the two, transformed to real space, by sinc^2(x) along each axis, with x in lengths of
the padded box, beside the envelope of insertion that is divided out of the map later. So the ratio r = n / w is
sharpened on the grid beforehand, along one axis after the other:

    n(q) += sum over k of t_k h (r(q + k) - r(q)),    h = 2 w(q) w(q + k) / (w(q) + w(q + k)).

The filter 1 + sum t_k (cos(2 pi k x) - 1), k of both signs, is 1 / sinc^2 within the box. The harmonic mean h is the
weight where it changes little, and goes to zero with the lesser one: there the exchange stops, and nothing is ever
divided by a weight that is next to nothing. Then linear interpolation alone is left.

The whole sum is the same at every point of an orbit of H, so it is looked up at one of them, the first in memory, and
written to all.

Sums fall off from the origin as 1 / |q|, which would draw interpolated values inwards. They are divided by the mean
weight of their distance from the origin first, and multiplied by it again where they are added. Both places are equally
far from the origin, so that nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

_KEPT = 1e-9  # how near to a whole number a matrix element is one


@dataclass(frozen=True)
class Lookups:
    """Where sums are interpolated: at turns[i] q + offsets[i], counted shares[i] times.

    turns [i, 3, 3], offsets [i, 3] in grid points, shares [i]; float64, on the CPU.
    """

    turns: Tensor
    offsets: Tensor
    shares: Tensor

    def __len__(self) -> int:
        return len(self.shares)


@dataclass(frozen=True)
class GroupParts:
    """A point group as H and one element of every other coset.

    on_grid int64 [h, 3, 3]: H. about_z, free [c, 3, 3], float64: about_z holds the elements that keep the z axis up to
    its sign, along which nothing is interpolated. All are on the CPU.
    """

    on_grid: Tensor
    about_z: Tensor
    free: Tensor

    @property
    def interpolated(self) -> int:
        """How many elements need interpolation."""
        return len(self.about_z) + len(self.free)


def group_parts(operators: Tensor) -> GroupParts:
    """The parts of the point group ``operators`` [o, 3, 3]."""
    rest = operators.detach().double().cpu()
    whole = rest.round()
    exact = (rest - whole).abs().amax((1, 2)) < _KEPT
    on_grid, rest = whole[exact], rest[~exact]
    chosen = []
    while len(rest):
        chosen.append(rest[0])
        coset = on_grid @ rest[0]
        rest = rest[(rest[:, None] - coset).abs().amax((2, 3)).amin(1) > 1e-6]
    turns = torch.stack(chosen) if chosen else rest
    about_z = kept_axes(turns)[:, 2]
    return GroupParts(on_grid.long(), turns[about_z], turns[~about_z])


def kept_axes(turns: Tensor) -> Tensor:
    """Which components of turns[c, 3, 3] times q are whole numbers for every grid point q: bool [c, 3] (x, y, z)."""
    return turns.abs().sum(2) < 1 + _KEPT


def orbit_images(on_grid: Tensor, side: int) -> Tensor:
    """Where the elements [h, 3, 3] that map the grid onto itself move points (x, y, z) of a half volume: int64 [h, 6].

    The first three numbers times the point are the x of its image, the last three the image's place in the array
    [z, y, x] (z and y of ``side`` points), counted from that of the origin. Where x is negative, the mate is stored,
    at the place of the other sign.
    """
    width = (side + 1) // 2
    strides = torch.tensor([1, width, width * side])
    return torch.cat([on_grid[:, 0], strides @ on_grid], dim=1)


def profile_at(profile: Tensor, square: Tensor) -> Tensor:
    """A profile [r] by distance at the squared distances ``square``: linear between its entries, 0 beyond them."""
    r, last = square.double().sqrt(), len(profile) - 1
    low = r.floor().long()
    value = profile[low.clamp(max=last)] * (1 - (r - low)) + profile[(low + 1).clamp(max=last)] * (r - low)
    return torch.where(low < last, value, 0)


def lookups_about_z(turns: Tensor) -> Lookups:
    """One value for every turn [c, 3, 3], from sums sharpened along x and y."""
    return Lookups(turns, turns.new_zeros(len(turns), 3), turns.new_ones(len(turns)))


def lookups_free(turns: Tensor, padding: int) -> Lookups:
    """As `lookups_about_z`, from sums sharpened along x, y and z.

    An element that keeps an axis (some of T, I3 and I4) needed no sharpening along it. Two values are taken for it, as
    far to both sides along that axis as blurs it again.
    """
    offsets = kept_axes(turns).double() * _blurring_offset(padding)
    single = ~kept_axes(turns).any(1)
    shares = torch.where(single, 1.0, 0.5).double()
    return Lookups(torch.cat([turns, turns[~single]]), torch.cat([offsets, -offsets[~single]]),
                   torch.cat([shares, shares[~single]]))


def sharpening(padding: int) -> Tensor:
    """The filter's t_k [k = 1...], float64. It is within 1e-3 of 1 / sinc^2 as far as `_reach` says."""
    return torch.tensor(_sharpening(padding), dtype=torch.float64)


def _reach(padding: int) -> float:
    """How far from the centre sharpening must be right, in padded boxes: as far as particles go, for padding 1."""
    return 0.4 if padding == 1 else 0.5 / padding


@cache
def _sharpening(padding: int) -> tuple[float, ...]:
    count = 6 if padding == 1 else 3
    x = torch.linspace(0, 0.5, 2001, dtype=torch.float64)
    envelope = torch.sinc(x).square()
    inside = x <= _reach(padding)
    # Beyond, the filter shall do no more than not grow.
    wanted = torch.where(inside, 1.0, envelope / envelope[inside][-1]) - envelope
    importance = torch.where(inside, 1.0, 1e-3)
    fitted = torch.linalg.lstsq(_waves(x, count) * (envelope * importance)[:, None], (wanted * importance)[:, None])
    return tuple(fitted.solution[:, 0].tolist())


def _waves(x: Tensor, count: int) -> Tensor:
    """What t_k adds to the filter [x, k]."""
    k = torch.arange(1, count + 1, dtype=torch.float64)
    return 2 * (2 * torch.pi * x[:, None] * k).cos() - 2


@cache
def _blurring_offset(padding: int) -> float:
    """d, such that the mean of linear interpolation at +d and at -d undoes the sharpening along that axis."""
    taps = sharpening(padding)
    x = torch.linspace(0, 0.8 * _reach(padding), 200, dtype=torch.float64)
    change = (2 * torch.pi * x).cos() - 1
    wanted = 1 / (1 + _waves(x, len(taps)) @ taps) - 1
    return float(change @ wanted / (change @ change))
