"""Reductions of the global search on NVIDIA's GPUs: the best shift, the best points of a grid, distinct peaks.

Best points. A program takes one image. As keys, whole numbers of 64 bits, scores and after them the numbers of their
points stand in one order. Half of the stretch between the worst key kept and the best there is goes at every step, by
counting keys above its middle, until as many are above as are kept: some 25 steps that read the scores of a block
(32 KB of 4,096 rotations) from cache. What is above is written, in no order; they are put in order once, at the end.
In plain torch all is joined, keyed and selected anew for every block, in some twenty passes over 8 bytes a score.

Distinct peaks. A program takes one image, and a candidate is a lane. The first that is left is chosen, and what is
near it, modulo the point group, is given up, ``most`` times: nothing is compared one after the other but those.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from halfmap.kernels import reference_search
from halfmap.kernels.triton_kernel import Kernel, programs_for

_POINTS = 256  # references of a program that takes the best shift
_LAST = tl.constexpr(reference_search.LAST)
_BLOCK = 1024  # scores that a program looks at together


@triton.jit(do_not_specialize=["shifts", "count", "blocks"])
def _best_shift(score, shift, cross_re, cross_im, norm, log_prior, shifts, count, blocks, BLOCK: tl.constexpr):
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
def _key(score, number):
    """A whole number of 64 bits in the order of the scores, and of equal ones the higher the lower their number."""
    bits = score.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # the larger a negative number's bits, the less it is
    return (ordered.to(tl.int64) << 32) + (_LAST - number)


@triton.jit(do_not_specialize=["count", "most"])
def _keep_best(
    kept_score, kept_shift, kept_index, score, shift, index, count, most, KEPT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Of the points kept_score [b, n] and score [b, r] of numbers kept_index [b, n] and index [r], the n = ``most``
    best take the places of those kept, with their shifts. KEPT: at least n, a power of two."""
    b = tl.program_id(0).to(tl.int64)
    n, r = tl.arange(0, KEPT), tl.arange(0, BLOCK)
    old = n < most
    held, held_number = b * most + n, tl.load(kept_index + b * most + n, mask=old, other=0)
    held_score = tl.load(kept_score + held, mask=old, other=float("-inf"))
    held_shift = tl.load(kept_shift + held, mask=old, other=0)
    held_key = _key(held_score, held_number)
    low = tl.min(tl.where(old, held_key, 9223372036854775807), 0)
    best = tl.full([BLOCK], -9223372036854775807, tl.int64)
    for start in range(0, count, BLOCK):
        inside = start + r < count
        key = _key(tl.load(score + b * count + start + r, mask=inside, other=float("-inf")),
                   tl.load(index + start + r, mask=inside, other=_LAST))
        best = tl.maximum(best, tl.where(inside, key, best))
    high = tl.max(best, 0)
    if high > low:
        # At least ``most`` keys are ``low`` or above. What is above ``high`` is kept already, and stays.
        high = tl.maximum(high, tl.max(tl.where(old, held_key, low), 0))
        while low < high:
            middle = (low | high) - ((low ^ high) >> 1)  # of both, rounded up, without their sum
            above = tl.zeros([BLOCK], tl.int32)
            for start in range(0, count, BLOCK):
                inside = start + r < count
                key = _key(tl.load(score + b * count + start + r, mask=inside, other=float("-inf")),
                           tl.load(index + start + r, mask=inside, other=_LAST))
                above += tl.where(inside & (key >= middle), 1, 0)
            total = tl.sum(above, 0) + tl.sum(tl.where(old & (held_key >= middle), 1, 0), 0)
            low = tl.where(total >= most, middle, low)
            high = tl.where(total == most, middle, tl.where(total < most, middle - 1, high))
        tl.debug_barrier()  # all that is kept has been read before anything is written there
        written = 0
        for start in range(0, count, BLOCK):
            inside = start + r < count
            value = tl.load(score + b * count + start + r, mask=inside, other=float("-inf"))
            number = tl.load(index + start + r, mask=inside, other=_LAST)
            taken = tl.where(inside & (_key(value, number) >= low), 1, 0)
            place = b * most + written + tl.cumsum(taken, 0) - 1
            wanted = taken > 0
            chosen = tl.load(shift + b * count + start + r, mask=wanted, other=0)
            tl.store(kept_score + place, value, mask=wanted)
            tl.store(kept_shift + place, chosen, mask=wanted)
            tl.store(kept_index + place, number, mask=wanted)
            written += tl.sum(taken, 0)
        # Where fewer points came than are kept, some of those kept are none: they are equal, and fill what is left.
        stays = tl.where(old & (held_key >= low), 1, 0)
        place = written + tl.cumsum(stays, 0) - 1
        wanted = (stays > 0) & (place < most)
        place += b * most
        tl.store(kept_score + place, held_score, mask=wanted)
        tl.store(kept_shift + place, held_shift, mask=wanted)
        tl.store(kept_index + place, held_number, mask=wanted)


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


_BEST_SHIFT = Kernel(_best_shift, ("*fp32", "*i16", *("*fp32",) * 4, *("i32",) * 3), {"BLOCK": _POINTS})


@cache
def _peaks(block: int) -> Kernel:
    types = ("*i64", "*fp32", "*i64", *("*fp32",) * 4, *("i32",) * 3)
    return Kernel(_distinct_peaks, types, {"BLOCK": block})


@cache
def _keeper(kept: int) -> Kernel:
    types = ("*fp32", "*i16", "*i64", "*fp32", "*i16", "*i64", "i32", "i32")
    return Kernel(_keep_best, types, {"KEPT": kept, "BLOCK": _BLOCK})


KERNELS = (_BEST_SHIFT, _keeper(256), _peaks(256))


def best_shift(cross_re: Tensor, cross_im: Tensor, norm: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """As reference_search.best_shift, in float32."""
    score = torch.empty((norm.shape[0], 2, norm.shape[1]), device=norm.device)
    shift = torch.empty(score.shape, dtype=torch.int16, device=norm.device)
    blocks = programs_for(norm.shape[1], _POINTS)
    given = [t.float().contiguous() for t in (cross_re, cross_im, norm, log_prior)]
    _BEST_SHIFT.launch(len(norm) * blocks, score, shift, *given, cross_re.shape[1], norm.shape[1], blocks)
    return score, shift


def keep_best_(kept_score: Tensor, kept_shift: Tensor, kept_index: Tensor, score: Tensor, shift: Tensor,
               index: Tensor) -> None:
    """As reference_search.keep_best_, but in no order."""
    most = kept_score.shape[1]
    if most:
        _keeper(triton.next_power_of_2(most)).launch(
            len(score), kept_score, kept_shift, kept_index, score.contiguous(), shift.contiguous(), index.contiguous(),
            len(index), most)


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
