"""A step of the descent to a sparse and smooth map, and what it has reached, on a GPU.

In plain torch both pass some 220 times over arrays of the map's size, 900 bytes a voxel, beside the 330 bytes or more
of the transforms of A x. Here a program takes 128 voxels, one a thread, and neighbours come from cache: a step reads 16
bytes a voxel (20 with a strength by place) and writes 4, what was reached reads 20 (24). The bound of the smooth term
at a voxel takes thirteen values about it, some 150 operations, of which seventeen divisions and four roots. Sums are
float64, one of each program, added in their order: the same bits come out every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels.descent import DescentSums, Term
from halfmap.kernels.triton_kernel import Kernel, programs_for

_BLOCK = 128


@triton.jit
def _log1p(u):
    """log(1 + u), also of small numbers: what is lost in 1 + u is made up for."""
    w = 1.0 + u
    d = w - 1.0
    return tl.where(d == 0.0, u, tl.log(w) * u / tl.where(d == 0.0, 1.0, d))


@triton.jit
def _rounded(d, rounding):
    """Nesterov's smoothing of the length of a gradient."""
    return tl.where(d < rounding, d * d / (2.0 * rounding), d - 0.5 * rounding)


@triton.jit
def _weight(v0, vz, vy, vx, local, smooth, eps, rounding, spacing):
    """Weight of the squared differences of a voxel with value v0 from its next neighbours; 0 difference: v0 again."""
    dz, dy, dx = (vz - v0) / spacing, (vy - v0) / spacing, (vx - v0) / spacing
    d = tl.sqrt(dz * dz + dy * dy + dx * dx)
    return local * (smooth / spacing) / (tl.maximum(d, rounding) * (eps + _rounded(d, rounding)))


