"""Inversion of the statistics: V = numerator / (weight + ridge), cropped and freed from the gridding envelope.

The ratio of the sums is a local average over the insertion kernel; its real-space envelope (sinc^2 along each axis for
trilinear insertion) is divided out: the usual gridding reconstruction without iterated density weights.

Where images show some directions more than others, one shell holds coefficients of very different noise. *Evened*, a
coefficient whose weight w is less than the shell's mean W is divided by (1 - a) w + a W instead of w, with
a = l / (W + l): relative to one of mean weight this is what a Wiener filter makes of it, (w + l) / (W + l), and no
amplitude is shrunk that is measured as well as the mean. l, one over the signal's power, is H (1 - F) / F with the FSC
F of the half maps and the harmonic mean H of the weights, because the noise that half maps hold is the mean of 1 / w.
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
    return _map_of(kernels.divided(statistics.sums, added, floor, statistics.padding), statistics, statistics.box)


def evening(statistics: Backprojection, fsc: Tensor) -> tuple[Tensor, Tensor]:
    """1 - a [s] and a W [s] by which finished statistics are evened; fsc [s]: of the half maps, 0 from where they stop
    agreeing."""
    if not statistics.folded:
        raise ValueError("statistics must be finished (folded) before they are inverted")
    weight, harmonic = statistics.shell_weights(FLOOR)
    agreeing = torch.zeros_like(weight)
    known = min(len(weight), len(fsc))
    agreeing[:known] = fsc[:known].to(weight).clamp(0, 1)
    measured, noise = agreeing * weight, (1 - agreeing) * harmonic
    share = (measured / (measured + noise).clamp_min(1e-20)).clamp(max=1 - FLOOR)
    return share, (1 - share) * weight


def reconstruct_evened(statistics: Backprojection, profiles: tuple[Tensor, Tensor]) -> Tensor:
    """Map [z, y, x] from finished statistics in which directions that few images show do not stand out by their noise;
    profiles: what `evening` says."""
    share, even = profiles
    ratio = kernels.divided(statistics.sums, torch.zeros_like(even), even, statistics.padding, share)
    return _map_of(ratio, statistics, statistics.box)


def reconstructed_difference(
    first: Backprojection, second: Backprojection, weight: Tensor, box: int,
    profiles: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Map [z, y, x] of the first less that of the second statistics, alike in size, on a grid of ``box`` points.

    weight [s]: mean weight of either by shell, as far as the maps shall reach. Folded or not, the sums are read once
    and transformed once. profiles: of both together (`evening`), by which the difference is evened.
    """
    padding = first.padding
    extent = min(first.sums.shape[2] - 1, half_volume_extent(padding, len(weight) - 2))
    ratio = kernels.ratio_difference(
        first.sums, second.sums, FLOOR * weight, padding, extent, not first.folded,
        None if profiles is None else (profiles[0][: len(weight)], profiles[1][: len(weight)]),
    )
    # transforms are unscaled sums over voxels
    return _map_of(ratio, first, box) * (box / first.box) ** 3


def _map_of(ratio: Tensor, statistics: Backprojection, box: int) -> Tensor:
    """Map [z, y, x] on a grid of ``box`` points from a ratio of such sums."""
    return divide_envelope(from_half_volume(ratio, statistics.padding, box), statistics.padding, statistics.kernel)
