"""Back-projection on the CPU with a Gaussian of three grid points along each axis, the local kernel of OPUS-SSRI.

See numba_insertion.py for the arrays, and for how slabs divide the writing. Here a slab looks at every coefficient.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Integral of exp(-d^2 / 2) over the width of three grid points. Divided by it, weights add up to 1 on average.
TOTAL = math.sqrt(2 * math.pi) * math.erf(1.5 / math.sqrt(2))
_FALL = math.exp(-0.5)


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _weigh(weight, axis, f, constant):
    """Fill weight[axis, :] for the grid points before, nearest to and after a position that is f beyond the nearest."""
    middle = constant[0] * np.exp(constant[1] * f * f)
    growth = np.exp(f)
    weight[axis, 0] = constant[2] * middle / growth
    weight[axis, 1] = middle
    weight[axis, 2] = constant[2] * middle * growth


@njit(nogil=True, cache=True, fastmath=True)
def insert_gaussian_slab(
    accumulator, band, rows, values, weights, image, axes, curvature, phase_x, phase_y, mass, z0, z1
):
    """Like numba_insertion.insert_slab, but a sample is added to the nearest grid point and the 26 around it, each at
    distance d with weight exp(-|d|^2 / 2) / TOTAL^3."""
    m = (accumulator.shape[0] - 1) // 2
    centre = np.int16(m)
    weight, constant = np.empty((3, 3), accumulator.dtype), np.empty(4, accumulator.dtype)
    constant[0], constant[1], constant[2], constant[3] = 1.0 / TOTAL, -0.5, _FALL, 0.5
    half = constant[3]
    for j in range(len(image)):
        b = image[j]
        ax, ay, az = axes[j, 0, 0], axes[j, 0, 1], axes[j, 0, 2]
        bx, by, bz = axes[j, 1, 0], axes[j, 1, 1], axes[j, 1, 2]
        if curvature is not None:
            cx, cy, cz = curvature[j] * axes[j, 2, 0], curvature[j] * axes[j, 2, 1], curvature[j] * axes[j, 2, 2]
        for k in range(len(band.u)):
            u, v = band.u[k], band.v[k]
            x = u * ax + v * bx
            z = u * az + v * bz
            if curvature is not None:
                square = u * u + v * v
                x += square * cx
                z += square * cz
            flip = x < 0
            if flip:
                x, z = -x, -z
            z += centre
            xi, zi = int(x + half), int(z + half)
            mirrored = 2 * m - zi
            here = zi + 1 >= z0 and zi - 1 < z1
            # The points at x = -1 are stored as their Friedel mates.
            across = xi == 0 and mirrored + 1 >= z0 and mirrored - 1 < z1
            if not (here or across):
                continue
            y = u * ay + v * by
            if curvature is not None:
                y += square * cy
            if flip:
                y = -y
            y += centre
            yi = int(y + half)
            _weigh(weight, 0, z - np.int16(zi), constant)
            _weigh(weight, 1, y - np.int16(yi), constant)
            _weigh(weight, 2, x - np.int16(xi), constant)
            kx, ky = band.kx[k], band.row[k]
            cr = phase_x[j, kx, 0] * phase_y[j, ky, 0] - phase_x[j, kx, 1] * phase_y[j, ky, 1]
            ci = phase_x[j, kx, 0] * phase_y[j, ky, 1] + phase_x[j, kx, 1] * phase_y[j, ky, 0]
            vr, vi = values[b, k, 0], values[b, k, 1]
            re = mass[j] * (vr * cr - vi * ci)
            im = mass[j] * (vr * ci + vi * cr)
            if flip:
                im = -im
            w = mass[j] * weights[b, k]
            for dz in range(3):
                zz = zi + dz - 1
                mate = 2 * m - zz
                for dy in range(3):
                    plane = weight[0, dz] * weight[1, dy]
                    yy = yi + dy - 1
                    if z0 <= zz < z1:
                        for dx in range(1 if xi == 0 else 0, 3):
                            c = plane * weight[2, dx]
                            accumulator[zz, yy, xi + dx - 1, 0] += c * re
                            accumulator[zz, yy, xi + dx - 1, 1] += c * im
                            accumulator[zz, yy, xi + dx - 1, 2] += c * w
                    if across and z0 <= mate < z1:
                        c = plane * weight[2, 0]
                        accumulator[mate, 2 * m - yy, 1, 0] += c * re
                        accumulator[mate, 2 * m - yy, 1, 1] -= c * im
                        accumulator[mate, 2 * m - yy, 1, 2] += c * w
