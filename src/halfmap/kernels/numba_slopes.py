"""Products of the slopes of slices of two volumes, added up over images, on the CPU.

The eight points that are gathered for a trilinear value also give its slope, so that a volume is read once for both.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from halfmap.kernels.numba_cells import BLOCK, place, read_rows_and_slopes


@njit(nogil=True, cache=True, fastmath=True)
def _add_block(out, found, beside, fraction, sign, axes, y, weight):
    """Add the products of one image at a block of coefficients to out[5, k] of `slope_range`.

    found[3, k, 4], beside[3, k, 4]: rows of both volumes and their slopes, at the same places.
    """
    ax, ay, az = axes[0, 0], axes[0, 1], axes[0, 2]
    bx, by, bz = axes[1, 0], axes[1, 1], axes[1, 2]
    half = axes.dtype.type(0.5)
    for i in range(y.shape[0]):
        along, s, w = fraction[0, i], sign[i], weight[i]
        xr, xi = found[0, i, 2] - found[0, i, 0], found[0, i, 3] - found[0, i, 1]
        yr = found[1, i, 0] + along * (found[1, i, 2] - found[1, i, 0])
        yi = found[1, i, 1] + along * (found[1, i, 3] - found[1, i, 1])
        zr = found[2, i, 0] + along * (found[2, i, 2] - found[2, i, 0])
        zi = found[2, i, 1] + along * (found[2, i, 3] - found[2, i, 1])
        # V(q) = conj V(-q): of a mate, the imaginary part and the real parts of the slopes change their sign.
        gxr, gxi = s * (ax * xr + ay * yr + az * zr), ax * xi + ay * yi + az * zi
        gyr, gyi = s * (bx * xr + by * yr + bz * zr), bx * xi + by * yi + bz * zi
        xr, xi = beside[0, i, 2] - beside[0, i, 0], beside[0, i, 3] - beside[0, i, 1]
        pr, pi = beside[0, i, 0] + along * xr, s * (beside[0, i, 1] + along * xi)
        yr = beside[1, i, 0] + along * (beside[1, i, 2] - beside[1, i, 0])
        yi = beside[1, i, 1] + along * (beside[1, i, 3] - beside[1, i, 1])
        zr = beside[2, i, 0] + along * (beside[2, i, 2] - beside[2, i, 0])
        zi = beside[2, i, 1] + along * (beside[2, i, 3] - beside[2, i, 1])
        hxr, hxi = s * (ax * xr + ay * yr + az * zr), ax * xi + ay * yi + az * zi
        hyr, hyi = s * (bx * xr + by * yr + bz * zr), bx * xi + by * yi + bz * zi
        rr, ri = y[i, 0] - w * pr, y[i, 1] - w * pi
        out[0, i] += w * (gxr * hxr + gxi * hxi)
        out[1, i] += half * w * (gxr * hyr + gxi * hyi + gyr * hxr + gyi * hxi)
        out[2, i] += w * (gyr * hyr + gyi * hyi)
        out[3, i] += gxr * rr + gxi * ri
        out[4, i] += gyr * rr + gyi * ri


@njit(nogil=True, cache=True)
def slope_range(out, volume, mate, m, u, v, axes, y, weight, start, stop):
    """Add to out[5, k], for coefficients k in [start, stop), the sums over all images of `slopes.slope_sums`.

    volume, mate: flat half volumes [z, y, x, 2] that reach to m; u, v [k]: coefficients; axes[b, 2, 3]; y[b, k, 2],
    weight[b, k].
    """
    number = axes.dtype
    cell, sign, fraction = np.empty(BLOCK, np.int64), np.empty(BLOCK, number), np.empty((3, BLOCK), number)
    found, beside = np.empty((3, BLOCK, 4), number), np.empty((3, BLOCK, 4), number)
    centre = number.type(m)
    stride_y = 2 * (m + 1)
    stride_z = stride_y * (2 * m + 1)
    for b in range(len(axes)):
        for k in range(start, stop, BLOCK):
            end = min(k + BLOCK, stop)
            place(cell, fraction, sign, u[k:end], v[k:end], axes[b], centre, stride_y, stride_z, 2)
            read_rows_and_slopes(found, volume, cell, fraction, end - k, stride_y, stride_z)
            read_rows_and_slopes(beside, mate, cell, fraction, end - k, stride_y, stride_z)
            _add_block(out[:, k:end], found, beside, fraction, sign, axes[b], y[b, k:end], weight[b, k:end])
