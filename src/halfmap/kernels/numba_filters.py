"""Radial filters of maps, and sums and differences of filtered maps, on the CPU. Each makes one pass over memory where
torch needs many.

Half transforms are float arrays [z, y, x, 2] (real, imaginary) in the order of rfftn; full transforms are in the order
of fftn. Every function writes the planes z0 <= z < z1 of the result.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath=True)
def combine_planes(out, first, second, gain1, gain2, z0, z1):
    """out [z, y, x, 2] = gain1 first + i gain2 second, a full transform, from half transforms of two real maps.

    The grids of first and second are as fine as that of out, or finer. gain1, gain2 [k^2]: by squared frequency.
    """
    size, box1, box2 = out.shape[0], first.shape[0], second.shape[0]
    half = (size - 1) // 2
    # At Nyquist an even grid has one coefficient where a finer one has two. It is left out unless the grids are equal.
    lowest = half + 1 - size if size == box1 == box2 else -half
    zero = np.float32(0.0)
    for z in range(z0, z1):
        kz = z if z <= half else z - size
        for y in range(size):
            ky = y if y <= half else y - size
            if kz < lowest or ky < lowest:
                out[z, y] = zero
                continue
            plane = kz * kz + ky * ky
            a, b = first[kz % box1, ky % box1], second[kz % box2, ky % box2]
            for x in range(half + 1):
                g1, g2 = gain1[plane + x * x], gain2[plane + x * x]
                out[z, y, x, 0] = g1 * a[x, 0] - g2 * b[x, 1]
                out[z, y, x, 1] = g1 * a[x, 1] + g2 * b[x, 0]
            # The other half comes from Friedel mates. The Nyquist column of an even grid is its own mate.
            a, b = first[-kz % box1, -ky % box1], second[-kz % box2, -ky % box2]
            for x in range(1, -lowest + 1):
                g1, g2 = gain1[plane + x * x], gain2[plane + x * x]
                out[z, y, size - x, 0] = g1 * a[x, 0] + g2 * b[x, 1]
                out[z, y, size - x, 1] = g2 * b[x, 0] - g1 * a[x, 1]
            for x in range(half + 1, size + lowest):
                out[z, y, x] = zero


@njit(nogil=True, cache=True, fastmath=True)
def power_difference_planes(out, pair, z0, z1):
    """out = imaginary^2 - real^2."""
    for z in range(z0, z1):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                a, b = pair[z, y, x, 0], pair[z, y, x, 1]
                out[z, y, x] = b * b - a * a


@njit(nogil=True, cache=True, fastmath=True)
def keep_planes(out, place, pair, node, z0, z1):
    """Add what is kept of the bands ``node`` and ``node`` + 1 to out [z, y, x]; see kernels.add_kept_bands_."""
    for z in range(z0, z1):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                t = place[z, y, x] - np.float32(node)
                out[z, y, x] += _kept(t) * pair[z, y, x, 0] + _kept(t - np.float32(1.0)) * pair[z, y, x, 1]


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _kept(t):
    """Fraction of a band that is kept where the cut-off lies t nodes above the band's own; see reference.band_kept."""
    if t >= np.float32(1.0):
        return np.float32(1.0)
    if t < np.float32(-2.0):
        return np.float32(0.0)
    half = np.float32(0.5)
    whole = np.floor(t)
    f = t - whole
    if whole == np.float32(0.0):
        return np.float32(1.0) - ((-half * f + np.float32(1.0)) * f - half) * f
    after_next = (half * f - half) * f * f
    if whole == np.float32(-1.0):
        return ((np.float32(-1.5) * f + np.float32(2.0)) * f + half) * f + after_next
    return after_next
