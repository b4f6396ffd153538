"""Insertion of slices into a half volume on the CPU: trilinear scatter, row by row of an image's coefficients.

Threads write different slabs z0 <= z < z1 of the sums. Along a row of constant ky positions change by equal steps, so
the part of a row that falls into a slab is computed, not looked for. Every slab visits samples, rows and coefficients
in the same order, and no loop here is compiled with fastmath, which may round otherwise where a loop begins elsewhere:
sums are bitwise the same for any partition. (Vector instructions may be fused, but they are the same for every sample.)
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from halfmap.kernels.numba_cells import BLOCK, Vectors, place, place_curved

BORDER = 1e-3  # grid points by which a slab is taken to be thicker than it is: more than positions are rounded by


@intrinsic
def _add_to_rows(typingctx, sums, offset, stride_y, along_x, along_y, share, re, im, weight):
    """Add (re, im, weight) times share to the points (y, x), (y, x + 1), (y + 1, x) and (y + 1, x + 1) of a plane.

    sums: flat, three numbers a point; offset: of the first of the points.
    """
    number = sums.dtype
    signature = types.void(sums, types.intp, types.intp, *(number,) * 6)

    def code(context, builder, signature, arguments):
        flat, offset, stride_y, along_x, along_y, share, re, im, weight = arguments
        v = Vectors(context, builder, number)
        data, one = v.array(signature.args[0], flat).data, ir.Constant(v.number, 1.0)
        rest = v.less(one, along_x)
        first = v.times(v.made_of(re, im, weight, re), v.made_of(rest, rest, rest, along_x))
        second = v.times(v.made_of(im, weight), v.all(along_x, 2))
        beyond = v.times(share, along_y)
        for start, part in ((offset, v.less(share, beyond)), (builder.add(offset, stride_y), beyond)):
            after = builder.add(start, ir.Constant(offset.type, 4))
            v.store(v.add(v.load(data, start, 4), v.times(first, v.all(part, 4))), data, start)
            v.store(v.add(v.load(data, after, 2), v.times(second, v.all(part, 2))), data, after)
        return context.get_dummy_value()

    return signature, code


@njit(nogil=True, cache=True)
def _inverse(step):
    """1 / step; 0 where there is no step worth the name."""
    return 1.0 / step if abs(step) > 1e-12 else 0.0


@njit(nogil=True, cache=True)
def _stretch(x, step_x, per_x, z, step_z, per_z, low, high, count):
    """Range of those i < count where x + i step_x >= 0 and low <= z + i step_z < high, or a little more.

    per_x, per_z: 1 / step.
    """
    first, last = 0.0, count - 1.0
    if per_x == 0.0:
        if x < -BORDER:
            return 0, 0
    elif per_x > 0.0:
        first = max(first, (-BORDER - x) * per_x)
    else:
        last = min(last, (-BORDER - x) * per_x)
    below, above = (low - BORDER - z) * per_z, (high + BORDER - z) * per_z
    if per_z == 0.0:
        if not low - BORDER <= z < high + BORDER:
            return 0, 0
    elif per_z > 0.0:
        first, last = max(first, below), min(last, above)
    else:
        first, last = max(first, above), min(last, below)
    if last < first:
        return 0, 0
    return math.ceil(first), math.floor(last) + 1


@njit(nogil=True, cache=True)
def _step(u, v, rows):
    """How far one coefficient is from the next of its row: the same in all, so it is taken from the longest."""
    start, end = 0, 0
    for r in range(len(rows) - 1):
        if rows[r + 1] - rows[r] > end - start:
            start, end = rows[r], rows[r + 1]
    steps = max(end - 1 - start, 1)
    return float(u[end - 1] - u[start]) / steps, float(v[end - 1] - v[start]) / steps


@njit(nogil=True, cache=True)
def _least_square(u, v, step_u, step_v, count):
    """The least |(u, v)|^2 of a row that begins at u, v."""
    length = step_u * step_u + step_v * step_v
    nearest = min(max(-(u * step_u + v * step_v) / length, 0.0), count - 1.0) if length > 0.0 else 0.0
    return (u + nearest * step_u) ** 2 + (v + nearest * step_v) ** 2


@njit(nogil=True, cache=True)
def _moved(triple, sign, values, weights, kx, phase_x, phase_real, phase_imag, mass):
    """triple[3, k] = values[k, 2] times phase_x[kx, 2] times a phase, and weights[k], both ``mass`` times.

    Where the Friedel mate is inserted (sign -1), the conjugate.
    """
    for i in range(kx.shape[0]):
        ar, ai = phase_x[kx[i], 0], phase_x[kx[i], 1]
        cr, ci = ar * phase_real - ai * phase_imag, ar * phase_imag + ai * phase_real
        triple[0, i] = mass * (values[i, 0] * cr - values[i, 1] * ci)
        triple[1, i] = sign[i] * mass * (values[i, 0] * ci + values[i, 1] * cr)
        triple[2, i] = mass * weights[i]


@njit(nogil=True, cache=True)
def _add_within(sums, cell, fraction, triple, count, stride_y, stride_z, first, last):
    """Add triples [3, k] to the cells around ``count`` positions, in the planes of sums[first:last] only."""
    one = sums.dtype.type(1)
    for i in range(count):
        start, along = cell[i], fraction[2, i]
        if first <= start < last:
            _add_to_rows(sums, start, stride_y, fraction[0, i], fraction[1, i], one - along,
                         triple[0, i], triple[1, i], triple[2, i])
        start += stride_z
        if first <= start < last:
            _add_to_rows(sums, start, stride_y, fraction[0, i], fraction[1, i], along,
                         triple[0, i], triple[1, i], triple[2, i])


@njit(nogil=True, cache=True)
def take_range(out_values, out_weights, values, weights, used, order, start, stop):
    """out_values[j, k, 2], out_weights[j, k] = values and weights of the image used[j] at its coefficient order[k]
    (uint32), for j in [start, stop)."""
    for j in range(start, stop):
        b = used[j]
        for k in range(len(order)):
            out_values[j, k, 0] = values[b, order[k], 0]
            out_values[j, k, 1] = values[b, order[k], 1]
            out_weights[j, k] = weights[b, order[k]]


@njit(nogil=True, cache=True)
def insert_slab(accumulator, band, rows, values, weights, image, axes, curvature, phase_x, phase_y, mass, z0, z1):
    """Add samples j to the planes z0 <= z < z1 of accumulator[z, y, x, 3] (numerator re, im, weight).

    band: poses.band_arrays, in rows of constant ky that begin at rows[r], with kx ascending; rows ends with the number
    of coefficients. Sample j is values[image[j], k, 2] and weights[image[j], k], shifted by the phase tables
    phase_x[j, kx, 2] and phase_y[j, ky + limit, 2], seen from axes[j], counted mass[j] times. It is flat where
    curvature is None, and axes are [j, 2, 3]; otherwise it lies curvature[j] |(u, v)|^2 above its plane, and axes are
    [j, 3, 3].
    """
    u, v, kx, row = band.u, band.v, band.kx, band.row
    m, sums, dtype = accumulator.shape[2] - 1, accumulator.reshape(-1), accumulator.dtype
    cell, sign, triple = np.empty(BLOCK, np.int64), np.empty(BLOCK, dtype), np.empty((3, BLOCK), dtype)
    fraction, centre = np.empty((3, BLOCK), dtype), dtype.type(m)
    stride_y = 3 * (m + 1)
    stride_z = stride_y * (2 * m + 1)
    step_u, step_v = _step(u, v, rows)
    bottom, top = z0 - 1 - m - BORDER, z1 - m + BORDER
    for j in range(len(image)):
        b = image[j]
        ax, az, bx, bz = axes[j, 0, 0], axes[j, 0, 2], axes[j, 1, 0], axes[j, 1, 2]
        step_x, step_z = step_u * ax + step_v * bx, step_u * az + step_v * bz
        per_x, per_z = _inverse(step_x), _inverse(step_z)
        for r in range(len(rows) - 1):
            start, count = rows[r], rows[r + 1] - rows[r]
            x, z = float(u[start] * ax + v[start] * bx), float(u[start] * az + v[start] * bz)
            last_z = z + (count - 1) * step_z
            # How far a curved slice leaves its plane along x and z, at the least and at the most.
            low_x, high_x, low_z, high_z = 0.0, 0.0, 0.0, 0.0
            if curvature is not None:
                cx, cz = curvature[j] * axes[j, 2, 0], curvature[j] * axes[j, 2, 2]
                end = start + count - 1
                near = _least_square(float(u[start]), float(v[start]), step_u, step_v, count)
                far = max(float(u[start]) ** 2 + float(v[start]) ** 2, float(u[end]) ** 2 + float(v[end]) ** 2)
                low_x, high_x = min(near * cx, far * cx), max(near * cx, far * cx)
                low_z, high_z = min(near * cz, far * cz), max(near * cz, far * cz)
            lowest, highest = min(z, last_z) + low_z, max(z, last_z) + high_z
            if (highest < bottom or lowest > top) and (-lowest < bottom or -highest > top):
                continue
            own = _stretch(x + high_x, step_x, per_x, m + z, step_z, per_z, z0 - 1.0 - high_z, z1 - low_z, count)
            mates = _stretch(-x - low_x, -step_x, -per_x, m - z, -step_z, -per_z, z0 - 1.0 + low_z, z1 + high_z, count)
            if own[1] <= own[0] or (own[0] > mates[0] and mates[1] > mates[0]):
                own, mates = mates, own
            through = own[1]
            pr, pi = phase_y[j, row[start], 0], phase_y[j, row[start], 1]
            for begin, stop in (own, (max(mates[0], through), mates[1])):
                for k in range(start + begin, start + stop, BLOCK):
                    ends = min(k + BLOCK, start + stop)
                    if curvature is None:
                        place(cell, fraction, sign, u[k:ends], v[k:ends], axes[j], centre, stride_y, stride_z, 3)
                    else:
                        place_curved(cell, fraction, sign, u[k:ends], v[k:ends], curvature[j], axes[j], centre,
                                     stride_y, stride_z, 3)
                    _moved(triple, sign, values[b, k:ends], weights[b, k:ends], kx[k:ends], phase_x[j], pr, pi, mass[j])
                    _add_within(sums, cell, fraction, triple, ends - k, stride_y, stride_z, z0 * stride_z,
                                z1 * stride_z)
