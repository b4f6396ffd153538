"""Rotations, and the normal prior of poses (poses.PosePrior), in float64 on a GPU: a thread has one pose.

Rotations and their logarithms are power series and square roots: the trigonometric functions of doubles need a stack.
settings, wherever it is given: the shift prior's precision, the tolerance, the largest step, the drop (0..3), and of
the pose prior the precisions of turn and shift (4, 5) and their limits (6, 7).
"""

from __future__ import annotations

import triton
import triton.language as tl

from halfmap.kernels.triton_kernel import Kernel

POSES = 32  # of a program: one a thread


@triton.jit
def load3(pointer, mine):
    """Three numbers that follow one another; 0 where they are not one's own."""
    a = tl.load(pointer, mask=mine, other=0.0)
    b = tl.load(pointer + 1, mask=mine, other=0.0)
    return a, b, tl.load(pointer + 2, mask=mine, other=0.0)


@triton.jit
def store3(pointer, a, b, c, mine):
    tl.store(pointer, a, mask=mine)
    tl.store(pointer + 1, b, mask=mine)
    tl.store(pointer + 2, c, mask=mine)


@triton.jit
def _angle_of(sine, cosine):
    """The angle in [0, pi] of a sine >= 0 and a cosine, both times any positive number.

    It is halved twice from at most a quarter turn, to where a series of twelve terms is exact to the last bit.
    """
    length = tl.sqrt(sine * sine + cosine * cosine)
    t = sine / tl.maximum(length + tl.abs(cosine), 1e-300)
    t = t / (1.0 + tl.sqrt(1.0 + t * t))
    t = t / (1.0 + tl.sqrt(1.0 + t * t))
    x = t * t
    series = 1.0 / 25 - x * (1.0 / 27)
    for i in tl.static_range(11, -1, -1):
        series = 1.0 / (2 * i + 1) - x * series
    angle = 8.0 * t * series
    return tl.where(cosine < 0, 3.141592653589793 - angle, angle)


@triton.jit
def turned_column(x, y, z, cosine, s, h, a, b, c):
    """The column (a, b, c) of a rotation, turned by the vector (x, y, z) (Rodrigues)."""
    dot = h * (x * a + y * b + z * c)
    p = a * cosine + s * (y * c - z * b) + dot * x
    q = b * cosine + s * (z * a - x * c) + dot * y
    return p, q, c * cosine + s * (x * b - y * a) + dot * z


@triton.jit
def sinc_and_versine(square):
    """sin(a) / a and (1 - cos a) / a^2 of a^2, to the last bits for angles up to pi."""
    s = square * 0 + 1.0
    h = s
    for i in tl.static_range(15, 0, -1):
        s = 1.0 - square * s * (1.0 / (2 * i * (2 * i + 1)))
        h = 1.0 - square * h * (1.0 / ((2 * i + 1) * (2 * i + 2)))
    return s, 0.5 * h


@triton.jit
def _turn_from(r00, r01, r02, r10, r11, r12, r20, r21, r22, centre, mine):
    """The rotation vector log(R R0^T), with R0 at ``centre``, its angle, and (angle/2)^2 / sin^2(angle/2)."""
    c00, c01, c02 = load3(centre, mine)
    c10, c11, c12 = load3(centre + 3, mine)
    c20, c21, c22 = load3(centre + 6, mine)
    x = 0.5 * (r20 * c10 + r21 * c11 + r22 * c12 - r10 * c20 - r11 * c21 - r12 * c22)
    y = 0.5 * (r00 * c20 + r01 * c21 + r02 * c22 - r20 * c00 - r21 * c01 - r22 * c02)
    z = 0.5 * (r10 * c00 + r11 * c01 + r12 * c02 - r00 * c10 - r01 * c11 - r02 * c12)
    trace = r00 * c00 + r01 * c01 + r02 * c02 + r10 * c10 + r11 * c11 + r12 * c12 + r20 * c20 + r21 * c21 + r22 * c22
    sine, cosine = tl.sqrt(x * x + y * y + z * z), 0.5 * (trace - 1.0)
    angle = _angle_of(sine, cosine)
    longer = tl.where(sine > 1e-12, angle / tl.maximum(sine, 1e-12), 1.0)
    # sin^2 of half the angle, without taking nearly equal numbers from one another
    half = tl.where(cosine > 0, 0.5 * sine * sine / (1.0 + tl.abs(cosine)), 0.5 * (1.0 - cosine))
    across = tl.where(angle > 1e-3, 0.25 * angle * angle / tl.maximum(half, 1e-30), 1.0 + angle * angle / 12)
    return x * longer, y * longer, z * longer, angle, across


@triton.jit
def _row_times(x, y, z, vector):
    return x * tl.load(vector) + y * tl.load(vector + 1) + z * tl.load(vector + 2)


