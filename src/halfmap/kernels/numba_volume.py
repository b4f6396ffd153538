"""Passes over the sums of the M-step: totals by shell, and the division of numerator by weight.

Sums are float arrays [z, y, x, 3] (numerator re, im, weight) on the half volume: z and y are centred at m, x = 0..m.
Shells are in unpadded cycles per box. Every function works on the planes z0 <= z < z1.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def weight_by_shell_planes(total, count, sums, shell_of, z0, z1):
    """Add the weights of the points of shell s in plane z to total[z, s], and their number to count[z, s].

    shell_of [q^2]: shell of a point by its squared distance from the centre, ascending.
    """
    m = sums.shape[2] - 1
    shells = total.shape[1]
    for z in range(z0, z1):
        for y in range(sums.shape[1]):
            plane, row = (z - m) * (z - m) + (y - m) * (y - m), sums[z, y]
            for x in range(m + 1):
                s = shell_of[plane + x * x]
                if s >= shells:
                    break
                total[z, s] += row[x, 2]
                count[z, s] += 1


@njit(nogil=True, cache=True, fastmath=True)
def inverse_weight_by_shell_planes(total, sums, floor, shell_of, z0, z1):
    """Add 1 / max(weight, floor[s]) of the points of shell s in plane z to total[z, s]; see weight_by_shell_planes."""
    m = sums.shape[2] - 1
    for z in range(z0, z1):
        for y in range(sums.shape[1]):
            plane, row = (z - m) * (z - m) + (y - m) * (y - m), sums[z, y]
            for x in range(m + 1):
                s = shell_of[plane + x * x]
                if s >= len(floor):
                    break
                total[z, s] += 1.0 / max(np.float64(row[x, 2]), floor[s], 1e-20)


@njit(nogil=True, cache=True, fastmath=True)
def divide_planes(out, sums, ridge, floor, share, padding, z0, z1):
    """out[z, y, x, 2] = numerator / max(weight + ridge, share weight + floor).

    ridge, floor, share [s]: linear between shells.
    """
    m = sums.shape[2] - 1
    last, inverse = np.float64(len(floor) - 1), 1.0 / padding
    # Unsigned, because Numba asks of any other index whether it is negative.
    lowest, next_one = np.uint32(max(len(floor) - 2, 0)), np.uint32(min(len(floor) - 1, 1))
    for z in range(z0, z1):
        for y in range(sums.shape[1]):
            plane, row, target = np.float64((z - m) * (z - m) + (y - m) * (y - m)), sums[z, y], out[z, y]
            for x in range(m + 1):
                r = min(np.sqrt(plane + np.float64(x) * np.float64(x)) * inverse, last)
                low = min(np.uint32(np.int32(r)), lowest)
                high = low + next_one
                f = r - np.float64(np.int32(low))
                added = ridge[low] + (ridge[high] - ridge[low]) * f
                least = floor[low] + (floor[high] - floor[low]) * f
                part = share[low] + (share[high] - share[low]) * f
                weight = np.float64(row[x, 2])
                factor = 1.0 / max(weight + added, part * weight + least, 1e-20)
                target[x, 0] = row[x, 0] * factor
                target[x, 1] = row[x, 1] * factor


@njit(nogil=True, cache=True, fastmath=True)
def difference_planes(out, first, second, floor, share, added, padding, fold, z0, z1):
    """out[z, y, x, 2] = difference of numerator / max(weight, floor) between two sums, evened.

    Evened means: times w / max(w, share w + added), where w is the sum of both weights. The result is zero more than
    one shell beyond the last floor. out may be smaller than the sums. fold: add the Friedel mates of the sums' plane
    x = 0.
    """
    m = out.shape[2] - 1
    off = first.shape[2] - 1 - m
    last = len(floor) - 1
    inverse = 1.0 / padding
    farthest = (padding * (last + 1)) ** 2
    for z in range(z0, z1):
        for y in range(out.shape[1]):
            plane = (z - m) * (z - m) + (y - m) * (y - m)
            for x in range(m + 1):
                if plane + x * x > farthest:
                    out[z, y, x, 0] = out[z, y, x, 1] = 0.0
                    continue
                r = min(np.sqrt(np.float64(plane + x * x)) * inverse, np.float64(last))
                low = min(int(r), max(last - 1, 0))
                high, f = min(low + 1, last), r - low
                least = floor[low] + (floor[high] - floor[low]) * f
                real = imaginary = total = 0.0
                for sign, sums in ((1.0, first), (-1.0, second)):
                    a, b, w = sums[z + off, y + off, x]
                    if fold and x == 0:
                        mate = sums[off + 2 * m - z, off + 2 * m - y, 0]
                        a, b, w = a + mate[0], b - mate[1], w + mate[2]
                    below = sign / max(w, least, 1e-20)
                    real += a * below
                    imaginary += b * below
                    total += w
                blended = (share[low] + (share[high] - share[low]) * f) * total
                blended += added[low] + (added[high] - added[low]) * f
                gain = total / max(total, blended, 1e-20)
                out[z, y, x, 0] = gain * real
                out[z, y, x, 1] = gain * imaginary


@njit(nogil=True, cache=True)
def correlate_planes(out, first, second, shell_of, columns, z0, z1):
    """Add to out[z, s, 3] the sums over shell s of plane z of Re a conj(b), |a|^2 and |b|^2.

    first, second: transforms [z, y, x, 2] of two maps with frequencies in the order of the FFT, x halved. shell_of
    [k^2]: shell by squared frequency, ascending. columns [x]: how many coefficients each of a column stands for.
    """
    box, shells = first.shape[0], out.shape[1]
    for z in range(z0, z1):
        kz, total = min(z, box - z), out[z]
        for y in range(box):
            ky, a, b = min(y, box - y), first[z, y], second[z, y]
            for x in range(a.shape[0]):
                s = shell_of[kz * kz + ky * ky + x * x]
                if s >= shells:
                    break
                ar, ai, br, bi = np.float64(a[x, 0]), np.float64(a[x, 1]), np.float64(b[x, 0]), np.float64(b[x, 1])
                total[s, 0] += columns[x] * (ar * br + ai * bi)
                total[s, 1] += columns[x] * (ar * ar + ai * ai)
                total[s, 2] += columns[x] * (br * br + bi * bi)
