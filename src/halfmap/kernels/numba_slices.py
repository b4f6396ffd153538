"""Slices of a Hermitian half volume on the CPU: trilinear gather (projection) and scatter (insertion).

Volumes are float arrays [z, y, x, 2] (real, imaginary), x = 0..m, z and y centred at m; positions are band coordinates
times the padding factor. Indices are taken as ``int(z)`` of positions made non-negative by the margin of the half
volume: rounding a negative position towards zero would let two slabs write one plane.

float32 stays float32: an integer is subtracted as int16, because float32 with a wider integer promotes to float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from halfmap.kernels.numba_cells import BLOCK, place, read_rows


@njit(nogil=True, cache=True, fastmath=True)
def project_range(out, volume, m, u, v, axes, start, stop):
    """out[r, k, 2] = volume at u[k] * axes[r, 0] + v[k] * axes[r, 1] for r in [start, stop).

    volume: flat half volume [z, y, x, 2] that reaches to m.
    """
    cell, sign, rows = np.empty(BLOCK, np.int64), np.empty(BLOCK, out.dtype), np.empty((BLOCK, 4), out.dtype)
    fraction, centre = np.empty((3, BLOCK), out.dtype), axes.dtype.type(m)
    stride_y = 2 * (m + 1)
    stride_z = stride_y * (2 * m + 1)
    for r in range(start, stop):
        for k in range(0, len(u), BLOCK):
            end = min(k + BLOCK, len(u))
            place(cell, fraction, sign, u[k:end], v[k:end], axes[r], centre, stride_y, stride_z, 2)
            read_rows(rows, volume, cell, fraction, end - k, stride_y, stride_z)
            _across_rows(out[r, k:end], rows, fraction[0], sign)


@njit(nogil=True, cache=True, fastmath=True)
def _across_rows(out, rows, along, sign):
    """out[k, 2] = values between the two points of rows[k, 4]; of Friedel mates (sign -1), the conjugate."""
    for i in range(out.shape[0]):
        out[i, 0] = rows[i, 0] + along[i] * (rows[i, 2] - rows[i, 0])
        out[i, 1] = sign[i] * (rows[i, 1] + along[i] * (rows[i, 3] - rows[i, 1]))


@njit(nogil=True, cache=True, fastmath=True)
def insert_slab(accumulator, values, weights, kxy, coords, sample_image, axes, phase_x, phase_y, mass, z0, z1):
    """Add samples j to the planes z0 <= z < z1 of accumulator[z, y, x, 3] (numerator re, im, weight).

    Sample j is image ``sample_image[j]`` of values[b, k, 2], weights[b, k], shifted by the phase tables
    phase_x[j, kx, 2] and phase_y[j, ky + limit, 2], seen from axes[j], counted ``mass[j]`` times. Every slab visits all
    samples in the same order and writes its own planes only, so sums are bitwise the same for any partition.
    """
    m = (accumulator.shape[0] - 1) // 2
    centre = np.int16(m)
    one = np.int16(1)
    limit = (phase_y.shape[1] - 1) // 2
    for j in range(sample_image.shape[0]):
        b = sample_image[j]
        ax, ay, az = axes[j, 0, 0], axes[j, 0, 1], axes[j, 0, 2]
        bx, by, bz = axes[j, 1, 0], axes[j, 1, 1], axes[j, 1, 2]
        for k in range(coords.shape[0]):
            u, v = coords[k, 0], coords[k, 1]
            x = u * ax + v * bx
            z = u * az + v * bz
            flip = x < 0
            if flip:
                x, z = -x, -z
            z += centre
            zi = int(z)
            if zi + 1 < z0 or zi >= z1:
                continue
            y = u * ay + v * by
            if flip:
                y = -y
            y += centre
            xi, yi = int(x), int(y)
            fx, fy, fz = x - np.int16(xi), y - np.int16(yi), z - np.int16(zi)
            gx, gy = one - fx, one - fy
            kx, ky = kxy[k, 0], kxy[k, 1] + limit
            cr = phase_x[j, kx, 0] * phase_y[j, ky, 0] - phase_x[j, kx, 1] * phase_y[j, ky, 1]
            ci = phase_x[j, kx, 0] * phase_y[j, ky, 1] + phase_x[j, kx, 1] * phase_y[j, ky, 0]
            vr, vi = values[b, k, 0], values[b, k, 1]
            re = mass[j] * (vr * cr - vi * ci)
            im = mass[j] * (vr * ci + vi * cr)
            if flip:
                im = -im
            w = mass[j] * weights[b, k]
            for dz in range(2):
                zz = zi + dz
                if zz < z0 or zz >= z1:
                    continue
                hz = fz if dz == 1 else one - fz
                for dy in range(2):
                    hy = hz * (fy if dy == 1 else gy)
                    c0, c1 = hy * gx, hy * fx
                    accumulator[zz, yi + dy, xi, 0] += c0 * re
                    accumulator[zz, yi + dy, xi, 1] += c0 * im
                    accumulator[zz, yi + dy, xi, 2] += c0 * w
                    accumulator[zz, yi + dy, xi + 1, 0] += c1 * re
                    accumulator[zz, yi + dy, xi + 1, 1] += c1 * im
                    accumulator[zz, yi + dy, xi + 1, 2] += c1 * w