@triton.jit
def within_limits(
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, centre, place, fulcrum, settings, mine
):  # fmt: skip
    """A pose beyond the limits of its prior moved to where the way there crosses them."""
    x, y, z, angle, _ = _turn_from(r00, r01, r02, r10, r11, r12, r20, r21, r22, centre, mine)
    limit, reach = tl.load(settings + 6), tl.load(settings + 7)
    shorter = tl.minimum(limit / tl.maximum(angle, 1e-30), 1.0)
    x, y, z = x * shorter, y * shorter, z * shorter
    square = x * x + y * y + z * z
    beyond = angle > limit
    s, h = sinc_and_versine(tl.where(beyond, square, 0.0))
    cosine = 1.0 - square * h
    c00, c01, c02 = load3(centre, mine)
    c10, c11, c12 = load3(centre + 3, mine)
    c20, c21, c22 = load3(centre + 6, mine)
    n00, n10, n20 = turned_column(x, y, z, cosine, s, h, c00, c10, c20)
    n01, n11, n21 = turned_column(x, y, z, cosine, s, h, c01, c11, c21)
    n02, n12, n22 = turned_column(x, y, z, cosine, s, h, c02, c12, c22)
    r00, r01, r02 = tl.where(beyond, n00, r00), tl.where(beyond, n01, r01), tl.where(beyond, n02, r02)
    r10, r11, r12 = tl.where(beyond, n10, r10), tl.where(beyond, n11, r11), tl.where(beyond, n12, r12)
    r20, r21, r22 = tl.where(beyond, n20, r20), tl.where(beyond, n21, r21), tl.where(beyond, n22, r22)
    wanted_x = tl.load(place, mask=mine, other=0.0) - _row_times(r00, r01, r02, fulcrum)
    wanted_y = tl.load(place + 1, mask=mine, other=0.0) - _row_times(r10, r11, r12, fulcrum)
    ex, ey = t0 - wanted_x, t1 - wanted_y
    length = tl.sqrt(ex * ex + ey * ey)
    share = tl.minimum(reach / tl.maximum(length, 1e-30), 1.0)
    t0 = tl.where(length > reach, wanted_x + ex * share, t0)
    t1 = tl.where(length > reach, wanted_y + ey * share, t1)
    return r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1


@triton.jit
def prior_at(r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, centre, place, fulcrum, settings, mine):
    """The log of the prior of a pose, its gradient (5) and what it adds to the precision (upper triangle, 15).

    With R <- exp([d]x) R, dw = J^-1 d, where J^-T w = w, and J^-T J^-1 is 1 along w and (|w|/2 / sin |w|/2)^2 across.
    """
    turn, move = tl.load(settings + 4), tl.load(settings + 5)
    x, y, z, angle, across = _turn_from(r00, r01, r02, r10, r11, r12, r20, r21, r22, centre, mine)
    square = angle * angle
    along = turn * tl.where(angle > 1e-3, (1.0 - across) / tl.maximum(square, 1e-30), -1.0 / 12)
    across = turn * across
    ax = _row_times(r00, r01, r02, fulcrum)
    ay = _row_times(r10, r11, r12, fulcrum)
    az = _row_times(r20, r21, r22, fulcrum)
    ex = t0 + ax - tl.load(place, mask=mine, other=0.0)
    ey = t1 + ay - tl.load(place + 1, mask=mine, other=0.0)
    value = -0.5 * (turn * square + move * (ex * ex + ey * ey))
    # The fulcrum's way in the image has the slopes (0, az, -ay, 1, 0) and (-az, 0, ax, 0, 1).
    g0, g1, g2 = move * az * ey - turn * x, -move * az * ex - turn * y, move * (ay * ex - ax * ey) - turn * z
    h00, h01, h02 = across + along * x * x + move * az * az, along * x * y, along * x * z - move * ax * az
    h11, h12 = across + along * y * y + move * az * az, along * y * z - move * ay * az
    h22 = across + along * z * z + move * (ax * ax + ay * ay)
    none = ex * 0
    return (
        value, g0, g1, g2, -move * ex, -move * ey, h00, h01, h02, none, -move * az, h11, h12, move * az, none, h22,
        -move * ay, move * ax, none + move, none, none + move,
    )  # fmt: skip


@triton.jit(do_not_specialize=["starts"])
def _pull_back(
    tried_rotation, tried_shift, image, centres, places, fulcrum, settings, starts, BLOCK: tl.constexpr
):  # fmt: skip
    """Move the poses that lie beyond the limits of their prior to these, before the first look at them."""
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mine = j < starts
    b = tl.load(image + j, mask=mine, other=0)
    r, t = tried_rotation + j * 9, tried_shift + j * 2
    r00, r01, r02 = load3(r, mine)
    r10, r11, r12 = load3(r + 3, mine)
    r20, r21, r22 = load3(r + 6, mine)
    t0, t1 = tl.load(t, mask=mine, other=0.0), tl.load(t + 1, mask=mine, other=0.0)
    r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1 = within_limits(
        r00, r01, r02, r10, r11, r12, r20, r21, r22, t0, t1, centres + b * 9, places + b * 2, fulcrum, settings, mine
    )
    store3(r, r00, r01, r02, mine)
    store3(r + 3, r10, r11, r12, mine)
    store3(r + 6, r20, r21, r22, mine)
    tl.store(t, t0, mask=mine)
    tl.store(t + 1, t1, mask=mine)


PULL_BACK = Kernel(
    _pull_back, ("*fp64", "*fp64", "*i32", "*fp64", "*fp64", "*fp64", "*fp64", "i32"), {"BLOCK": POSES}, warps=1
)
KERNELS = (PULL_BACK,)
