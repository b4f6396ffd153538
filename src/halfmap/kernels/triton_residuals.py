"""What images leave beside their models at given poses, by shell, on a GPU.

Coefficients are sorted by shell, so a program takes one image and the stretch of one shell: one warp, 64 coefficients
at a time. A coefficient costs eight points of eight bytes of the volume, 16 bytes of the image (data, CTF, weight), 16
of the band (shared by all images) and some 120 floating-point operations. Six sums stay in registers, float32 (shell s
holds about 3 s coefficients); no two programs write to one place, so the same bits come out every time, whatever images
are beside.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference
from halfmap.kernels.triton_cells import load_pair, unit_circle, value_at
from halfmap.kernels.triton_kernel import Kernel, as_pairs, rows_of


@triton.jit(do_not_specialize=["m", "box", "shells", "stride_y", "stride_c", "stride_w"])
def _residuals(
    out, volume, coords, kxy, edges, y, c, weight, scale, axes, shifts, m, box, shells, stride_y, stride_c, stride_w,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out[b, s, 6] as residuals.ResidualSums has them, of shell s from edges[s] to edges[s + 1].

    volume, coords, kxy and y are pairs; the strides are those of the images in y, c and weight.
    """
    program = tl.program_id(0)
    b = program // shells
    s = program % shells
    a = axes + b * 6
    a0, a1, a2 = tl.load(a), tl.load(a + 1), tl.load(a + 2)
    b0, b1, b2 = tl.load(a + 3), tl.load(a + 4), tl.load(a + 5)
    move_x = (tl.load(shifts + 2 * b) / box).to(tl.float32)
    move_y = (tl.load(shifts + 2 * b + 1) / box).to(tl.float32)
    contrast = tl.load(scale + b)
    row = b.to(tl.int64)
    power = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    cross_above = tl.zeros([BLOCK], tl.float32)
    cross_below = tl.zeros([BLOCK], tl.float32)
    norm_above = tl.zeros([BLOCK], tl.float32)
    norm_below = tl.zeros([BLOCK], tl.float32)
    stop = tl.load(edges + s + 1)
    for begin in range(tl.load(edges + s), stop, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        mine = k < stop
        u, v = load_pair(coords, k, mine)
        kx, ky = load_pair(kxy, k, mine)
        dr, di = load_pair(y, row * stride_y + k, mine)
        ck = tl.load(c + row * stride_c + k, mask=mine, other=0.0)
        w = tl.load(weight + row * stride_w + k, mask=mine, other=0.0)
        vr, vi = value_at(volume, u * a0 + v * b0, u * a1 + v * b1, u * a2 + v * b2, m)
        pr, pi = unit_circle(kx * move_x + ky * move_y)
        yr, yi = dr * pr - di * pi, dr * pi + di * pr
        mr, mi = ck * vr, ck * vi
        left_r, left_i = yr - contrast * mr, yi - contrast * mi
        product, norm = yr * mr + yi * mi, mr * mr + mi * mi
        power += w * (left_r * left_r + left_i * left_i)
        square += w * norm
        above = ck > 0
        cross_above += tl.where(above, product, 0.0)
        cross_below += tl.where(above, 0.0, product)
        norm_above += tl.where(above, norm, 0.0)
        norm_below += tl.where(above, 0.0, norm)
    o = out + program.to(tl.int64) * 6
    tl.store(o, tl.sum(power, 0).to(tl.float64))
    tl.store(o + 1, tl.sum(square, 0).to(tl.float64))
    tl.store(o + 2, tl.sum(cross_above, 0).to(tl.float64))
    tl.store(o + 3, tl.sum(cross_below, 0).to(tl.float64))
    tl.store(o + 4, tl.sum(norm_above, 0).to(tl.float64))
    tl.store(o + 5, tl.sum(norm_below, 0).to(tl.float64))


_TYPES = ("*fp64", "*i64", "*i64", "*i64", "*i32", "*i64", *("*fp32",) * 4, "*fp64", *("i32",) * 6)
_RESIDUALS = Kernel(_residuals, _TYPES, {"BLOCK": 64}, warps=1)
KERNELS = (_RESIDUALS,)


def residual_sums(
    volume: Tensor, coords: Tensor, kxy: Tensor, shell: Tensor, box: int, y: Tensor, c: Tensor, weight: Tensor,
    scale: Tensor, axes: Tensor, shifts: Tensor,
) -> Tensor:  # fmt: skip
    """Sums float64 [b, s, 6] over shells, as reference.residual_sums, which takes double precision.

    How many shells there are is read from ``shell``: the one thing for which the host waits.
    """
    if volume.dtype != torch.complex64:
        return reference.residual_sums(volume, coords, kxy, shell, box, y, c, weight, scale, axes, shifts)
    shells = int(shell[-1]) + 1 if len(shell) else 0
    edges = torch.searchsorted(shell, torch.arange(shells + 1, device=shell.device), out_int32=True)
    out = torch.empty((len(c), shells, 6), dtype=torch.float64, device=c.device)
    pairs, c, weight = as_pairs(y.to(volume.dtype)), rows_of(c), rows_of(weight)
    _RESIDUALS.launch(
        len(c) * shells, out, as_pairs(volume.contiguous()), as_pairs(coords.float()), as_pairs(kxy.float()), edges,
        pairs, c, weight, scale.float().contiguous(), axes.float().contiguous(), shifts.double().contiguous(),
        volume.shape[2] - 1, box, shells, pairs.stride(0), c.stride(0), weight.stride(0) if len(weight) > 1 else 0,
    )  # fmt: skip
    return out
