"""Inversion of the statistics: V = numerator / (weight + ridge), cropped and freed from the gridding envelope.

The ratio of the sums is a local average over the insertion kernel; its real-space envelope (sinc^2 along each axis for
trilinear insertion) is divided out: the usual gridding reconstruction without iterated density weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.gridding import divide_envelope
from halfmap.fourier.transform import from_half_volume, half_volume_extent
from halfmap.reconstruction.statistics import Backprojection

FLOOR = 1e-3  # of the shell's mean weight: where nothing was inserted the map is zero, not noise over nothing


def reconstruct(statistics: Backprojection, ridge: Tensor | None = None) -> Tensor:
    """Map [z, y, x] from finished statistics; ridge[s] is added to the weight (1/tau2 of a Wiener filter, or none).

    Same units as the images: the sum of the map along z is the CTF-free image.
    """
    if not statistics.folded:
        raise ValueError("statistics must be finished (folded) before they are inverted")
    floor = FLOOR * statistics.shell_weight()
    added = torch.zeros_like(floor) if ridge is None else ridge.to(floor) + floor * 1e-3
    ratio = kernels.divided(statistics.sums, added, floor, statistics.padding)
    volume = from_half_volume(ratio, statistics.padding, statistics.box)
    return divide_envelope(volume, statistics.padding, statistics.kernel)


def reconstructed_difference(first: Backprojection, second: Backprojection, weight: Tensor, box: int) -> Tensor:
    """Map [z, y, x] of the first less that of the second statistics, alike in size, on a grid of ``box`` points.

    weight [s]: mean weight of either by shell, as far as the maps shall reach. Folded or not, the sums are read once
    and transformed once.
    """
    padding = first.padding
    extent = min(first.sums.shape[2] - 1, half_volume_extent(padding, len(weight) - 2))
    ratio = kernels.ratio_difference(
        first.sums, second.sums, FLOOR * weight, padding, extent, fold=not first.folded
    )
    # transforms are unscaled sums over voxels
    return divide_envelope(from_half_volume(ratio, padding, box), padding, first.kernel) * (box / first.box) ** 3
