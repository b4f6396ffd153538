"""Inversion of the statistics: V = numerator / (weight + ridge), cropped and freed from the gridding envelope.

The ratio of the sums is a local average over the insertion kernel; its real-space envelope (sinc^2 along each axis for
trilinear insertion) is divided out: the usual gridding reconstruction without iterated density weights.

Where images show some directions more than others, one shell holds coefficients of very different noise. *Evened*, a
coefficient of less than the shell's mean weight is divided by F w + (1 - F) mean w instead of w, F the FSC of the half
maps: relative to one of mean weight this is what a Wiener filter makes of it, (w + 1/tau2) / (mean w + 1/tau2) with
1/tau2 = mean w (1 - F) / F, and no amplitude is shrunk that is measured as well as the mean.
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


def reconstruct_evened(statistics: Backprojection, fsc: Tensor) -> Tensor:
    """Map [z, y, x] from finished statistics in which directions that few images show do not stand out by their noise;
    fsc [s]: of the half maps, 0 from where they stop agreeing."""
    weight = statistics.shell_weight()
    share, even = _evening(weight, fsc)
    ratio = kernels.divided(statistics.sums, torch.zeros_like(even), even, statistics.padding, share)
    volume = from_half_volume(ratio, statistics.padding, statistics.box)
    return divide_envelope(volume, statistics.padding, statistics.kernel)


def _evening(weight: Tensor, fsc: Tensor) -> tuple[Tensor, Tensor]:
    """F [s] and (1 - F) mean weight [s] for shells of this mean weight."""
    share = torch.zeros_like(weight)
    known = min(len(weight), len(fsc))
    share[:known] = fsc[:known].to(weight).clamp(0, 1 - FLOOR)
    return share, (1 - share) * weight


def reconstructed_difference(
    first: Backprojection, second: Backprojection, weight: Tensor, box: int, fsc: Tensor | None = None
) -> Tensor:
    """Map [z, y, x] of the first less that of the second statistics, alike in size, on a grid of ``box`` points.

    weight [s]: mean weight of either by shell, as far as the maps shall reach. Folded or not, the sums are read once
    and transformed once. fsc [s]: the difference is evened as the map of both together is (reconstruct_evened).
    """
    padding = first.padding
    extent = min(first.sums.shape[2] - 1, half_volume_extent(padding, len(weight) - 2))
    ratio = kernels.ratio_difference(
        first.sums, second.sums, FLOOR * weight, padding, extent, not first.folded,
        None if fsc is None else _evening(2 * weight, fsc),
    )
    # transforms are unscaled sums over voxels
    return divide_envelope(from_half_volume(ratio, padding, box), padding, first.kernel) * (box / first.box) ** 3