@triton.jit(do_not_specialize=["depth", "height", "width"])
def _step(
    out, y, applied, linear, previous, strength, numbers, bound, depth, height, width,
    LOCAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out [z, y, x], the minimiser of the bound about y; numbers [7] as descent.Weights has them; bound: of A's
    eigenvalues, float64. LOCAL: whether there is a strength by place."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    plane = height.to(tl.int64) * width
    mine = i < plane * depth
    x0, row = i % width, i // width
    y0, z0 = row % height, row // height
    sparse, smooth, inertia = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    eps, eps_gradient = tl.load(numbers + 3), tl.load(numbers + 4)
    rounding, spacing = tl.load(numbers + 5), tl.load(numbers + 6)
    v = tl.load(y + i, mask=mine, other=0.0)
    local = tl.full([BLOCK], 1.0, tl.float32)
    if LOCAL:
        local = tl.load(strength + i, mask=mine, other=0.0)
    gradient = tl.load(applied + i, mask=mine, other=0.0) - tl.load(linear + i, mask=mine, other=0.0)
    curvature = tl.zeros([BLOCK], tl.float32) + (tl.load(bound) + inertia).to(tl.float32)
    gradient += inertia * (v - tl.load(previous + i, mask=mine, other=0.0))
    not_first_z, not_first_y, not_first_x = mine & (z0 > 0), mine & (y0 > 0), mine & (x0 > 0)
    more_z, more_y, more_x = mine & (z0 < depth - 1), mine & (y0 < height - 1), mine & (x0 < width - 1)
    up_z = tl.load(y + i + plane, mask=more_z, other=0.0)
    up_y = tl.load(y + i + width, mask=more_y, other=0.0)
    up_x = tl.load(y + i + 1, mask=more_x, other=0.0)
    up_z, up_y, up_x = tl.where(more_z, up_z, v), tl.where(more_y, up_y, v), tl.where(more_x, up_x, v)
    w = _weight(v, up_z, up_y, up_x, local, smooth, eps_gradient, rounding, spacing)
    gradient -= w * ((up_z - v) / spacing + (up_y - v) / spacing + (up_x - v) / spacing)
    edges = w * (tl.where(more_z, 1.0, 0.0) + tl.where(more_y, 1.0, 0.0) + tl.where(more_x, 1.0, 0.0))
    # The neighbours before it along z, y and x, each with the next ones of its own.
    b = tl.load(y + i - plane, mask=not_first_z, other=0.0)
    by = tl.load(y + i - plane + width, mask=not_first_z & more_y, other=0.0)
    bx = tl.load(y + i - plane + 1, mask=not_first_z & more_x, other=0.0)
    near = tl.full([BLOCK], 1.0, tl.float32)
    if LOCAL:
        near = tl.load(strength + i - plane, mask=not_first_z, other=0.0)
    w = _weight(b, v, tl.where(more_y, by, b), tl.where(more_x, bx, b), near, smooth, eps_gradient, rounding,
                spacing)
    gradient += tl.where(not_first_z, w * ((v - b) / spacing), 0.0)
    edges += tl.where(not_first_z, w, 0.0)
    b = tl.load(y + i - width, mask=not_first_y, other=0.0)
    bz = tl.load(y + i - width + plane, mask=not_first_y & more_z, other=0.0)
    bx = tl.load(y + i - width + 1, mask=not_first_y & more_x, other=0.0)
    if LOCAL:
        near = tl.load(strength + i - width, mask=not_first_y, other=0.0)
    w = _weight(b, tl.where(more_z, bz, b), v, tl.where(more_x, bx, b), near, smooth, eps_gradient, rounding,
                spacing)
    gradient += tl.where(not_first_y, w * ((v - b) / spacing), 0.0)
    edges += tl.where(not_first_y, w, 0.0)
    b = tl.load(y + i - 1, mask=not_first_x, other=0.0)
    bz = tl.load(y + i - 1 + plane, mask=not_first_x & more_z, other=0.0)
    by = tl.load(y + i - 1 + width, mask=not_first_x & more_y, other=0.0)
    if LOCAL:
        near = tl.load(strength + i - 1, mask=not_first_x, other=0.0)
    w = _weight(b, tl.where(more_z, bz, b), tl.where(more_y, by, b), v, near, smooth, eps_gradient, rounding,
                spacing)
    gradient += tl.where(not_first_x, w * ((v - b) / spacing), 0.0)
    edges += tl.where(not_first_x, w, 0.0)
    curvature += edges * (2.0 / spacing)
    z = v - gradient / curvature
    threshold = local * sparse / ((eps + tl.abs(v)) * curvature)
    tl.store(out + i, z - tl.maximum(-threshold, tl.minimum(z, threshold)), mask=mine)


@triton.jit(do_not_specialize=["depth", "height", "width"])
def _reached(
    out, z, applied, linear, previous, strength, numbers, before, depth, height, width,
    LOCAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[program, 3]: of its voxels, float64, what they add to F at z, to |z - before|^2 and to |z|^2."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    plane = height.to(tl.int64) * width
    mine = i < plane * depth
    x0, row = i % width, i // width
    y0, z0 = row % height, row // height
    sparse, smooth, inertia = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    eps, eps_gradient = tl.load(numbers + 3), tl.load(numbers + 4)
    rounding, spacing = tl.load(numbers + 5), tl.load(numbers + 6)
    v = tl.load(z + i, mask=mine, other=0.0)
    local = tl.full([BLOCK], 1.0, tl.float32)
    if LOCAL:
        local = tl.load(strength + i, mask=mine, other=0.0)
    more_z, more_y, more_x = mine & (z0 < depth - 1), mine & (y0 < height - 1), mine & (x0 < width - 1)
    up_z = tl.load(z + i + plane, mask=more_z, other=0.0)
    up_y = tl.load(z + i + width, mask=more_y, other=0.0)
    up_x = tl.load(z + i + 1, mask=more_x, other=0.0)
    dz = tl.where(more_z, (up_z - v) / spacing, 0.0)
    dy = tl.where(more_y, (up_y - v) / spacing, 0.0)
    dx = tl.where(more_x, (up_x - v) / spacing, 0.0)
    h = _rounded(tl.sqrt(dz * dz + dy * dy + dx * dx), rounding)
    half = 0.5 * tl.load(applied + i, mask=mine, other=0.0) - tl.load(linear + i, mask=mine, other=0.0)
    total = v.to(tl.float64) * half.to(tl.float64)
    penalty = local * (sparse * _log1p(tl.abs(v) / eps) + smooth * _log1p(h / eps_gradient))
    total += tl.where(mine, penalty, 0.0).to(tl.float64)
    away = (v - tl.load(previous + i, mask=mine, other=0.0)).to(tl.float64)
    total += 0.5 * inertia.to(tl.float64) * away * away
    moved = (v - tl.load(before + i, mask=mine, other=0.0)).to(tl.float64)
    o = out + 3 * tl.program_id(0).to(tl.int64)
    tl.store(o, tl.sum(total, 0))
    tl.store(o + 1, tl.sum(moved * moved, 0))
    tl.store(o + 2, tl.sum(v.to(tl.float64) * v.to(tl.float64), 0))


_STEP_TYPES = (*("*fp32",) * 7, "*fp64", *("i32",) * 3)
_REACHED_TYPES = ("*fp64", *("*fp32",) * 7, *("i32",) * 3)
_STEP, _REACHED = ([Kernel(function, types, {"LOCAL": local, "BLOCK": _BLOCK}) for local in (0, 1)]
                   for function, types in ((_step, _STEP_TYPES), (_reached, _REACHED_TYPES)))
KERNELS = (*_STEP, *_REACHED)


def proximal_step(y: Tensor, applied: Tensor, bound: Tensor, term: Term) -> Tensor:
    """See kernels.descent.proximal_step."""
    y = y.contiguous()
    out = torch.empty_like(y)
    kernel = _STEP[int(term.strength is not None)]
    kernel.launch(programs_for(y.numel(), _BLOCK), out, y, *_given(y, applied, term), bound.double(), *y.shape)
    return out


def descent_sums(z: Tensor, applied: Tensor, before: Tensor, term: Term) -> DescentSums:
    """See kernels.descent.descent_sums; sums over voxels are float64."""
    z, programs = z.contiguous(), programs_for(z.numel(), _BLOCK)
    out = torch.empty((programs, 3), dtype=torch.float64, device=z.device)
    kernel = _REACHED[int(term.strength is not None)]
    kernel.launch(programs, out, z, *_given(z, applied, term), before.contiguous(), *z.shape)
    return DescentSums(*out.sum(dim=0).unbind())


def _given(like: Tensor, applied: Tensor, term: Term) -> list[Tensor]:
    """Arrays and numbers as a kernel takes them; ``like`` for an array that there is not: nothing pulls away from it,
    and a strength is not read."""
    arrays = [like if one is None else one.contiguous() for one in (applied, term.linear, term.previous, term.strength)]
    return [*arrays, torch.cat([like.new_full((1,), value) for value in term.weights.numbers])]
