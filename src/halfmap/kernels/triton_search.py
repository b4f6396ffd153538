"""The global search on NVIDIA's GPUs: products on tensor cores with the best shift taken in registers, distinct peaks.

Products. Images [b], each at all shifts [t], times references [r] are two matrix products, of real and of imaginary
parts. A program takes 32 images, 4 of their shifts at a time, and 128 references: two tiles of 128 x 128 float32 in
registers. Of the four shifts it keeps the best, for a reference and for its mate turned by half a turn, and goes on to the
next four; scores [b, 2, r] and shifts are all it writes. So no number of shifts is padded to more than the next multiple
of 4, nothing is sorted, no atomic addition is needed, and the products [b, t, r], ten to eighty times as many as scores,
never exist. A step over k reads 8 (128 + 128) bytes for 65,536 operations: of the 495 TFLOP/s in TF32 of an H200's data
sheet, a second level cache of 5.5 TB/s feeds 36 %. Shifted rows are written once and read once for every 4,096
references or so, 16 bytes for 16,384 operations.

TF32 keeps 10 bits of the factors' mantissas and adds in float32. ERRORS
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference_search
from halfmap.kernels.reference_search import Slices
from halfmap.kernels.triton_kernel import Kernel, as_pairs, programs_for
from halfmap.kernels.triton_cells import load_pair

_WIDTH = 16  # coefficients that a tile takes at a time; rows are multiples of so many
SHIFTED_BYTES = 1 << 29  # of shifted rows that are held at once
_POINTS = 256  # coefficients, or references, of a program that does no products


@triton.jit(do_not_specialize=["shifts", "count", "blocks"])
def _best_shift(
    score, shift, cross_re, cross_im, norm, log_prior, shifts, count, blocks, BLOCK: tl.constexpr
):  # fmt: skip
    """score, shift [b, 2, r] of cross_re, cross_im [b, t, r], norm [b, r] and log_prior [t]; count: of the references;
    blocks: of BLOCK references."""
    program = tl.program_id(0)
    b = (program // blocks).to(tl.int64)
    r = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = r < count
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_mate = best
    at = tl.zeros([BLOCK], tl.int32)
    at_mate = at
    for t in range(shifts):
        where = (b * shifts + t) * count + r
        real = tl.load(cross_re + where, mask=inside, other=0.0)
        imaginary = tl.load(cross_im + where, mask=inside, other=0.0)
        prior = tl.load(log_prior + t)
        own, mate = real + imaginary + prior, real - imaginary + prior
        at = tl.where(own > best, t, at)
        best = tl.where(own > best, own, best)
        at_mate = tl.where(mate > best_mate, t, at_mate)
        best_mate = tl.where(mate > best_mate, mate, best_mate)
    power = tl.load(norm + b * count + r, mask=inside, other=0.0)
    first = 2 * b * count + r
    tl.store(score + first, best - power, mask=inside)
    tl.store(score + first + count, best_mate - power, mask=inside)
    tl.store(shift + first, at.to(tl.int16), mask=inside)
    tl.store(shift + first + count, at_mate.to(tl.int16), mask=inside)


@triton.jit
def _to_tf32(x):
    """The nearest float32 with 10 bits of mantissa. Tensor cores cut the others off, which would make all products less."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["count", "steps"])
def _take_rows(out, given, count, steps, STEP: tl.constexpr, BLOCK: tl.constexpr):
    """out[r, k] = given[r, k] in TF32, zero from ``count`` to STEP times ``steps``."""
    blocks = tl.cdiv(steps * STEP, BLOCK)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    k = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    taken = tl.load(given + row * count + k, mask=k < count, other=0.0)
    tl.store(out + row * steps * STEP + k, _to_tf32(taken), mask=k < steps * STEP)


