"""What Triton kernels share: complex numbers in one load, and what a half volume holds between its grid points.

A half volume is flat here, int64 [z, y, x] of pairs (triton_kernel.as_pairs) with x = 0..m, z and y centred at m. A
position reads four rows of two neighbours along x: eight loads of eight bytes, of which two lie side by side, so that
mostly four sectors of 32 bytes are read where 64 bytes are used. A slope comes from the same eight points.

Offsets are int64 (a half volume of box 1,024, padded twice, holds 4.3e9 points); positions are float32 and reach the
points 0..m, -m..m. A position beyond them, or one that is no number, reads the edge, not foreign memory.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_pair(pairs, offset, mask):
    """Real and imaginary part, float32, of pairs[offset], one int64 each; 0 where ``mask`` is false."""
    both = tl.load(pairs + offset, mask=mask, other=0)
    return _low(both), _high(both)


@triton.jit
def store_pair(pairs, offset, real, imaginary, mask):
    """Write float32 numbers to pairs[offset], one int64 each, where ``mask`` is true."""
    low = real.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    high = imaginary.to(tl.int32, bitcast=True).to(tl.int64) << 32
    tl.store(pairs + offset, high | low, mask=mask)


@triton.jit
def _low(both):
    return both.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _high(both):
    return (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def unit_circle(turns):
    """cos and sin of 2 pi turns, float32, within 2e-7: the nearest quarter is taken off, the rest is a power series.

    Triton's own functions keep a slow path for large angles, which costs registers and a stack.
    """
    quarter = tl.floor(4.0 * turns + 0.5)
    angle = (turns - 0.25 * quarter) * 6.283185307179586
    q = quarter.to(tl.int32) & 3
    x = angle * angle
    s = angle * (1.0 + x * (-1.0 / 6 + x * (1.0 / 120 + x * (-1.0 / 5040 + x * (1.0 / 362880)))))
    c = 1.0 + x * (-0.5 + x * (1.0 / 24 + x * (-1.0 / 720 + x * (1.0 / 40320 - x * (1.0 / 3628800)))))
    odd = (q & 1) == 1
    cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
    return tl.where((q == 1) | (q == 2), -cosine, cosine), tl.where(q >= 2, -sine, sine)


@triton.jit
def on_slice(u, v, axes, curvature, r, CURVED: tl.constexpr):
    """Positions (x, y, z) of the coefficients (u, v) on the slice r of axes [r, 2, 3]; CURVED: curvature[r] (u^2 + v^2)
    above its plane, along the third of axes [r, 3, 3]."""
    a = axes + r * (9 if CURVED else 6)
    x = u * tl.load(a) + v * tl.load(a + 3)
    y = u * tl.load(a + 1) + v * tl.load(a + 4)
    z = u * tl.load(a + 2) + v * tl.load(a + 5)
    if CURVED:
        height = (u * u + v * v) * tl.load(curvature + r)
        x += height * tl.load(a + 6)
        y += height * tl.load(a + 7)
        z += height * tl.load(a + 8)
    return x, y, z


@triton.jit
def place(x, y, z, m):
    """Offset of the grid point below a position, how far beyond it along x, y, z the position lies, and -1 where the
    position's Friedel mate is taken, else 1."""
    sign = tl.where(x < 0, -1.0, 1.0)
    x, y, z = x * sign, y * sign + m, z * sign + m
    # Of a number and none, the least and the largest are the number.
    below_x = tl.minimum(tl.maximum(tl.floor(x), 0.0), m - 1)
    below_y = tl.minimum(tl.maximum(tl.floor(y), 0.0), 2 * m - 1)
    below_z = tl.minimum(tl.maximum(tl.floor(z), 0.0), 2 * m - 1)
    line = below_z.to(tl.int32) * (2 * m + 1) + below_y.to(tl.int32)
    cell = line.to(tl.int64) * (m + 1) + below_x.to(tl.int32)
    return cell, x - below_x, y - below_y, z - below_z, sign


@triton.jit
def _row(volume, offset, along):
    """Value between two neighbours along x, and its slope."""
    first, second = tl.load(volume + offset), tl.load(volume + offset + 1)
    ar, ai = _low(first), _high(first)
    dr, di = _low(second) - ar, _high(second) - ai
    return ar + along * dr, ai + along * di, dr, di


@triton.jit
def value_at(volume, x, y, z, m):
    """Real and imaginary part of a half volume at positions."""
    cell, along, fy, fz, sign = place(x, y, z, m)
    plane = (2 * m + 1) * (m + 1)
    r00, i00, _, _ = _row(volume, cell, along)
    r01, i01, _, _ = _row(volume, cell + (m + 1), along)
    r10, i10, _, _ = _row(volume, cell + plane, along)
    r11, i11, _, _ = _row(volume, cell + plane + (m + 1), along)
    r0, i0 = r00 + fy * (r01 - r00), i00 + fy * (i01 - i00)
    r1, i1 = r10 + fy * (r11 - r10), i10 + fy * (i11 - i10)
    return r0 + fz * (r1 - r0), sign * (i0 + fz * (i1 - i0))


@triton.jit
def value_and_slopes(volume, x, y, z, m):
    """The same, and the slopes along x, y and z: eight numbers, real and imaginary part of each.

    V(q) = conj V(-q): of a mate the imaginary part of the value and the real parts of the slopes change their sign.
    """
    cell, along, fy, fz, sign = place(x, y, z, m)
    plane = (2 * m + 1) * (m + 1)
    r00, i00, xr00, xi00 = _row(volume, cell, along)
    r01, i01, xr01, xi01 = _row(volume, cell + (m + 1), along)
    r10, i10, xr10, xi10 = _row(volume, cell + plane, along)
    r11, i11, xr11, xi11 = _row(volume, cell + plane + (m + 1), along)
    yr0, yi0, yr1, yi1 = r01 - r00, i01 - i00, r11 - r10, i11 - i10
    r0, i0, r1, i1 = r00 + fy * yr0, i00 + fy * yi0, r10 + fy * yr1, i10 + fy * yi1
    xr0, xi0 = xr00 + fy * (xr01 - xr00), xi00 + fy * (xi01 - xi00)
    xr1, xi1 = xr10 + fy * (xr11 - xr10), xi10 + fy * (xi11 - xi10)
    zr, zi = r1 - r0, i1 - i0
    xr, xi = xr0 + fz * (xr1 - xr0), xi0 + fz * (xi1 - xi0)
    yr, yi = yr0 + fz * (yr1 - yr0), yi0 + fz * (yi1 - yi0)
    return r0 + fz * zr, sign * (i0 + fz * zi), sign * xr, xi, sign * yr, yi, sign * zr, zi
