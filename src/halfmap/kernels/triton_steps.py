"""The steps of Levenberg-Marquardt on a GPU: sums added up, steps accepted and proposed, all in float64.

A thread takes one start, a program 32. It is little work beside an evaluation: some thousand operations for a
start, where an evaluation takes 266 for each coefficient, so that slow double precision does not tell.
"""

from __future__ import annotations

import triton
import triton.language as tl

from halfmap.kernels.triton_kernel import Kernel
from halfmap.kernels.triton_pose_prior import (
    POSES,
    load3,
    prior_at,
    sinc_and_versine,
    store3,
    turned_column,
    within_limits,
)

# What is to be done with a start: nothing more; to evaluate its trial pose; to damp a step more that could not be made.
DONE, TRY, WAIT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _solved(
    h00, h01, h02, h03, h04, h11, h12, h13, h14, h22, h23, h24, h33, h34, h44, g0, g1, g2, g3, g4, damping
):  # fmt: skip
    """The five numbers of (H + damping diag H) step = gradient, by factors L D L^T, and whether D is positive."""
    more = 1.0 + damping
    d0 = h00 * more + 1e-12
    l1, l2, l3, l4 = h01 / d0, h02 / d0, h03 / d0, h04 / d0
    d1 = h11 * more + 1e-12 - l1 * h01
    a2, a3, a4 = h12 - l1 * h02, h13 - l1 * h03, h14 - l1 * h04
    m2, m3, m4 = a2 / d1, a3 / d1, a4 / d1
    d2 = h22 * more + 1e-12 - l2 * h02 - m2 * a2
    b3, b4 = h23 - l2 * h03 - m2 * a3, h24 - l2 * h04 - m2 * a4
    n3, n4 = b3 / d2, b4 / d2
    d3 = h33 * more + 1e-12 - l3 * h03 - m3 * a3 - n3 * b3
    c4 = h34 - l3 * h04 - m3 * a4 - n3 * b4
    o4 = c4 / d3
    d4 = h44 * more + 1e-12 - l4 * h04 - m4 * a4 - n4 * b4 - o4 * c4
    y1 = g1 - l1 * g0
    y2 = g2 - l2 * g0 - m2 * y1
    y3 = g3 - l3 * g0 - m3 * y1 - n3 * y2
    s4 = (g4 - l4 * g0 - m4 * y1 - n4 * y2 - o4 * y3) / d4
    s3 = y3 / d3 - o4 * s4
    s2 = y2 / d2 - n3 * s3 - n4 * s4
    s1 = y1 / d1 - m2 * s2 - m3 * s3 - m4 * s4
    s0 = g0 / d0 - l1 * s1 - l2 * s2 - l3 * s3 - l4 * s4
    return s0, s1, s2, s3, s4, (d0 > 0) & (d1 > 0) & (d2 > 0) & (d3 > 0) & (d4 > 0)


@triton.jit
def _add(total, sums, number, starts, at, mine):
    """total + the sum of this number in a stretch; at: where the first one lies."""
    return total + tl.load(sums + at + number * starts, mask=mine, other=0.0).to(tl.float64)


