"""Maps from the sums of the M-step: V = numerator / (weight + ridge), cropped and divided by the gridding envelope.

The ratio of the sums is a local average over the insertion kernel. The kernel's real-space envelope (sinc^2 along each
axis for trilinear insertion) is divided out. This is the usual gridding reconstruction without iterated density
weights.

Where images show some directions more than others, one shell holds coefficients of very different noise. An *evened*
map tones the noisy ones down: a coefficient whose weight w is less than the shell's mean W is divided by
(1 - a) w + a W instead of w, with a = l / (W + l). Relative to a coefficient of mean weight this is what a Wiener
filter does, (w + l) / (W + l), and no amplitude that is measured as well as the mean is shrunk. l is one over the
signal's power: l = H (1 - F) / F, with the FSC F of the half maps and the harmonic mean H of the weights. The mean is
harmonic because the noise power of the half maps is the mean of 1 / w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.gridding import divide_envelope
from halfmap.fourier.transform import from_half_volume, half_volume_extent
from halfmap.kernels.evening import Evening
from halfmap.reconstruction.statistics import Backprojection

# Least divisor, as a part of the shell's mean weight: where nothing was inserted the map is zero, not noise over
# nothing.
FLOOR = 1e-3


def reconstruct(statistics: Backprojection, ridge: Tensor | None = None) -> Tensor:
    """Map [z, y, x] from finished statistics, in the units of the images: its sum along z is the CTF-free image.

    ridge [s]: added to the weight, 1/tau2 of a Wiener filter; None adds nothing. Raises ValueError for unfinished
    statistics.
    """
    if not statistics.folded:
        raise ValueError("statistics must be finished (folded) before they are inverted")
    statistics = statistics.on_bench()
    floor = FLOOR * statistics.shell_weight()
    added = torch.zeros_like(floor) if ridge is None else ridge.to(floor) + floor * 1e-3
    return _map_of(kernels.divided(statistics.sums, added, floor, statistics.padding), statistics, statistics.box)


def evening(statistics: Backprojection, fsc: Tensor) -> Evening:
    """How finished statistics are evened: share = 1 - a, added = a W.

    fsc [s]: of the half maps, 0 from the shell on where they stop agreeing. Raises ValueError for unfinished
    statistics.
    """
    if not statistics.folded:
        raise ValueError("statistics must be finished (folded) before they are inverted")
    weight, harmonic = statistics.shell_weights(FLOOR)
    agreeing = torch.zeros_like(weight)
    known = min(len(weight), len(fsc))
    agreeing[:known] = fsc[:known].to(weight).clamp(0, 1)
    measured, noise = agreeing * weight, (1 - agreeing) * harmonic
    share = (measured / (measured + noise).clamp_min(1e-20)).clamp(max=1 - FLOOR)
    return Evening(share, (1 - share) * weight)


def reconstruct_evened(statistics: Backprojection, by: Evening) -> Tensor:
    """Evened map [z, y, x] from finished statistics: no direction that few images show stands out by its noise."""
    statistics = statistics.on_bench()
    ratio = kernels.divided(statistics.sums, torch.zeros_like(by.added), by.added, statistics.padding, by.share)
    return _map_of(ratio, statistics, statistics.box)


def reconstructed_difference(
    first: Backprojection, second: Backprojection, weight: Tensor, box: int, by: Evening | None = None
) -> Tensor:
    """Map [z, y, x] of the first statistics less that of the second, on a grid of ``box`` points.

    Both statistics have the same size, and both are folded or neither is. weight [s]: mean weight of either by shell;
    the map ends where it ends. by: evens the difference; made from both statistics together (`evening`). The sums are
    read once, and one transform is made.
    """
    padding, first, second = first.padding, first.on_bench(), second.on_bench()
    extent = min(first.sums.shape[2] - 1, half_volume_extent(padding, len(weight) - 2))
    ratio = kernels.ratio_difference(
        first.sums, second.sums, FLOOR * weight, padding, extent, not first.folded,
        None if by is None else Evening(by.share[: len(weight)], by.added[: len(weight)]),
    )
    # Transforms are unscaled sums over voxels.
    return _map_of(ratio, first, box) * (box / first.box) ** 3


def _map_of(ratio: Tensor, statistics: Backprojection, box: int) -> Tensor:
    """Map [z, y, x] on a grid of ``box`` points from a ratio, complex [z, y, x], of such sums."""
    return divide_envelope(from_half_volume(ratio, statistics.padding, box), statistics.padding, statistics.kernel)
