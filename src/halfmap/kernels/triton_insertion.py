"""Insertion of slices on NVIDIA's GPUs: scatter by atomic additions, or by whole numbers where sums must repeat.

A program takes 32 coefficients of one sample: it reads value and weight of the image, turns the value by the phase of
the sample's shift, and adds to the grid points around. Nothing is written for a sample. Phases are whole numbers of
2^-32 turns, so that they are exact modulo one turn however large kx and the shift are. A coefficient costs 28 bytes
read, most of them from cache, some 120 operations and 24 additions (Gaussian: 81). Programs of a sample follow one
another: near the origin, where all slices meet, few samples add at a time. One warp is a program, because what a lane
knows of a coefficient is told to the lanes that add it, for which larger programs would have to wait.

The sums [z, y, x, 3] are as on the CPU. Counted in the sectors of 32 bytes that the second level cache adds to: lanes
take the six numbers of a pair of neighbours along x one after the other, and 24 bytes that begin anywhere touch 1.6
sectors; were there a fourth number to each point, a pair would touch 1.5. A third more memory would save a twelfth of
that traffic. It would also save lanes: sums that have it, a view [z, y, x, :3] of [z, y, x, 4], are added to four at
once where the device can (red.global.add.v4.f32, sm_90: 8 instructions a warp in place of 32). Both are compiled
here.

Floats added in any order differ in their last bits. Under torch.use_deterministic_algorithms addends become whole
numbers of 64 bits, whose sum does not depend on the order. Their unit is the power of two that lets the largest
addend just fit as often as samples could add it to one point: 2^-45 of that addend for thousands of samples. So the
sum of a batch is exact but for what is cut off below that, and is rounded once. It takes 24 bytes a point, for
SLAB_BYTES of planes at a time (box 256, padded twice: one slab), and coefficients are gone through again for every
slab. The other way, programs that own bricks of voxels and go through all samples in order, was counted, too: bricks
of 512 voxels, 3,000 samples and box 512 make some 10^13 operations a batch, and lists of who meets whom, in place of
10^10 additions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference
from halfmap.kernels.poses import Samples
from halfmap.kernels.triton_cells import load_pair, on_slice, place, unit_circle
from halfmap.kernels.triton_kernel import Kernel, as_pairs, programs_for

_BLOCK = 32  # coefficients of a program
_PER_BLOCK = 1024  # numbers of a program that adds sums up
SLAB_BYTES = 1 << 31  # of whole numbers that are held at once
CROWD = 32  # more than what the coefficients of one slice add up to at a point, in largest addends


@triton.jit
def _nearest(x, y, z, m):
    """As triton_cells.place, of the 27 grid points about the nearest one: the offset of the first of them, how far
    beyond it the position lies, the sign of the mate taken, and whether the first has x = -1."""
    sign = tl.where(x < 0, -1.0, 1.0)
    x, y, z = x * sign, y * sign + m, z * sign + m
    below_x = tl.minimum(tl.maximum(tl.floor(x + 0.5), 0.0), m - 1) - 1.0
    below_y = tl.minimum(tl.maximum(tl.floor(y + 0.5), 1.0), 2 * m - 1) - 1.0
    below_z = tl.minimum(tl.maximum(tl.floor(z + 0.5), 1.0), 2 * m - 1) - 1.0
    line = below_z.to(tl.int32) * (2 * m + 1) + below_y.to(tl.int32)
    cell = line.to(tl.int64) * (m + 1) + below_x.to(tl.int32)
    return cell, x - below_x, y - below_y, z - below_z, sign, below_x < 0


@triton.jit(do_not_specialize=["count", "blocks", "m", "first", "planes"])
def _insert(
    sums, values, weights, coords, kxy, image, axes, turns, curvature, mass, units, count, blocks, m, first, planes,
    TAPS: tl.constexpr, VOXEL: tl.constexpr, COLUMNS: tl.constexpr, CURVED: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add samples j to sums: float32 [z, y, x, VOXEL], or WHOLE: the planes from ``first`` on, int64 [z, y, x, 3].

    values [b, k], coords [k] and kxy [k] are pairs; weights [b, k]; of samples: image int64 [j], axes [j, 2, 3]
    ([j, 3, 3] where CURVED), turns int32 [j, 2], curvature [j], mass [j]. units [2]: what 1 is in whole numbers, for
    values and weights. count: of the coefficients; blocks: of BLOCK coefficients. TAPS: points along an axis, 2
    (trilinear) or 3 (Gaussian); COLUMNS: at least TAPS times VOXEL, a power of two.
    """
    program = tl.program_id(0)
    j = program // blocks
    i = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    share = tl.load(mass + j)
    if share == 0.0:  # samples of another quarter set
        return
    row = tl.load(image + j) * count
    u, v = load_pair(coords, i, inside)
    kx, ky = load_pair(kxy, i, inside)
    real, imaginary = load_pair(values, row + i, inside)
    weight = tl.load(weights + row + i, mask=inside, other=0.0)

    x, y, z = on_slice(u, v, axes, curvature, j, CURVED)
    if TAPS == 2:
        cell, x, y, z, sign = place(x, y, z, m)
    else:
        cell, x, y, z, sign, edge = _nearest(x, y, z, m)

    # Whole numbers of 32 bits overflow to the same angle.
    angle = kx.to(tl.int32) * tl.load(turns + 2 * j) + ky.to(tl.int32) * tl.load(turns + 2 * j + 1)
    cosine, sine = unit_circle(angle.to(tl.float32) * 2.3283064365386963e-10)
    moved_real = share * (real * cosine - imaginary * sine)
    moved_imaginary = share * sign * (real * sine + imaginary * cosine)
    weight *= share

    number = tl.arange(0, COLUMNS)[None, :]
    step, part = number // VOXEL, number % VOXEL
    x, y, z, cell, weight = x[:, None], y[:, None], z[:, None], cell[:, None], weight[:, None]
    amount = tl.where(part == 1, moved_imaginary[:, None], tl.where(part == 2, weight, 0.0))
    amount = tl.where(part == 0, moved_real[:, None], amount)
    if TAPS == 2:
        amount *= tl.where(step == 0, 1.0 - x, x)
    else:
        beyond = step.to(tl.float32) - x
        amount *= tl.exp(-0.5 * beyond * beyond)
    if WHOLE:
        amount *= tl.where(part < 2, tl.load(units), tl.load(units + 1))
    wanted = inside[:, None] & (step < TAPS)
    plane = (2 * m + 1).to(tl.int64) * (m + 1)
    cell -= plane * first
    held = plane * planes * VOXEL
    if TAPS == 3:  # points of the other half volume are stored as their Friedel mates
        mate = edge[:, None] & (step == 0)
        amount = tl.where(mate & (part == 1), -amount, amount)
        mirror = 2 * (plane * m + (m + 1) * m - plane * first)
    for dz in tl.static_range(TAPS):
        for dy in tl.static_range(TAPS):
            if TAPS == 2:
                portion = (z if dz == 1 else 1.0 - z) * (y if dy == 1 else 1.0 - y)
            else:
                portion = tl.exp(-0.5 * ((dz - z) * (dz - z) + (dy - y) * (dy - y)))
            point = cell + (dz * (2 * m + 1) + dy) * (m + 1)
            at = point * VOXEL + number
            if TAPS == 3:
                at = tl.where(mate, (mirror - point - step) * VOXEL + part, at)
            added = amount * portion
            if WHOLE:
                tl.atomic_add(sums + at, added.to(tl.int64), mask=wanted & (at >= 0) & (at < held), sem="relaxed")
            else:
                tl.atomic_add(sums + at, added, mask=wanted, sem="relaxed")