@triton.jit(do_not_specialize=["first", "starts", "stretches"])
def _accept(
    rotation, shift, gain, precision, gradient, damping, state, tried_rotation, tried_shift, sums, image, centres,
    places, fulcrum, settings, first, starts, stretches, BLOCK: tl.constexpr, PRIOR: tl.constexpr,
):  # fmt: skip
    """Add up the stretches of sums[stretch, 21, j] of starts that were tried, and keep poses that gain.

    first: 1 where every pose is kept as it is the first. PRIOR: whether there is one of poses.
    """
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = j < starts
    trying = tl.load(state + j, mask=mine, other=0) == TRY
    zero = tl.zeros([BLOCK], tl.float64)
    h00, h01, h02, h03, h04, h11, h12, h13, h14 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    h22, h23, h24, h33, h34, h44 = zero, zero, zero, zero, zero, zero
    g0, g1, g2, g3, g4, value = zero, zero, zero, zero, zero, zero
    for part in range(stretches):
        at = part * 21 * starts.to(tl.int64) + j
        h00 = _add(h00, sums, 0, starts, at, trying)
        h01 = _add(h01, sums, 1, starts, at, trying)
        h02 = _add(h02, sums, 2, starts, at, trying)
        h03 = _add(h03, sums, 3, starts, at, trying)
        h04 = _add(h04, sums, 4, starts, at, trying)
        h11 = _add(h11, sums, 5, starts, at, trying)
        h12 = _add(h12, sums, 6, starts, at, trying)
        h13 = _add(h13, sums, 7, starts, at, trying)
        h14 = _add(h14, sums, 8, starts, at, trying)
        h22 = _add(h22, sums, 9, starts, at, trying)
        h23 = _add(h23, sums, 10, starts, at, trying)
        h24 = _add(h24, sums, 11, starts, at, trying)
        h33 = _add(h33, sums, 12, starts, at, trying)
        h34 = _add(h34, sums, 13, starts, at, trying)
        h44 = _add(h44, sums, 14, starts, at, trying)
        g0 = _add(g0, sums, 15, starts, at, trying)
        g1 = _add(g1, sums, 16, starts, at, trying)
        g2 = _add(g2, sums, 17, starts, at, trying)
        g3 = _add(g3, sums, 18, starts, at, trying)
        g4 = _add(g4, sums, 19, starts, at, trying)
        value = _add(value, sums, 20, starts, at, trying)
    r, t = tried_rotation + j * 9, tried_shift + j * 2
    r00, r01, r02 = load3(r, trying)
    r10, r11, r12 = load3(r + 3, trying)
    r20, r21, r22 = load3(r + 6, trying)
    t0, t1 = tl.load(t, mask=trying, other=0.0), tl.load(t + 1, mask=trying, other=0.0)
    pull = tl.load(settings)
    value -= 0.5 * pull * (t0 * t0 + t1 * t1)
    h00, h01, h02, h03, h04 = 2 * h00, 2 * h01, 2 * h02, 2 * h03, 2 * h04
    h11, h12, h13, h14, h22, h23, h24 = 2 * h11, 2 * h12, 2 * h13, 2 * h14, 2 * h22, 2 * h23, 2 * h24
    h33, h34, h44 = 2 * h33 + pull, 2 * h34, 2 * h44 + pull
    g0, g1, g2, g3, g4 = 2 * g0, 2 * g1, 2 * g2, 2 * g3 - pull * t0, 2 * g4 - pull * t1
    if PRIOR:
        b = tl.load(image + j, mask=trying, other=0)
        (
            added, p0, p1, p2, p3, p4, q00, q01, q02, q03, q04, q11, q12, q13, q14, q22, q23, q24, q33, q34, q44,
        ) = prior_at(
            r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, centres + b * 9, places + b * 2, fulcrum, settings,
            trying,
        )  # fmt: skip
        value += added
        g0, g1, g2, g3, g4 = g0 + p0, g1 + p1, g2 + p2, g3 + p3, g4 + p4
        h00, h01, h02, h03, h04 = h00 + q00, h01 + q01, h02 + q02, h03 + q03, h04 + q04
        h11, h12, h13, h14, h22 = h11 + q11, h12 + q12, h13 + q13, h14 + q14, h22 + q22
        h23, h24, h33, h34, h44 = h23 + q23, h24 + q24, h33 + q33, h34 + q34, h44 + q44
    old, d = tl.load(gain + j, mask=trying, other=0.0), tl.load(damping + j, mask=trying, other=0.0)
    begun = j * 0 + first == 1
    better = trying & (begun | (value > old))
    damped = tl.where(better, tl.maximum(0.2 * d, 1e-6), tl.maximum(8.0 * d, 1e-3))
    damped = tl.where(begun, d, damped)
    tl.store(damping + j, damped, mask=trying)
    tl.store(state + j, DONE, mask=trying & (damped > 1e6))
    tl.store(gain + j, value, mask=better)
    r, t = rotation + j * 9, shift + j * 2
    store3(r, r00, r01, r02, better)
    store3(r + 3, r10, r11, r12, better)
    store3(r + 6, r20, r21, r22, better)
    tl.store(t, t0, mask=better)
    tl.store(t + 1, t1, mask=better)
    g, h = gradient + j * 5, precision + j * 25
    store3(g, g0, g1, g2, better)
    tl.store(g + 3, g3, mask=better)
    tl.store(g + 4, g4, mask=better)
    store3(h, h00, h01, h02, better)
    store3(h + 3, h03, h04, h01, better)
    store3(h + 6, h11, h12, h13, better)
    store3(h + 9, h14, h02, h12, better)
    store3(h + 12, h22, h23, h24, better)
    store3(h + 15, h03, h13, h23, better)
    store3(h + 18, h33, h34, h04, better)
    store3(h + 21, h14, h24, h34, better)
    tl.store(h + 24, h44, mask=better)


