"""Sums over a point group on the CPU; kernels/symmetry.py says how.

Sums are float arrays [z, y, x, 3] (numerator re, im, weight) on the half volume: z and y are centred at m, x = 0..m.
The mate of a point (x, y, z) of the other half is at (-x, -y, -z), its numerator the complex conjugate.
"""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 32  # side of the cubes that are worked on at a time
TINY = 1e-30  # for sums of two weights whose mean is one


@njit(nogil=True, cache=True)
def permute_planes(out, accumulator, operators, radius, z0, z1):
    """out[z, y, x, :] = sum over operators g of accumulator(g q), for planes z0 <= z < z1 and |q| <= radius.

    accumulator[z, y, x, 3] must be folded (Hermitian on x = 0): the numerator is conjugated where g q has x < 0. The
    operators [o, 3, 3] are integers, signed permutations of axes: there is nothing to interpolate.
    """
    m = (accumulator.shape[0] - 1) // 2
    for zi in range(z0, z1):
        for yi in range(out.shape[1]):
            for xi in range(out.shape[2]):
                qx, qy, qz = xi, yi - m, zi - m
                if qx * qx + qy * qy + qz * qz > radius * radius:
                    continue
                re = im = weight = 0.0
                for g in range(operators.shape[0]):
                    x = operators[g, 0, 0] * qx + operators[g, 0, 1] * qy + operators[g, 0, 2] * qz
                    y = operators[g, 1, 0] * qx + operators[g, 1, 1] * qy + operators[g, 1, 2] * qz
                    z = operators[g, 2, 0] * qx + operators[g, 2, 1] * qy + operators[g, 2, 2] * qz
                    if x < 0:
                        re += accumulator[m - z, m - y, -x, 0]
                        im -= accumulator[m - z, m - y, -x, 1]
                        weight += accumulator[m - z, m - y, -x, 2]
                    else:
                        re += accumulator[m + z, m + y, x, 0]
                        im += accumulator[m + z, m + y, x, 1]
                        weight += accumulator[m + z, m + y, x, 2]
                out[zi, yi, xi, 0] = re
                out[zi, yi, xi, 1] = im
                out[zi, yi, xi, 2] = weight


@njit(nogil=True, cache=True)
def _between(profile, square):
    """The profile [r] at the distance sqrt(square), linear between its entries, 0 beyond them."""
    r = np.sqrt(np.float64(square))
    low = int(r)
    if low + 1 >= profile.shape[0]:
        return 0.0
    f = r - low
    return profile[low] * (1.0 - f) + profile[low + 1] * f


@njit(nogil=True, cache=True)
def _exchange(out, here, there, tap):
    """Add to the numerators out [x, 3] what sums [x, 3] gain from others: t h (r_there - r_here)."""
    twice, least = here.dtype.type(2.0) * tap, here.dtype.type(TINY)
    for x in range(out.shape[0]):
        w, v = here[x, 2], there[x, 2]
        share = twice / (w + v + least)
        out[x, 0] += share * (there[x, 0] * w - here[x, 0] * v)
        out[x, 1] += share * (there[x, 1] * w - here[x, 1] * v)


@njit(nogil=True, cache=True)
def flatten_planes(out, sums, profile, taps, z0, z1):
    """out = sums over the profile [r] of their distance from the origin, sharpened along x, for planes z0 <= z < z1."""
    m, reach = sums.shape[2] - 1, taps.shape[0]
    row = np.zeros((m + 1 + 2 * reach, 3), sums.dtype)
    for z in range(z0, z1):
        for y in range(sums.shape[1]):
            plane = (z - m) * (z - m) + (y - m) * (y - m)
            for x in range(m + 1):
                mean = _between(profile, plane + x * x)
                share = 1.0 / mean if mean > 0.0 else 0.0
                for c in range(3):
                    row[reach + x, c] = sums[z, y, x, c] * share
                if 0 < x <= reach:
                    row[reach - x, 0] = sums[2 * m - z, 2 * m - y, x, 0] * share
                    row[reach - x, 1] = -sums[2 * m - z, 2 * m - y, x, 1] * share
                    row[reach - x, 2] = sums[2 * m - z, 2 * m - y, x, 2] * share
            here = row[reach : reach + m + 1]
            out[z, y] = here
            for k in range(1, reach + 1):
                _exchange(out[z, y], here, row[reach - k :], taps[k - 1])
                _exchange(out[z, y], here, row[reach + k :], taps[k - 1])


