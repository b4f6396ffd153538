"""Local resolution: the FSC of two half maps within a small window, point by point.

    F(s; x) = sum_{k in s} Re A_x(k) conj B_x(k) / sqrt(sum_{k in s} |A_x(k)|^2 sum_{k in s} |B_x(k)|^2),

A_x and B_x are the transforms of the half maps under a soft spherical window about x (Cardone, Heymann & Steven 2013,
J. Struct. Biol. 184:226). The local resolution is where F first falls below a threshold, linear between shells.

Windows are cut out and transformed in batches, exactly as in the definition. That is cheap because the result is as
smooth as the window: a few lattice points across the window's width are enough. Their number times the cost of a
window's transform does not depend on the pixel size.

The lowest shells of a window have few coefficients, so that noise alone often correlates beyond any fixed threshold.
Shells 1 to 3 are therefore judged together, and a threshold is never below two standard deviations of the FSC of noise
(`null_band`). Where the half maps disagree in these shells they do not agree at all, and the place gets the coarsest
resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.real_transforms import rfftn
from halfmap.fourier.shells import hermitian_weights, shell_index_3d
from halfmap.maps.masks import spherical_mask
from halfmap.validation.halfmaps import null_band

POINTS_PER_WIDTH = 4.0  # lattice points across the window's full width at half maximum
CERTAIN = 2.0  # a correlation below so many standard deviations of the FSC of noise is no agreement
COARSEST_SHELL = 3  # up to this shell of a window's transform one shell alone says too little
_BATCH_ELEMENTS = 1 << 21  # voxels of all windows that are transformed at once


@dataclass(frozen=True)
class Window:
    """A soft ball whose full width at half maximum is `width`, in a cube that just holds it. Lengths in voxels.

    It is 1 in the inner half of its radius, followed by a cosine edge as wide as the radius.
    """

    width: float

    @property
    def box(self) -> int:
        """Side of the cube: even, and at least 1.5 widths."""
        return 2 * math.ceil(0.75 * self.width)

    @property
    def usual_step(self) -> int:
        """Distance of lattice points, in voxels, that is fine enough for the window."""
        return max(1, round(self.width / POINTS_PER_WIDTH))

    def weights(self) -> Tensor:
        """The window: float32 [z,y,x]."""
        return spherical_mask(self.box, 0.25 * self.width, 0.5 * self.width)

    def thresholds(self, threshold: float) -> Tensor:
        """What the FSC has to exceed in each shell [s] to count as agreement: threshold, or more where noise may exceed
        that."""
        return (CERTAIN * null_band(self.box, self.weights())).clamp(min=threshold)


@dataclass(frozen=True)
class _ShellOrder:
    """Coefficients of a window's transform, sorted by shell from 1 to half the window's box.

    places[k]: where they are in the flattened transform; members[k]: how many coefficients of the full transform each
    stands for; counts: how many there are in each shell.
    """

    places: Tensor
    members: Tensor
    counts: list[int]


def local_fsc(half1: Tensor, half2: Tensor, points: Tensor, window: Window) -> Tensor:
    """FSC [p,s] within windows about voxels points[p,3] (z, y, x) of two half maps [z,y,x]; s = 0 .. window.box // 2.

    Shells are those of the window's cube, one cycle per window.box voxels apart. Shell 0 is 1. Beyond the box the maps
    are zero.
    """
    size, half = window.box, window.box // 2
    weights = window.weights().to(half1)
    padded = [torch.nn.functional.pad(v, (half, half) * 3) for v in (half1, half2)]
    order = _by_shell(size)
    places, members = order.places.to(half1.device), order.members.to(half1.device)
    batch = max(1, _BATCH_ELEMENTS // size**3)
    curves = torch.ones((len(points), half + 1), dtype=torch.float64, device=half1.device)
    for first in range(0, len(points), batch):
        some = points[first : first + batch].tolist()
        cut = [torch.stack([v[z : z + size, y : y + size, x : x + size] for z, y, x in some]) for v in padded]
        A, B = (rfftn(cubes * weights).flatten(1)[:, places] for cubes in cut)
        products = (A.real * B.real + A.imag * B.imag, _power(A), _power(B))
        cross, first_power, other_power = (
            torch.stack([part.sum(dim=1) for part in (p * members).split(order.counts, dim=1)], dim=1).double()
            for p in products
        )
        norm = (first_power * other_power).sqrt()
        curves[first : first + batch, 1:] = torch.where(norm > 0, cross / norm.clamp_min(1e-300), 0.0)
    return curves


def _power(A: Tensor) -> Tensor:
    return A.real.square() + A.imag.square()


def _by_shell(size: int) -> _ShellOrder:
    """The coefficients of a cube of this side by shell."""
    shell = shell_index_3d(size)
    weights = hermitian_weights(size).expand(shell.shape).flatten()
    shell = shell.flatten()
    order = torch.argsort(shell, stable=True)
    order = order[(shell[order] > 0) & (shell[order] <= size // 2)]
    counts = torch.bincount(shell[order], minlength=size // 2 + 1)[1:].tolist()
    return _ShellOrder(order, weights[order].float(), counts)


def local_crossing(curves: Tensor, thresholds: Tensor) -> Tensor:
    """Where each curve[p,s] first falls below its threshold[s], in fractional shells [p], from COARSEST_SHELL on.

    The value at COARSEST_SHELL is the mean over it and the shells before, weighted by their area, s^2. A curve that
    never falls below its threshold gets the last shell.
    """
    area = torch.arange(1, COARSEST_SHELL + 1, dtype=curves.dtype, device=curves.device).square()
    start = curves[:, 1 : COARSEST_SHELL + 1] @ (area / area.sum())
    above = torch.cat([start[:, None], curves[:, COARSEST_SHELL + 1 :]], dim=1) - thresholds.to(curves)[COARSEST_SHELL:]
    below = above < 0
    s = torch.where(below.any(dim=1), below.to(torch.uint8).argmax(dim=1), above.shape[1] - 1)
    before, after = (above.gather(1, i[:, None])[:, 0] for i in ((s - 1).clamp(min=0), s))
    share = torch.where(below.any(dim=1) & (s > 0), before / (before - after).clamp_min(1e-12), 1.0)
    return COARSEST_SHELL + (s - 1 + share).clamp(min=0)


def local_resolution(half1: Tensor, half2: Tensor, mask: Tensor, window: Window, *, threshold: float = 0.5,
                     step: int | None = None) -> tuple[Tensor, int]:
    """Local resolution in voxels [z,y,x] (float32; times the pixel size: A), and the number of windows used.

    Measured at voxels `step` apart (default: a quarter of the window's width) where mask[z,y,x] > 0. Between them the
    frequency is linear. Where the mask is 0 the resolution is the coarsest that the window can measure, window.box / 3.
    It is never finer than 2, Nyquist. Raises ValueError where the mask is empty.
    """
    step = window.usual_step if step is None else step
    inside = (mask > 0).cpu()
    if not bool(inside.any()):
        raise ValueError("the mask is empty")
    low, high = (torch.stack([where.aminmax()[i] for where in torch.nonzero(inside, as_tuple=True)]) for i in (0, 1))
    shape = (-((low - high) // step) + 1).tolist()  # the last lattice point is not before the last voxel of the mask
    wanted = _lattice_cells(inside, low, step, shape)
    grid = torch.nonzero(wanted)
    points = (low + grid * step).clamp(max=mask.shape[-1] - 1)
    curves = local_fsc(half1, half2, points, window).cpu()
    crossing = local_crossing(curves, window.thresholds(threshold))
    lattice = torch.zeros(shape)
    lattice[tuple(grid.T)] = (crossing / window.box).float()
    frequency = _interpolated(_extended(lattice, wanted), low, step, mask.shape[-1])
    coarsest = COARSEST_SHELL / window.box
    return (torch.where(inside, frequency, coarsest)).reciprocal().to(mask.device), len(points)


def _lattice_cells(inside: Tensor, low: Tensor, step: int, shape: list[int]) -> Tensor:
    """Lattice points [z,y,x] with a voxel of the mask closer than one step along every axis."""
    count = [(n + 1) * step for n in shape]
    block = torch.zeros(count)
    ends = [min(int(a) + n - step, inside.shape[0]) for a, n in zip(low, count, strict=True)]
    part = inside[int(low[0]) : ends[0], int(low[1]) : ends[1], int(low[2]) : ends[2]].float()
    block[step : step + part.shape[0], step : step + part.shape[1], step : step + part.shape[2]] = part
    # Lattice point i is at voxel step + i * step of the block. The cells before and after it are looked at.
    before = torch.nn.functional.max_pool3d(block[None, None], step, step)[0, 0] > 0
    cells = torch.zeros([n + 2 for n in shape], dtype=torch.bool)
    cells[:-1, :-1, :-1] = before
    wanted = torch.zeros(shape, dtype=torch.bool)
    for z in (0, 1):
        for y in (0, 1):
            for x in (0, 1):
                wanted |= cells[z : z + shape[0], y : y + shape[1], x : x + shape[2]]
    return wanted


def _extended(lattice: Tensor, known: Tensor) -> Tensor:
    """Values [z,y,x] where known, and elsewhere that of the nearest known point, so that interpolation never meets a
    gap."""
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
    return lattice[tuple(torch.from_numpy(index).long() for index in nearest)]


def _interpolated(lattice: Tensor, low: Tensor, step: int, box: int) -> Tensor:
    """Values at every voxel [z,y,x] of a map, linear between lattice points low + i step, constant beyond them."""
    for axis in range(3):
        at = ((torch.arange(box) - low[axis]).float() / step).clamp(0, lattice.shape[axis] - 1)
        left = at.floor().long().clamp(max=max(lattice.shape[axis] - 2, 0))
        right = (left + 1).clamp(max=lattice.shape[axis] - 1)
        share = (at - left).reshape([-1 if i == axis else 1 for i in range(3)])
        lattice = torch.lerp(lattice.index_select(axis, left), lattice.index_select(axis, right), share)
    return lattice