@triton.jit(do_not_specialize=["count"])
def _add_whole(sums, whole, units, count, VOXEL: tl.constexpr, BLOCK: tl.constexpr):
    """sums [point, VOXEL] += units [2] times whole int64 [point, 3], for ``count`` whole numbers."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    part = i % 3
    at = sums + (i // 3) * VOXEL + part
    unit = tl.where(part < 2, tl.load(units), tl.load(units + 1))
    added = tl.load(whole + i, mask=inside, other=0).to(tl.float32) * unit
    tl.store(at, tl.load(at, mask=inside, other=0.0) + added, mask=inside)


@dataclass(frozen=True)
class _Variant:
    """What the kernel is compiled for: points along an axis, numbers a point, and whether slices are curved and sums
    whole numbers."""

    taps: int
    voxel: int
    curved: bool
    whole: bool

    def kernel(self) -> Kernel:
        """The kernel of this variant."""
        types = ("*i64" if self.whole else "*fp32", *_TYPES)
        return Kernel(_insert, types, warps=1, constants={
            "TAPS": self.taps, "VOXEL": self.voxel, "COLUMNS": {6: 8, 8: 8, 9: 16, 12: 16}[self.taps * self.voxel],
            "CURVED": int(self.curved), "WHOLE": int(self.whole), "BLOCK": _BLOCK})


_TYPES = ("*i64", "*fp32", "*i64", "*i64", "*i64", "*fp32", "*i32", "*fp32", "*fp32", "*fp32", *("i32",) * 5)
_INSERT = {
    variant: variant.kernel() for taps, voxel, curved, whole in product((2, 3), (3, 4), (False, True), (False, True))
    if not (whole and voxel == 4) for variant in [_Variant(taps, voxel, curved, whole)]
}  # fmt: skip
_ADD = {voxel: Kernel(_add_whole, ("*fp32", "*i64", "*fp32", "i32"), {"VOXEL": voxel, "BLOCK": _PER_BLOCK})
        for voxel in (3, 4)}
KERNELS = (*_INSERT.values(), *_ADD.values())


def insert_samples_(
    accumulator: Tensor, values: Tensor, weights: Tensor, coords: Tensor, kxy: Tensor, box: int, samples: Samples,
    kernel: str, curvature: Tensor | None,
) -> None:  # fmt: skip
    """As reference.insert_samples_, which takes double precision.

    Where torch.use_deterministic_algorithms asks for it, the same bits come out every time.
    """
    depth, height, width, _ = accumulator.shape
    voxel = accumulator.stride(2)
    packed = accumulator.stride() == (height * width * voxel, width * voxel, voxel, 1)
    if accumulator.dtype != torch.float32 or voxel not in (3, 4) or not packed:
        reference.insert_samples_(accumulator, values, weights, coords, kxy, box, samples, kernel, curvature)
        return
    count, curved = len(coords), curvature is not None
    if not len(samples) or not count:
        return
    taps, mass = (2, samples.mass) if kernel == "trilinear" else (3, samples.mass / reference.gaussian_total() ** 3)
    axes, mass = samples.rotations[:, : 3 if curved else 2].float().contiguous(), mass.float().contiguous()
    bent = axes if curvature is None else curvature[samples.image].float().contiguous()
    values, weights = values.to(torch.complex64).contiguous(), weights.float().contiguous()
    given = (
        as_pairs(values), weights, as_pairs(coords.float()), as_pairs(kxy.float()), samples.image.contiguous(), axes,
        _turns(samples.shifts, box), bent, mass,
    )  # fmt: skip
    blocks = programs_for(count, _BLOCK)
    programs = len(samples) * blocks
    if not torch.are_deterministic_algorithms_enabled():
        one = _INSERT[_Variant(taps, voxel, curved, False)]
        one.launch(programs, accumulator, *given, axes, count, blocks, width - 1, 0, depth)
        return
    one, units = _INSERT[_Variant(taps, 3, curved, True)], _units(values, weights, mass)
    at_once = min(depth, max(1, SLAB_BYTES // (24 * height * width)))
    whole = torch.empty((at_once, height, width, 3), dtype=torch.int64, device=accumulator.device)
    for first in range(0, depth, at_once):
        slab = accumulator[first : first + at_once]
        part = whole[: len(slab)].zero_()
        one.launch(programs, part, *given, units, count, blocks, width - 1, first, len(slab))
        _ADD[voxel].launch(programs_for(part.numel(), _PER_BLOCK), slab, part, 1 / units, part.numel())


def _turns(shifts: Tensor, box: int) -> Tensor:
    """How far shifts [j, 2] (pixels) turn the coefficient 1, modulo one turn, in 2^-32 turns: int32 [j, 2]."""
    turns = shifts.double() / box
    return ((turns - turns.round()) * 2.0**32).round().long().to(torch.int32)


def _units(values: Tensor, weights: Tensor, mass: Tensor) -> Tensor:
    """What 1 is in whole numbers [2], for values and weights: powers of two; none where an addend is no number."""
    largest = torch.stack([torch.view_as_real(values).abs().amax(), weights.abs().amax()]).float() * mass.abs().amax()
    room = 62 - math.ceil(math.log2(len(mass) * CROWD))
    bits = (room - torch.frexp(largest).exponent).clamp(-120, 120)
    units = ((bits + 127) << 23).to(torch.int32).view(torch.float32)  # 2^bits: a device's power need not be exact
    return torch.where(largest.isfinite(), units, torch.nan)
