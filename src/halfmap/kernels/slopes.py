"""What slices gain where frequencies of the image change a little: products of slopes, added up over images."""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.kernels.paths import elsewhere
from halfmap.kernels.threads import for_ranges

NUMBERS = 5  # of products at each coefficient
GRAIN = 4  # blocks of coefficients that a thread takes at least


def slope_sums(
    volume: Tensor, mate: Tensor, coords: Tensor, rotations: Tensor, data: Tensor, weight: Tensor
) -> Tensor:
    """Sums float64 [5, k] over images b, at every coefficient, of products of the slopes of slices in the image plane.

    volume, mate: half volumes [z, y, x] of one shape; coords [k, 2]: where coefficients lie in them; rotations
    [b, 3, 3]; data complex [b, k]; weight [b, k]. With g and h the slopes to coords of the trilinear slices of
    ``volume`` and ``mate``, p the slice of the mate, and r = data - weight p, the sums are of weight Re conj(gx) hx, of
    weight Re (conj(gx) hy + conj(gy) hx) / 2, of weight Re conj(gy) hy, of Re conj(gx) r and of Re conj(gy) r. A slope
    is that within the trilinear cell around a coefficient. The sums are the same bits for any number of threads.
    """
    real = volume.real.dtype
    axes, coords, weight = rotations[:, :2].to(real).contiguous(), coords.to(real), weight.to(real).contiguous()
    if volume.device.type != "cpu":
        return elsewhere("slope_sums", volume.device)(volume, mate, coords, axes, data, weight)
    from halfmap.kernels.numba_cells import BLOCK
    from halfmap.kernels.numba_slopes import slope_range

    out = torch.zeros((NUMBERS, len(coords)), dtype=torch.float64)
    first, second, y = (torch.view_as_real(t.to(volume.dtype).resolve_conj().contiguous()).numpy()
                        for t in (volume, mate, data))
    u, v = (part.contiguous().numpy() for part in coords.unbind(1))
    arguments = (out.numpy(), first.reshape(-1), second.reshape(-1), volume.shape[2] - 1, u, v, axes.numpy(), y,
                 weight.numpy())
    # Whole blocks, whichever thread takes them: how a compiled loop rounds may depend on where it begins.
    for_ranges(lambda i, j: slope_range(*arguments, i * BLOCK, min(j * BLOCK, len(u))), -(-len(u) // BLOCK), GRAIN)
    return out
