"""Low-pass filters whose cut-off changes from place to place, on grids no finer than each band needs.

A map filtered at the local cut-off f(x) is a sum over bands, sum_i A_i(x) (b_i * m)(x): b_i is what filter i passes and
filter i - 1 does not, and A_i(x) says how much of the band is kept at x. The filters stand a fixed ratio apart, and
cubic convolution (Keys 1981, IEEE Trans. ASSP 29, 1153) between them gives the filter at any cut-off to 1 %. A band
needs a grid only as fine as itself, so low cut-offs cost next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.transform import fft_size

TAIL = 0.06  # amplitude to which filters have fallen where grids end
RUNG = 0.8  # ratio of neighbouring grid sizes
FILTER_STEP = 0.8  # in ln(cut-off) and divided by the order: between the filters that others are interpolated from


@dataclass(frozen=True)
class Butterworth:
    """Gain [1 + (f / fc)^(2 order)]^(-1/2), which falls to 1/sqrt(2) at the cut-off; or ``squared``, 1/2 there."""

    order: int = 8
    squared: bool = False

    def gain(self, size: int, cutoff: float) -> Tensor:
        """Gain [k^2] at all squared frequencies of a grid of ``size`` (cut-off in cycles per box), float64."""
        square = torch.arange(3 * (size // 2) ** 2 + 1, dtype=torch.float64)
        fall = (1 + (square / cutoff**2) ** self.order).reciprocal()
        return fall if self.squared else fall.sqrt()

    def grid(self, cutoff: float, finest: tuple[float, int], tail: float = TAIL) -> int:
        """Side of the coarsest grid of a ladder that holds this cut-off until its filter has fallen to ``tail``.

        finest = (highest cut-off, box): the ladder starts at the grid which that needs, and never passes the box.
        """
        reach = tail ** (-1 / (self.order * (2 if self.squared else 1)))
        steps = int(math.log(cutoff / finest[0]) / math.log(RUNG) + 1e-9) if cutoff < finest[0] else 0
        return min(finest[1], fft_size(2 * reach * finest[0] * RUNG**steps))


@dataclass(frozen=True)
class Lattice:
    """Values [z, y, x] at points ``spacing`` voxels apart, symmetric about the centre of a map of ``box`` voxels."""

    values: Tensor
    spacing: float
    box: int

    @staticmethod
    def positions(box: int, spacing: float) -> Tensor:
        """Coordinates [p], in voxels of the map, of the lattice along one axis; the first and last lie in the map."""
        reach = int(((box - 1) // 2) / spacing)
        return box // 2 + spacing * torch.arange(-reach, reach + 1, dtype=torch.float64)

    def on_grid(self, size: int) -> Tensor:
        """Linear interpolation on a grid of size^3 over the same box; constant beyond the outermost points."""
        position = torch.arange(size, dtype=torch.float64) * (self.box / size)
        count = self.values.shape[0]
        t = ((position - self.box // 2) / self.spacing + count // 2).clamp(0, count - 1)
        hat = (1 - (t[:, None] - torch.arange(count)).abs()).clamp_min(0)
        return separable(self.values, hat.to(self.values))


def separable(v: Tensor, matrix: Tensor) -> Tensor:
    """Apply one matrix [o, i] along the three axes of v [i, i, i]: [o, o, o]."""
    v = torch.matmul(v, matrix.T)
    v = torch.matmul(matrix, v)
    return torch.tensordot(matrix, v, dims=([1], [0]))


def window_weights(positions: Tensor, size: int, box: int, extent: float, window: str) -> Tensor:
    """Weights [p, i] that average a grid of ``size`` over the box in windows about positions [p]; rows sum to 1.

    positions and extent in voxels of the box; window: box, or a gaussian with the variance of a box of that extent.
    """
    where = torch.arange(size, dtype=torch.float64) * (box / size)
    away = (where - positions[:, None]).abs()
    if window == "gaussian":
        weight = (-6 * (away / extent).square()).exp()
    else:
        weight = ((0.5 * extent - away) * (size / box) + 0.5).clamp(0, 1)
    return weight / weight.sum(dim=1, keepdim=True)


def locally_filtered(m: Tensor, cutoff: Lattice, shape: Butterworth) -> Tensor:
    """The map m [z, y, x] with the filter of each place's cut-off (cycles per box) applied at that place."""
    return filtered_transform(torch.fft.rfftn(m), cutoff, shape)


def filtered_transform(transform: Tensor, cutoff: Lattice, shape: Butterworth) -> Tensor:
    """The same from the map's transform (torch.fft.rfftn)."""
    box = transform.shape[0]
    lowest, highest = float(cutoff.values.min()), float(cutoff.values.max())
    count = max(1, math.ceil(math.log(highest / lowest) * shape.order / FILTER_STEP))
    step = math.log(highest / lowest) / count if highest > lowest else 1.0
    nodes = [lowest * math.exp(step * (i - 1)) for i in range(count + 2)]  # one below the lowest: cubic needs it
    # where each place stands among the nodes; nodes[0] lies one step below the lowest
    among = replace(cutoff, values=(cutoff.values / lowest).log() / step + 1)
    total = torch.zeros_like(transform)
    last = len(nodes)
    while last > 0:
        size = shape.grid(nodes[last - 1], (highest, box))
        first = last - 1
        while first > 0 and shape.grid(nodes[first - 1], (highest, box)) == size:
            first -= 1
        place = among.on_grid(size)
        part = torch.zeros_like(place)
        gains = [shape.gain(size, nodes[i]) for i in range(max(first - 1, 0), last)]
        bands = [gains[0]] * (first == 0) + [b - a for a, b in pairwise(gains)]
        for i in range(0, len(bands), 2):  # two bands ride in one complex transform
            # beyond the highest node the filter goes on as between the last two: its band counts once more
            pair = kernels.filtered_pair(transform, transform, size, bands[i], bands[min(i + 1, len(bands) - 1)])
            if i + 1 == len(bands) and first + i + 1 < len(nodes):  # the next band belongs to another grid
                pair.imag.zero_()
            kernels.add_kept_bands_(part, place, pair, first + i)
        _add_transform_(total, torch.fft.rfftn(part))
        last = first
    return torch.fft.irfftn(total, s=(box, box, box))


def on_grid_of(box: int, transform: Tensor) -> Tensor:
    """The rfftn of a map on a grid of ``box`` from that on a grid as coarse or coarser over the same extent."""
    if transform.shape[0] == box:
        return transform
    total = transform.new_zeros((box, box, box // 2 + 1))
    _add_transform_(total, transform)
    return total


def _add_transform_(total: Tensor, part: Tensor) -> None:
    """Add the rfftn of a map on a grid as coarse or coarser to that of a finer one over the same box, in place."""
    box, size = total.shape[0], part.shape[0]
    if box == size:
        total += part
        return
    low = (size - 1) // 2
    scale = (box / size) ** 3
    for z in (slice(0, low + 1), slice(-low, None)):
        for y in (slice(0, low + 1), slice(-low, None)):
            total[z, y, : low + 1] += part[z, y, : low + 1] * scale
