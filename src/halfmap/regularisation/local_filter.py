"""Low-pass filters whose cut-off changes from place to place, on grids no finer than each band needs.

A map filtered at the local cut-off f(x) is a sum over bands, sum_i A_i(x) (b_i * m)(x). Band b_i is what filter i
passes and filter i - 1 does not; A_i(x) is the fraction of the band that is kept at x. The cut-offs of the filters form
a geometric series. Cubic convolution between them (Keys 1981, IEEE Trans. ASSP 29, 1153) gives the filter at any
cut-off to 1 %. The grid of a band is only as fine as the band needs, so low cut-offs cost next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.real_transforms import irfftn, rfftn
from halfmap.fourier.transform import fft_size

TAIL = 0.06  # amplitude of a filter where its grid ends
RUNG = 0.8  # ratio of neighbouring grid sizes
NOTHING = 1e-30  # a weight in a window that is as good as none
FILTER_STEP = 0.8  # between neighbouring filters of the series: in ln(cut-off), to be divided by the order


@dataclass(frozen=True)
class Butterworth:
    """Low-pass of gain [1 + (f / fc)^(2 order)]^(-1/2), which is 1/sqrt(2) at the cut-off; ``squared``: 1/2 there."""

    order: int = 8
    squared: bool = False

    def gain(self, size: int, cutoff: float) -> Tensor:
        """Gain [k^2] at all squared frequencies of a grid of ``size``, float64; cutoff in cycles per box."""
        square = torch.arange(3 * (size // 2) ** 2 + 1, dtype=torch.float64)
        fall = (1 + (square / cutoff**2) ** self.order).reciprocal()
        return fall if self.squared else fall.sqrt()

    def grid(self, cutoff: float, highest: float, finest: int, tail: float = TAIL) -> int:
        """Side of the coarsest grid, out of a series, that reaches to where the filter has fallen to ``tail``.

        The series starts with the grid that the ``highest`` cut-off needs; each next one is about RUNG times as large.
        No grid is finer than ``finest``. Cut-offs are in cycles per box.
        """
        reach = tail ** (-1 / (self.order * (2 if self.squared else 1)))
        steps = int(math.log(cutoff / highest) / math.log(RUNG) + 1e-9) if cutoff < highest else 0
        return min(finest, fft_size(2 * reach * highest * RUNG**steps))


@dataclass(frozen=True)
class Lattice:
    """Values [z, y, x] on a lattice that is symmetric about the centre of a map.

    spacing: of the points, in voxels of the map; box: side of the map, in voxels.
    """

    values: Tensor
    spacing: float
    box: int

    @staticmethod
    def positions(box: int, spacing: float) -> Tensor:
        """Coordinates [p] of the lattice along one axis, in voxels of the map; all points lie in the map."""
        reach = int(((box - 1) // 2) / spacing)
        return box // 2 + spacing * torch.arange(-reach, reach + 1, dtype=torch.float64)

    def on_grid(self, size: int) -> Tensor:
        """Values [z, y, x] on a grid of ``size`` over the same box: linear between the points, constant beyond them."""
        position = torch.arange(size, dtype=torch.float64) * (self.box / size)
        count = self.values.shape[0]
        t = ((position - self.box // 2) / self.spacing + count // 2).clamp(0, count - 1)
        hat = (1 - (t[:, None] - torch.arange(count)).abs()).clamp_min(0)
        return separable(self.values, hat.to(self.values))


def separable(v: Tensor, matrix: Tensor) -> Tensor:
    """Apply one matrix [o, i] along each of the three axes of v [i, i, i]; the result is [o, o, o]."""
    v = torch.matmul(v, matrix.T)
    v = torch.matmul(matrix, v)
    return torch.tensordot(matrix, v, dims=([1], [0]))


def window_weights(positions: Tensor, size: int, box: int, extent: float, window: str) -> Tensor:
    """Weights [p, i] of the points i of a grid of ``size`` in a window about each position; rows sum to 1.

    positions [p], extent: in voxels of the box. window: ``box``, or ``gaussian`` with the variance of a box of that
    extent.
    """
    where = torch.arange(size, dtype=torch.float64) * (box / size)
    away = (where - positions[:, None]).abs()
    if window == "gaussian":
        weight = (-6 * (away / extent).square()).exp()
        # Numbers that float32 cannot hold in full (below 1e-38) make a product of matrices 15 times slower.
        weight = torch.where(weight < NOTHING, 0, weight)
    else:
        weight = ((0.5 * extent - away) * (size / box) + 0.5).clamp(0, 1)
    return weight / weight.sum(dim=1, keepdim=True)


def locally_filtered(m: Tensor, cutoff: Lattice, shape: Butterworth) -> Tensor:
    """Filter the map m [z, y, x] at every place with the cut-off of that place; cutoff: in cycles per box."""
    return filtered_transform(rfftn(m), cutoff, shape)


def filtered_transform(transform: Tensor, cutoff: Lattice, shape: Butterworth) -> Tensor:
    """Like `locally_filtered`, from the map's transform (rfftn)."""
    box = transform.shape[0]
    lowest, highest = float(cutoff.values.min()), float(cutoff.values.max())
    count = max(1, math.ceil(math.log(highest / lowest) * shape.order / FILTER_STEP))
    step = math.log(highest / lowest) / count if highest > lowest else 1.0
    # Cubic convolution needs one node below the lowest cut-off.
    nodes = [lowest * math.exp(step * (i - 1)) for i in range(count + 2)]
    # Position of each place's cut-off among the nodes, a real number; nodes[0] is one step below the lowest cut-off.
    among = replace(cutoff, values=(cutoff.values / lowest).log() / step + 1)
    total = torch.zeros_like(transform)
    last = len(nodes)
    while last > 0:
        size = shape.grid(nodes[last - 1], highest, box)
        first = last - 1
        while first > 0 and shape.grid(nodes[first - 1], highest, box) == size:
            first -= 1
        place = among.on_grid(size)
        part = torch.zeros_like(place)
        gains = [shape.gain(size, nodes[i]) for i in range(max(first - 1, 0), last)]
        bands = [gains[0]] * (first == 0) + [b - a for a, b in pairwise(gains)]
        for i in range(0, len(bands), 2):  # two bands share one complex transform
            # Beyond the highest node the filter goes on as between the last two, so the last band counts once more.
            pair = kernels.filtered_pair(transform, transform, size, bands[i], bands[min(i + 1, len(bands) - 1)])
            if i + 1 == len(bands) and first + i + 1 < len(nodes):  # the next band belongs to another grid
                pair.imag.zero_()
            kernels.add_kept_bands_(part, place, pair, first + i)
        _add_transform_(total, rfftn(part))
        last = first
    return irfftn(total, box)


def on_grid_of(box: int, transform: Tensor) -> Tensor:
    """The rfftn of a map on a grid of ``box``, from its rfftn on an equal or coarser grid over the same extent."""
    if transform.shape[0] == box:
        return transform
    total = transform.new_zeros((box, box, box // 2 + 1))
    _add_transform_(total, transform)
    return total


def _add_transform_(total: Tensor, part: Tensor) -> None:
    """Add ``part``, the rfftn of a map on an equal or coarser grid over the same box, to ``total`` in place."""
    box, size = total.shape[0], part.shape[0]
    if box == size:
        total += part
        return
    low = (size - 1) // 2
    scale = (box / size) ** 3
    for z in (slice(0, low + 1), slice(-low, None)):
        for y in (slice(0, low + 1), slice(-low, None)):
            total[z, y, : low + 1] += part[z, y, : low + 1] * scale