@triton.jit(do_not_specialize=["shifts", "count", "steps"])
def _shift_rows(
    real, imaginary, y, c, phases, shifts, count, steps, STEP: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """real, imaginary [b, t, k] = 2 c[b, k] y[b, k] phases[t, k] in TF32, zero from ``count`` to STEP times ``steps``;
    y, phases: pairs."""
    blocks = tl.cdiv(steps * STEP, BLOCK)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    k = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = k < count
    b, t = row // shifts, row % shifts
    yr, yi = load_pair(y, b * count + k, inside)
    pr, pi = load_pair(phases, t * count + k, inside)
    twice = 2.0 * tl.load(c + b * count + k, mask=inside, other=0.0)
    held = k < steps * STEP
    tl.store(real + row * steps * STEP + k, _to_tf32(twice * (yr * pr - yi * pi)), mask=held)
    tl.store(imaginary + row * steps * STEP + k, _to_tf32(twice * (yr * pi + yi * pr)), mask=held)


@triton.jit
def _better(best, best_mate, at, product, product_im, prior, t):
    """Scores at the shift t in place of worse ones; at: both shifts, that of the mate 16 bits up."""
    own = product + product_im + prior
    at = tl.where(own > best, (at & -65536) | t, at)
    best = tl.maximum(best, own)
    own = product - product_im + prior
    at = tl.where(own > best_mate, (at & 65535) | (t << 16), at)
    return best, tl.maximum(best_mate, own), at


@triton.jit(do_not_specialize=["images", "shifts", "references", "steps", "blocks"])
def _score(
    score, shift, real, imaginary, slice_real, slice_imaginary, norm, log_prior, images, shifts, references, steps, blocks,
    TF32: tl.constexpr, IMAGES: tl.constexpr, REFERENCES: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """score, shift [b, 2, r]: the best over shifts of real [b, t, k] . slice_real [r, k] and of imaginary parts alike,
    their sum and their difference, plus log_prior [t], less norm [b, r]; k: STEP times ``steps``. blocks: of REFERENCES
    references."""
    HOW: tl.constexpr = "tf32" if TF32 else "ieee"
    program = tl.program_id(0)
    tile_b, tile_r = program // blocks, program % blocks
    b, r, k = tl.arange(0, IMAGES), tl.arange(0, REFERENCES), tl.arange(0, STEP)
    there = (tile_r * REFERENCES + r < references)[None, :] & (k >= 0)[:, None]
    inside = (tile_b * IMAGES + b < images)[:, None] & (k >= 0)[None, :]
    # Places within a tile are numbers of 32 bits, which leaves registers to the products.
    width = steps * STEP
    slice_real += tile_r.to(tl.int64) * REFERENCES * width
    slice_imaginary += tile_r.to(tl.int64) * REFERENCES * width
    real += tile_b.to(tl.int64) * IMAGES * shifts * width
    imaginary += tile_b.to(tl.int64) * IMAGES * shifts * width
    column = r[None, :] * width + k[:, None]
    row = b[:, None] * (shifts * width) + k[None, :]
    best = tl.full([IMAGES, REFERENCES], float("-inf"), tl.float32)
    best_mate = tl.full([IMAGES, REFERENCES], float("-inf"), tl.float32)
    at = tl.zeros([IMAGES, REFERENCES], tl.int32)
    for first in range(0, shifts, 2):
        second = tl.minimum(first + 1, shifts - 1)
        product = tl.zeros([IMAGES, REFERENCES], tl.float32)
        product_im = tl.zeros([IMAGES, REFERENCES], tl.float32)
        other = tl.zeros([IMAGES, REFERENCES], tl.float32)
        other_im = tl.zeros([IMAGES, REFERENCES], tl.float32)
        for step in range(steps):
            start = step * STEP
            one, two = start + first * width, start + second * width
            part = tl.load(slice_real + start + column, mask=there, other=0.0)
            product = tl.dot(tl.load(real + one + row, mask=inside, other=0.0), part, product, input_precision=HOW)
            other = tl.dot(tl.load(real + two + row, mask=inside, other=0.0), part, other, input_precision=HOW)
            part = tl.load(slice_imaginary + start + column, mask=there, other=0.0)
            product_im = tl.dot(tl.load(imaginary + one + row, mask=inside, other=0.0), part, product_im,
                                input_precision=HOW)
            other_im = tl.dot(tl.load(imaginary + two + row, mask=inside, other=0.0), part, other_im,
                              input_precision=HOW)
        prior = tl.load(log_prior + first)
        best, best_mate, at = _better(best, best_mate, at, product, product_im, prior, first)
        prior = tl.load(log_prior + second)
        best, best_mate, at = _better(best, best_mate, at, other, other_im, prior, second)
    kept = (tile_b * IMAGES + b < images)[:, None] & (tile_r * REFERENCES + r < references)[None, :]
    place = b[:, None] * references + r[None, :]
    corner = tile_b.to(tl.int64) * IMAGES * references + tile_r * REFERENCES
    power = tl.load(norm + corner + place, mask=kept, other=0.0)
    corner += tile_b.to(tl.int64) * IMAGES * references
    place += b[:, None] * references
    tl.store(score + corner + place, best - power, mask=kept)
    tl.store(score + corner + references + place, best_mate - power, mask=kept)
    tl.store(shift + corner + place, (at & 65535).to(tl.int16), mask=kept)
    tl.store(shift + corner + references + place, (at >> 16).to(tl.int16), mask=kept)


@triton.jit(do_not_specialize=["count", "groups", "most"])
def _distinct_peaks(
    chosen, score, order, rotations, operators, least, near, count, groups, most, BLOCK: tl.constexpr
):  # fmt: skip
    """chosen [b, most] of the candidates score[b, n] and order[b, n] with scores of least[b] or more; two are one where
    the trace of what turns one into the other is above near[1]. BLOCK: at least n, a power of two."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    mine = n < count
    value = tl.load(score + b * count + n, mask=mine, other=float("-inf"))
    held = rotations + tl.load(order + b * count + n, mask=mine, other=0) * 9
    r00, r01, r02 = tl.load(held), tl.load(held + 1), tl.load(held + 2)
    r10, r11, r12 = tl.load(held + 3), tl.load(held + 4), tl.load(held + 5)
    r20, r21, r22 = tl.load(held + 6), tl.load(held + 7), tl.load(held + 8)
    # 0: given up, 1: left
    left = tl.where(mine & (value >= tl.load(least + b)), 1, 0)
    for c in range(most):
        first = tl.min(tl.where(left > 0, n, BLOCK), 0)
        some = first < BLOCK
        tl.store(chosen + b * most + c, tl.where(some, first, -1).to(tl.int64))
        a = rotations + tl.load(order + b * count + tl.where(some, first, 0)) * 9
        a00, a01, a02 = tl.load(a), tl.load(a + 1), tl.load(a + 2)
        a10, a11, a12 = tl.load(a + 3), tl.load(a + 4), tl.load(a + 5)
        a20, a21, a22 = tl.load(a + 6), tl.load(a + 7), tl.load(a + 8)
        left = tl.where(n == first, 0, left)
        for group in range(groups):
            g = operators + group * 9
            g00, g01, g02 = tl.load(g), tl.load(g + 1), tl.load(g + 2)
            g10, g11, g12 = tl.load(g + 3), tl.load(g + 4), tl.load(g + 5)
            g20, g21, g22 = tl.load(g + 6), tl.load(g + 7), tl.load(g + 8)
            trace = r00 * (a00 * g00 + a01 * g10 + a02 * g20) + r01 * (a00 * g01 + a01 * g11 + a02 * g21)
            trace += r02 * (a00 * g02 + a01 * g12 + a02 * g22) + r10 * (a10 * g00 + a11 * g10 + a12 * g20)
            trace += r11 * (a10 * g01 + a11 * g11 + a12 * g21) + r12 * (a10 * g02 + a11 * g12 + a12 * g22)
            trace += r20 * (a20 * g00 + a21 * g10 + a22 * g20) + r21 * (a20 * g01 + a21 * g11 + a22 * g21)
            trace += r22 * (a20 * g02 + a21 * g12 + a22 * g22)
            left = tl.where(trace > tl.load(near), 0, left)


@dataclass(frozen=True)
class _Staged(Kernel):
    """A kernel whose loads run ahead of its products.

    stages: tiles that are under way at a time, all of them in shared memory.
    """

    stages: int = 3

    def launch(self, programs: int, *arguments: Tensor | int) -> None:
        """As Kernel.launch."""
        if programs > 0:
            self.function[(programs,)](*arguments, **self.constants, num_warps=self.warps, num_stages=self.stages)


def _score_kernel(stages: int) -> _Staged:
    types = ("*fp32", "*i16", *("*fp32",) * 6, *("i32",) * 5)
    tile = {"TF32": 1, "IMAGES": _IMAGES, "REFERENCES": _REFERENCES, "STEP": _WIDTH}
    return _Staged(_score, types, tile, warps=8, stages=stages)


_IMAGES, _REFERENCES = 64, 128
_LARGE, _SMALL = _score_kernel(6), _score_kernel(3)  # 192 and 96 KB of shared memory
_BEST_SHIFT = Kernel(_best_shift, ("*fp32", "*i16", *("*fp32",) * 4, *("i32",) * 3), {"BLOCK": _POINTS})
_TAKE_ROWS = Kernel(_take_rows, ("*fp32", "*fp32", "i32", "i32"), {"STEP": _WIDTH, "BLOCK": _POINTS})
_SHIFT_ROWS = Kernel(_shift_rows, ("*fp32", "*fp32", "*i64", "*fp32", "*i64", *("i32",) * 3),
                     {"STEP": _WIDTH, "BLOCK": _POINTS})


@cache
def _peaks(block: int) -> Kernel:
    types = ("*i64", "*fp32", "*i64", *("*fp32",) * 4, *("i32",) * 3)
    return Kernel(_distinct_peaks, types, {"BLOCK": block})


KERNELS = (_LARGE, _SMALL, _BEST_SHIFT, _TAKE_ROWS, _SHIFT_ROWS, _peaks(256))


def best_shift(cross_re: Tensor, cross_im: Tensor, norm: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """As reference_search.best_shift, in float32."""
    score = torch.empty((norm.shape[0], 2, norm.shape[1]), device=norm.device)
    shift = torch.empty(score.shape, dtype=torch.int16, device=norm.device)
    blocks = programs_for(norm.shape[1], _POINTS)
    given = [t.float().contiguous() for t in (cross_re, cross_im, norm, log_prior)]
    _BEST_SHIFT.launch(len(norm) * blocks, score, shift, *given, cross_re.shape[1], norm.shape[1], blocks)
    return score, shift


def score_block(y: Tensor, c: Tensor, slices: Slices, phases: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """As reference_search.score_block, which takes double precision."""
    if y.dtype != torch.complex64:
        return reference_search.score_block(y, c, slices, phases, log_prior)
    images, shifts, references, count = len(y), len(phases), len(slices.real), y.shape[1]
    score = torch.empty((images, 2, references), device=y.device)
    shift = torch.empty(score.shape, dtype=torch.int16, device=y.device)
    width = programs_for(count, _WIDTH) * _WIDTH
    parts = torch.empty((2, references, width), device=y.device)
    for out, given in zip(parts, (slices.real, slices.imag), strict=True):
        _TAKE_ROWS.launch(references * programs_for(width, _POINTS), out, given.float().contiguous(), count, width // _WIDTH)
    waves, prior, blocks = as_pairs(phases), log_prior.float().contiguous(), programs_for(references, _REFERENCES)
    kernel = _kernel_for(y.device)
    # Products of powers are one in shifts of the others: they are done in float32.
    norm = c.float().square() @ slices.power.float().T
    at_once = max(_IMAGES, SHIFTED_BYTES // max(1, 8 * shifts * width))
    for b in range(0, images, at_once):
        some = slice(b, min(images, b + at_once))
        size = some.stop - b
        rows = torch.empty((2, size * shifts, width), device=y.device)
        _SHIFT_ROWS.launch(size * shifts * programs_for(width, _POINTS), *rows, as_pairs(y[some].contiguous()),
                           c[some].float().contiguous(), waves, shifts, count, width // _WIDTH)
        kernel.launch(programs_for(size, _IMAGES) * blocks, score[some], shift[some], *rows, *parts, norm[some], prior,
                      size, shifts, references, width // _WIDTH, blocks)
    return score, shift


def _kernel_for(device: torch.device) -> _Staged:
    """The variant whose tiles fit into the shared memory of this device."""
    if device.type != "cuda":
        return _LARGE
    room = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return _LARGE if room >= 200_000 else _SMALL


def distinct_peaks(
    score: Tensor, order: Tensor, rotations: Tensor, operators: Tensor, angle: float, most: int, drop: float
) -> Tensor:
    """As reference_search.distinct_peaks."""
    images, count = score.shape
    chosen = torch.full((images, most), -1, dtype=torch.int64, device=score.device)
    if not count:
        return chosen
    near = torch.full((1,), 1 + 2 * math.cos(angle), device=score.device)
    given = [t.float().contiguous() for t in (rotations, operators, score[:, 0] - drop)]
    _peaks(triton.next_power_of_2(count)).launch(
        images, chosen, score.float().contiguous(), order.contiguous(), *given, near, count, len(operators), most)
    return chosen