@triton.jit(do_not_specialize=["starts"])
def _propose(
    rotation, shift, gain, precision, gradient, damping, state, tried_rotation, tried_shift, image, centres, places,
    fulcrum, settings, starts, BLOCK: tl.constexpr, PRIOR: tl.constexpr,
):  # fmt: skip
    """The next trial pose of starts that are not done. One that promises too little is kept without a look at it."""
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = tl.load(state + j, mask=j < starts, other=0) != DONE
    g, h = gradient + j * 5, precision + j * 25
    g0, g1, g2 = load3(g, live)
    g3, g4 = tl.load(g + 3, mask=live, other=0.0), tl.load(g + 4, mask=live, other=0.0)
    h00, h01, h02 = load3(h, live)
    h03, h04 = tl.load(h + 3, mask=live, other=0.0), tl.load(h + 4, mask=live, other=0.0)
    h11, h12, h13 = load3(h + 6, live)
    h14 = tl.load(h + 9, mask=live, other=0.0)
    h22, h23, h24 = load3(h + 12, live)
    h33, h34 = tl.load(h + 18, mask=live, other=0.0), tl.load(h + 19, mask=live, other=0.0)
    h44 = tl.load(h + 24, mask=live, other=0.0)
    d = tl.load(damping + j, mask=live, other=0.0)
    s0, s1, s2, s3, s4, definite = _solved(
        h00, h01, h02, h03, h04, h11, h12, h13, h14, h22, h23, h24, h33, h34, h44, g0, g1, g2, g3, g4, d
    )
    largest = tl.load(settings + 2)
    angle = tl.sqrt(s0 * s0 + s1 * s1 + s2 * s2)
    share = tl.where(angle > largest, largest / tl.maximum(angle, 1e-30), 1.0)
    s0, s1, s2, s3, s4 = s0 * share, s1 * share, s2 * share, s3 * share, s4 * share
    promised = 0.5 * (s0 * g0 + s1 * g1 + s2 * g2 + s3 * g3 + s4 * g4)
    square = s0 * s0 + s1 * s1 + s2 * s2
    s, v = sinc_and_versine(square)
    cosine = 1.0 - square * v
    r, t = rotation + j * 9, shift + j * 2
    r00, r01, r02 = load3(r, live)
    r10, r11, r12 = load3(r + 3, live)
    r20, r21, r22 = load3(r + 6, live)
    r00, r10, r20 = turned_column(s0, s1, s2, cosine, s, v, r00, r10, r20)
    r01, r11, r21 = turned_column(s0, s1, s2, cosine, s, v, r01, r11, r21)
    r02, r12, r22 = turned_column(s0, s1, s2, cosine, s, v, r02, r12, r22)
    t0 = tl.load(t, mask=live, other=0.0) + s3
    t1 = tl.load(t + 1, mask=live, other=0.0) + s4
    if PRIOR:
        b = tl.load(image + j, mask=live, other=0)
        r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1 = within_limits(
            r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, centres + b * 9, places + b * 2, fulcrum, settings,
            live,
        )  # fmt: skip
    able, stuck = live & definite, live & (definite == 0)
    last = able & (promised < tl.load(settings + 1))
    tl.store(damping + j, tl.maximum(10.0 * d, 1e-3), mask=stuck)
    tl.store(state + j, tl.where(definite, tl.where(last, DONE, TRY), WAIT), mask=live)
    tl.store(gain + j, tl.load(gain + j, mask=last, other=0.0) + promised, mask=last)
    store3(r, r00, r01, r02, last)
    store3(r + 3, r10, r11, r12, last)
    store3(r + 6, r20, r21, r22, last)
    tl.store(t, t0, mask=last)
    tl.store(t + 1, t1, mask=last)
    r, t = tried_rotation + j * 9, tried_shift + j * 2
    store3(r, r00, r01, r02, able)
    store3(r + 3, r10, r11, r12, able)
    store3(r + 6, r20, r21, r22, able)
    tl.store(t, t0, mask=able)
    tl.store(t + 1, t1, mask=able)


@triton.jit
def _drop(gain, state, edges, settings, BLOCK: tl.constexpr):
    """Leave the starts of an image that are too far below its best: those from edges[b] to edges[b + 1]."""
    b = tl.program_id(0)
    first, stop = tl.load(edges + b), tl.load(edges + b + 1)
    best = tl.full([BLOCK], float("-inf"), tl.float64)
    for begin in range(first, stop, BLOCK):
        j = begin + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(gain + j, mask=j < stop, other=float("-inf")))
    least = tl.max(best, 0) - tl.load(settings + 3)
    for begin in range(first, stop, BLOCK):
        j = begin + tl.arange(0, BLOCK)
        mine = j < stop
        kept = tl.load(gain + j, mask=mine, other=0.0) >= least
        tl.store(state + j, DONE, mask=mine & (kept == 0))


_STARTS = (*("*fp64",) * 6, "*i32", "*fp64", "*fp64")
_ABOUT = ("*i32", *("*fp64",) * 4)
# By whether there is a prior of poses.
ACCEPT, PROPOSE = (
    {prior: Kernel(function, types, {"BLOCK": POSES, "PRIOR": prior}, warps=1) for prior in (0, 1)}
    for function, types in ((_accept, (*_STARTS, "*fp32", *_ABOUT, "i32", "i32", "i32")),
                            (_propose, (*_STARTS, *_ABOUT, "i32")))
)  # fmt: skip
DROP = Kernel(_drop, ("*fp64", "*i32", "*i32", "*fp64"), {"BLOCK": POSES}, warps=1)
KERNELS = (*ACCEPT.values(), *PROPOSE.values(), DROP)