@njit(nogil=True, cache=True)
def _sharpen_lines(values, taps):
    """Sharpen values [l, x, 3] along l, in place."""
    count, reach = values.shape[0], taps.shape[0]
    lines = values.copy()
    for at in range(count):
        for k in range(1, reach + 1):
            if at >= k:
                _exchange(values[at], lines[at], lines[at - k], taps[k - 1])
            if at + k < count:
                _exchange(values[at], lines[at], lines[at + k], taps[k - 1])


@njit(nogil=True, cache=True)
def sharpen_along_y(values, taps, z0, z1):
    """Sharpen values [z, y, x, 3] along y, in place, for planes z0 <= z < z1."""
    for z in range(z0, z1):
        _sharpen_lines(values[z], taps)


@njit(nogil=True, cache=True)
def sharpen_along_z(values, taps, y0, y1):
    """Sharpen values [z, y, x, 3] along z, in place, for y0 <= y < y1."""
    for y in range(y0, y1):
        _sharpen_lines(values[:, y], taps)


@njit(nogil=True, cache=True)
def add_turned_planes(out, values, turns, offsets, shares, profile, radius, z0, z1):
    """Add the values at g q + d, times their share and the profile at |q|, to out for every turn g and offset d.

    For planes z0 <= z < z1; out [z, y, x, 3] is set to 0 where |q| > radius. values [z, y, x, 3]: as flatten_planes
    makes them, two points beyond the radius or more. See kernels.symmetry.Lookups.
    """
    m = values.shape[2] - 1
    side, width = 2 * m + 1, m + 1
    across, along = -(-side // BLOCK), -(-width // BLOCK)
    # Block by block, so that what a turned block needs stays in the cache.
    for block in range(-(-(z1 - z0) // BLOCK) * across * along):
        zb = z0 + block // (across * along) * BLOCK
        yb, xb = block // along % across * BLOCK, block % along * BLOCK
        for zi in range(zb, min(zb + BLOCK, z1)):
            for yi in range(yb, min(yb + BLOCK, side)):
                for xi in range(xb, min(xb + BLOCK, width)):
                    qx, qy, qz = np.float64(xi), np.float64(yi - m), np.float64(zi - m)
                    square = qx * qx + qy * qy + qz * qz
                    if square > radius * radius:
                        out[zi, yi, xi] = 0.0
                        continue
                    re = im = weight = 0.0
                    for g in range(turns.shape[0]):
                        x = turns[g, 0, 0] * qx + turns[g, 0, 1] * qy + turns[g, 0, 2] * qz + offsets[g, 0]
                        y = turns[g, 1, 0] * qx + turns[g, 1, 1] * qy + turns[g, 1, 2] * qz + offsets[g, 1]
                        z = turns[g, 2, 0] * qx + turns[g, 2, 1] * qy + turns[g, 2, 2] * qz + offsets[g, 2]
                        sign = shares[g]
                        if x < 0.0:
                            x, y, z, sign = -x, -y, -z, -sign
                        y, z = y + m, z + m
                        cx, cy, cz = int(x), int(y), int(z)
                        fx, fy, fz = x - cx, y - cy, z - cz
                        for dz in range(2):
                            a = (fz if dz else 1.0 - fz) * shares[g]
                            if a == 0.0:
                                continue
                            for dy in range(2):
                                low = (fy if dy else 1.0 - fy) * a
                                high = low * fx
                                low -= high
                                near, far = values[cz + dz, cy + dy, cx], values[cz + dz, cy + dy, cx + 1]
                                re += low * near[0] + high * far[0]
                                part = low * near[1] + high * far[1]
                                im += part if sign > 0.0 else -part
                                weight += low * near[2] + high * far[2]
                    mean = _between(profile, square)
                    out[zi, yi, xi, 0] += mean * re
                    out[zi, yi, xi, 1] += mean * im
                    out[zi, yi, xi, 2] += mean * weight
