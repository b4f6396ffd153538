"""A step of the descent to a sparse and smooth map, and what it has reached, on the CPU.

In plain torch both pass some 220 times over arrays of the map's size. Here a plane is gone through row by row, and what
a row needs of its neighbours is still in the cache. Loops are such that LLVM makes vectors of them: rows are views that
begin at the neighbour, numbers are float32, and the logarithm is a series. Of a range [start, stop) of planes every
voxel comes out the same, whatever the range; sums are float64, one of each plane.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_ONE, _TWO, _HALF, _NONE = np.float32(1), np.float32(2), np.float32(0.5), np.float32(0)
# log(m) = 2 (s + s^3 / 3 + s^5 / 5 + ..), s = (m - 1) / (m + 1). From 1 / sqrt(2) to sqrt(2) s^11 is lost in float32.
_FIRST, _THIRD, _FIFTH, _SEVENTH, _NINTH = (np.float32(2 / odd) for odd in (1, 3, 5, 7, 9))
_LOG2, _ROOT = np.float32(math.log(2)), np.float32(math.sqrt(2))
# The bits of a float32: where its exponent begins, and what that is of 1.0; those of its fraction; those of 1.0.
_EXPONENT, _BIAS, _MANTISSA, _OF_ONE = np.int32(23), np.int32(127), np.int32(0x7FFFFF), np.int32(0x3F800000)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _weights_of(out, plane, above, local, strength, eps, rounding, per_spacing):
    """out[y, x]: weights of the squared differences between each voxel of a plane and its next neighbours."""
    width = plane.shape[1]
    for i in range(plane.shape[0]):
        row, up, side, o, factor = plane[i], above[i], plane[min(i + 1, plane.shape[0] - 1)], out[i], local[i]
        beside = row[1:]
        for x in range(width - 1):
            v = row[x]
            dz, dy, dx = (up[x] - v) * per_spacing, (side[x] - v) * per_spacing, (beside[x] - v) * per_spacing
            d = np.sqrt(dz * dz + dy * dy + dx * dx)
            h = d * d / (_TWO * rounding) if d < rounding else d - _HALF * rounding
            o[x] = factor[x] * strength / (max(d, rounding) * (eps + h))
        v = row[width - 1]
        dz, dy = (up[width - 1] - v) * per_spacing, (side[width - 1] - v) * per_spacing
        d = np.sqrt(dz * dz + dy * dy)
        h = d * d / (_TWO * rounding) if d < rounding else d - _HALF * rounding
        o[width - 1] = factor[width - 1] * strength / (max(d, rounding) * (eps + h))


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def step_range(out, y, applied, linear, previous, local, numbers, bound, start, stop):
    """out[z, y, x] for planes z in [start, stop): the minimiser of the bound of F about y; applied: A y.

    Other arrays as in kernels.descent.Term, local: its strength. numbers: those of kernels.descent.Weights, float32;
    bound: of A's eigenvalues.
    """
    sparse, smooth, inertia, eps, eps_gradient, rounding, spacing = numbers
    depth, height, width = y.shape
    per_spacing = _ONE / spacing
    strength, of_edges, quadratic = smooth * per_spacing, _TWO * per_spacing, np.float32(bound + inertia)
    w, below = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    gradient, edges, nothing = np.empty(width, np.float32), np.empty(width, np.float32), np.zeros(width, np.float32)
    if start > 0:
        _weights_of(below, y[start - 1], y[start], local[start - 1], strength, eps_gradient, rounding, per_spacing)
    for z in range(start, stop):
        last_z, last = min(z + 1, depth - 1), max(z - 1, 0)
        _weights_of(w, y[z], y[last_z], local[z], strength, eps_gradient, rounding, per_spacing)
        for i in range(height):
            row, up, down = y[z, i], y[last_z, i], y[last, i]
            side, before = y[z, min(i + 1, height - 1)], y[z, max(i - 1, 0)]
            own, under, ahead = w[i], below[i], w[i - 1] if i > 0 else nothing
            a, b, pulled = applied[z, i], linear[z, i], previous[z, i]
            along = np.float32((z < depth - 1) + (i < height - 1))
            for x in range(width):
                v = row[x]
                pull = under[x] * (v - down[x]) + ahead[x] * (v - before[x]) - own[x] * (up[x] + side[x] - _TWO * v)
                gradient[x] = a[x] - b[x] + inertia * (v - pulled[x]) + pull * per_spacing
                edges[x] = under[x] + ahead[x] + own[x] * along
            beside, gradient_beside, edges_beside = row[1:], gradient[1:], edges[1:]
            for x in range(width - 1):
                gradient[x] -= own[x] * (beside[x] - row[x]) * per_spacing
                edges[x] += own[x]
            for x in range(width - 1):
                gradient_beside[x] += own[x] * (beside[x] - row[x]) * per_spacing
                edges_beside[x] += own[x]
            o, factor = out[z, i], local[z, i]
            for x in range(width):
                curvature = quadratic + edges[x] * of_edges
                t = row[x] - gradient[x] / curvature
                threshold = factor[x] * sparse / ((eps + abs(row[x])) * curvature)
                o[x] = t - max(-threshold, min(t, threshold))
        w, below = below, w


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _log1p_(u, w, d, power):
    """log(1 + u) in place of u [x], 0 or more; w, d and power [x] are used up."""
    bits = w.view(np.int32)
    for x in range(len(u)):
        w[x] = _ONE + u[x]
        d[x] = w[x] - _ONE  # what is left of u; the rest comes back as a factor
    for x in range(len(u)):
        power[x] = np.float32((bits[x] >> _EXPONENT) - _BIAS)
        bits[x] = (bits[x] & _MANTISSA) | _OF_ONE
    for x in range(len(u)):
        large = w[x] > _ROOT
        m = w[x] * _HALF if large else w[x]
        p = power[x] + _ONE if large else power[x]
        s = (m - _ONE) / (m + _ONE)
        q = s * s
        series = _FIRST + q * (_THIRD + q * (_FIFTH + q * (_SEVENTH + q * _NINTH)))
        u[x] = (s * series + p * _LOG2) * (u[x] / d[x]) if d[x] > _NONE else u[x]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _add_row(out, v, half, penalty, away, moved, inertia):
    """Add what the voxels of a row [x] give to F, to the square of what has moved, and to that of the map: out[3]."""
    value = change = power = 0.0
    for x in range(len(v)):
        value += np.float64(v[x]) * np.float64(half[x]) + np.float64(penalty[x])
        value += inertia * (np.float64(away[x]) * np.float64(away[x]))
        change += np.float64(moved[x]) * np.float64(moved[x])
        power += np.float64(v[x]) * np.float64(v[x])
    out[0] += value
    out[1] += change
    out[2] += power


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def sums_range(out, z, applied, linear, previous, local, before, numbers, start, stop):
    """out[plane, 3] for planes in [start, stop): what they add to F at z, to |z - before|^2 and to |z|^2.

    Arrays as in `step_range`; numbers: those of kernels.descent.Weights, float32.
    """
    sparse, smooth, inertia, eps, eps_gradient, rounding, spacing = numbers
    depth, height, width = z.shape
    per_spacing, per_eps, per_gradient, half_inertia = _ONE / spacing, _ONE / eps, _ONE / eps_gradient, 0.5 * inertia
    # Arrays of their own: as rows of one, LLVM takes them for the same memory, and nothing becomes a vector.
    u, h, half = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    w, d, power = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    away, moved = np.empty(width, np.float32), np.empty(width, np.float32)
    for k in range(start, stop):
        out[k] = 0.0
        for i in range(height):
            row, up, side = z[k, i], z[min(k + 1, depth - 1), i], z[k, min(i + 1, height - 1)]
            beside = row[1:]
            for x in range(width - 1):
                h[x] = (beside[x] - row[x]) * per_spacing
            h[width - 1] = _NONE
            for x in range(width):
                v = row[x]
                dz, dy = (up[x] - v) * per_spacing, (side[x] - v) * per_spacing
                length = np.sqrt(dz * dz + dy * dy + h[x] * h[x])
                rounded = length * length / (_TWO * rounding) if length < rounding else length - _HALF * rounding
                h[x], u[x] = rounded * per_gradient, abs(v) * per_eps
            _log1p_(u, w, d, power)
            _log1p_(h, w, d, power)
            a, b, pulled, earlier, factor = applied[k, i], linear[k, i], previous[k, i], before[k, i], local[k, i]
            for x in range(width):
                u[x] = factor[x] * (sparse * u[x] + smooth * h[x])
                half[x], away[x], moved[x] = _HALF * a[x] - b[x], row[x] - pulled[x], row[x] - earlier[x]
            _add_row(out[k], row, half, u, away, moved, half_inertia)
