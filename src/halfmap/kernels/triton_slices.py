"""Slices of a Hermitian half volume on a GPU: trilinear gather.

A program takes one rotation and 256 coefficients, two a thread. Of each it reads eight points of eight bytes and writes
eight bytes, with some 60 floating-point operations: memory is what takes the time, so it was written for a thread to
have 16 loads under way and to need few registers (32, in what is compiled for sm_90). Sums of eight terms are float32,
as on the CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference
from halfmap.kernels.triton_cells import load_pair, on_slice, store_pair, value_at
from halfmap.kernels.triton_kernel import Kernel, as_pairs, programs_for

_BLOCK = 256


@triton.jit(do_not_specialize=["m", "count", "blocks"])
def _project(out, volume, coords, axes, curvature, m, count, blocks, BLOCK: tl.constexpr, CURVED: tl.constexpr):
    """out[r, k] = volume at coords[k, 0] axes[r, 0] + coords[k, 1] axes[r, 1], of a half volume that reaches to m.

    CURVED: the value lies curvature[r] |coords[k]|^2 above the plane, along axes[r, 2]. out, volume and coords are
    pairs; count: of the coefficients; blocks: of BLOCK coefficients.
    """
    program = tl.program_id(0)
    r = program // blocks
    k = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mine = k < count
    u, v = load_pair(coords, k, mine)
    x, y, z = on_slice(u, v, axes, curvature, r, CURVED)
    real, imaginary = value_at(volume, x, y, z, m)
    store_pair(out, r.to(tl.int64) * count + k, real, imaginary, mine)


_TYPES = ("*i64", "*i64", "*i64", "*fp32", "*fp32", "i32", "i32", "i32")
_FLAT, _CURVED = (Kernel(_project, _TYPES, {"BLOCK": _BLOCK, "CURVED": curved}) for curved in (0, 1))
KERNELS = (_FLAT, _CURVED)


def project_slices(volume: Tensor, coords: Tensor, axes: Tensor, curvature: Tensor | None = None) -> Tensor:
    """Slices [r, k] of a half volume [z, y, x], as reference.project_slices; double precision is left to that."""
    if volume.dtype != torch.complex64:
        return reference.project_slices(volume, coords, axes, curvature)
    out = volume.new_empty((len(axes), len(coords)))
    blocks = programs_for(len(coords), _BLOCK)
    kernel = _FLAT if curvature is None else _CURVED
    kernel.launch(
        len(axes) * blocks, as_pairs(out), as_pairs(volume.contiguous()), as_pairs(coords.float()),
        axes.float().contiguous(), axes if curvature is None else curvature.float().contiguous(), volume.shape[2] - 1,
        len(coords), blocks,
    )  # fmt: skip
    return out
