"""Products of the slopes of slices of two volumes, added up over images, on a GPU.

A program takes 128 coefficients, one a thread, and goes through 32 images. Of an image a coefficient costs sixteen
points of eight bytes of the volumes, 12 bytes of the image (data and weight), some 230 floating-point operations and
nothing written: reading the volumes, some nine sectors of 32 bytes, is likely to be what takes the time. The five sums
stay in registers, float32; those of 32 images are added in float64 in their order. No two programs write to one place,
so the same bits come out every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference
from halfmap.kernels.triton_cells import load_pair, on_slice, value_and_slopes
from halfmap.kernels.triton_kernel import Kernel, as_pairs, programs_for, rows_of

_BLOCK = 128
_IMAGES = 32  # of a program


@triton.jit(do_not_specialize=["m", "count", "blocks", "images", "most", "stride_y", "stride_w"])
def _slopes(
    out, volume, mate, coords, axes, data, weight, m, count, blocks, images, most, stride_y, stride_w,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out[program // blocks, 5, k] of ``most`` images, as slopes.slope_sums; of these there are ``images`` in all.

    volume, mate, coords and data are pairs; count: of the coefficients; blocks: of BLOCK coefficients; the strides are
    those of the images in data and weight.
    """
    program = tl.program_id(0)
    part = program // blocks
    k = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mine = k < count
    u, v = load_pair(coords, k, mine)
    xx = tl.zeros([BLOCK], tl.float32)
    xy = tl.zeros([BLOCK], tl.float32)
    yy = tl.zeros([BLOCK], tl.float32)
    along_x = tl.zeros([BLOCK], tl.float32)
    along_y = tl.zeros([BLOCK], tl.float32)
    first = part * most
    row = first.to(tl.int64)
    for b in range(first, tl.minimum(first + most, images)):
        x, y, z = on_slice(u, v, axes, axes, b, False)
        a = axes + b * 6
        a0, a1, a2 = tl.load(a), tl.load(a + 1), tl.load(a + 2)
        b0, b1, b2 = tl.load(a + 3), tl.load(a + 4), tl.load(a + 5)
        _, _, xr, xi, yr, yi, zr, zi = value_and_slopes(volume, x, y, z, m)
        gxr, gxi = a0 * xr + a1 * yr + a2 * zr, a0 * xi + a1 * yi + a2 * zi
        gyr, gyi = b0 * xr + b1 * yr + b2 * zr, b0 * xi + b1 * yi + b2 * zi
        pr, pi, xr, xi, yr, yi, zr, zi = value_and_slopes(mate, x, y, z, m)
        hxr, hxi = a0 * xr + a1 * yr + a2 * zr, a0 * xi + a1 * yi + a2 * zi
        hyr, hyi = b0 * xr + b1 * yr + b2 * zr, b0 * xi + b1 * yi + b2 * zi
        dr, di = load_pair(data, row * stride_y + k, mine)
        w = tl.load(weight + row * stride_w + k, mask=mine, other=0.0)
        rr, ri = dr - w * pr, di - w * pi
        xx += w * (gxr * hxr + gxi * hxi)
        xy += 0.5 * w * (gxr * hyr + gxi * hyi + gyr * hxr + gyi * hxi)
        yy += w * (gyr * hyr + gyi * hyi)
        along_x += gxr * rr + gxi * ri
        along_y += gyr * rr + gyi * ri
        row += 1
    o = out + part.to(tl.int64) * 5 * count + k
    tl.store(o, xx, mask=mine)
    tl.store(o + count, xy, mask=mine)
    tl.store(o + 2 * count, yy, mask=mine)
    tl.store(o + 3 * count, along_x, mask=mine)
    tl.store(o + 4 * count, along_y, mask=mine)


_TYPES = ("*fp32", *("*i64",) * 3, "*fp32", "*i64", "*fp32", *("i32",) * 7)
_SLOPES = Kernel(_slopes, _TYPES, {"BLOCK": _BLOCK})
KERNELS = (_SLOPES,)


def slope_sums(volume: Tensor, mate: Tensor, coords: Tensor, axes: Tensor, data: Tensor, weight: Tensor) -> Tensor:
    """Sums float64 [5, k] over images, as reference.slope_sums, which takes double precision."""
    if volume.dtype != torch.complex64:
        return reference.slope_sums(volume, mate, coords, axes, data, weight)
    count, images = len(coords), len(axes)
    parts, blocks = programs_for(images, _IMAGES), programs_for(count, _BLOCK)
    out = torch.empty((parts, 5, count), device=volume.device)
    pairs, weight = as_pairs(data.to(volume.dtype)), rows_of(weight)
    _SLOPES.launch(
        parts * blocks, out, as_pairs(volume.contiguous()), as_pairs(mate.to(volume.dtype).contiguous()),
        as_pairs(coords.float()), axes.float().contiguous(), pairs, weight, volume.shape[2] - 1, count, blocks, images,
        _IMAGES, pairs.stride(0), weight.stride(0),
    )  # fmt: skip
    return out.sum(dim=0, dtype=torch.float64)
