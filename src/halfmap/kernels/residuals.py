"""Images against their models at given poses: sums by shell, from which noise, contrast and signs of CTFs are told."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.kernels.paths import elsewhere
from halfmap.kernels.poses import band_arrays
from halfmap.kernels.threads import for_ranges


@dataclass(frozen=True)
class ResidualSums:
    """Sums over each shell s of the image b, float64, of data y and model m = c V; contrast s.

    power [b, s]: w |y - s m|^2; square [b, s]: w |m|^2, with w the weight of a coefficient. cross, norm [b, s, 2]:
    Re conj(y) m and |m|^2, unweighted, over the coefficients where c is positive, and over the others.
    """

    power: Tensor
    square: Tensor
    cross: Tensor
    norm: Tensor


def residual_sums(
    volume: Tensor, coords: Tensor, kxy: Tensor, shell: Tensor, box: int, y: Tensor, c: Tensor, scale: Tensor,
    rotations: Tensor, shifts: Tensor, weight: Tensor | None = None,
) -> ResidualSums:  # fmt: skip
    """Sums over shells of images and of a half volume [z, y, x] at their poses.

    y [b, k] complex: images; c [b, k]: their CTF, scale [b]: their contrast; both at coords [k, 2] of the reference and
    kxy [k, 2] of the image, whose side is ``box`` pixels. shell int64 [k]: ascending. rotations [b, 3, 3];
    shifts [b, 2] in pixels: they are undone in y. weight [b, k]: 1 for all where it is None. Images do not mix, and the
    sums of one are the same bits for any number of threads.
    """
    real = volume.real.dtype
    axes, c, scale = rotations[:, :2].to(real).contiguous(), c.to(real), scale.to(real)
    weight = c.new_ones((1, c.shape[1])) if weight is None else weight.to(real)
    coords, shifts = coords.to(real), shifts.double()
    if volume.device.type != "cpu":
        count = elsewhere("residual_sums", volume.device)
        sums = count(volume, coords, kxy, shell, box, y, c, weight, scale, axes, shifts)
    else:
        from halfmap.kernels.numba_residuals import residual_range

        edges = torch.bincount(shell).cumsum(0)
        sums = torch.empty((*c.shape[:1], len(edges), 6), dtype=torch.float64)
        flat, data = (torch.view_as_real(t.to(volume.dtype).resolve_conj().contiguous()).numpy() for t in (volume, y))
        arguments = (
            sums.numpy(), flat.reshape(-1), volume.shape[2] - 1, band_arrays(coords, kxy),
            torch.cat([edges.new_zeros(1), edges]).numpy(), data,
            *(t.contiguous().numpy() for t in (c, weight, scale, axes, shifts)), box,
        )  # fmt: skip
        for_ranges(lambda i, j: residual_range(*arguments, i, j), len(c))
    return ResidualSums(sums[..., 0], sums[..., 1], sums[..., 2:4], sums[..., 4:6])
