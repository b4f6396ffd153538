"""Slices of a Hermitian half volume on the CPU: trilinear gather (projection).

Volumes are float arrays [z, y, x, 2] (real, imaginary), x = 0..m, z and y centred at m; positions are band coordinates
times the padding factor.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from halfmap.kernels.numba_cells import BLOCK, place, place_curved, read_rows


@njit(nogil=True, cache=True, fastmath=True)
def project_range(out, volume, m, u, v, axes, curvature, start, stop):
    """out[r, k, 2] = volume at u[k] * axes[r, 0] + v[k] * axes[r, 1] for r in [start, stop).

    volume: flat half volume [z, y, x, 2] that reaches to m. curvature [r]: how many times |(u, v)|^2 above the plane of
    its slice each value lies, along axes[r, 2]; None: on it.
    """
    cell, sign, rows = np.empty(BLOCK, np.int64), np.empty(BLOCK, out.dtype), np.empty((1, BLOCK, 4), out.dtype)
    fraction, centre = np.empty((3, BLOCK), out.dtype), axes.dtype.type(m)
    stride_y = 2 * (m + 1)
    stride_z = stride_y * (2 * m + 1)
    for r in range(start, stop):
        for k in range(0, len(u), BLOCK):
            end = min(k + BLOCK, len(u))
            if curvature is None:
                place(cell, fraction, sign, u[k:end], v[k:end], axes[r], centre, stride_y, stride_z, 2)
            else:
                place_curved(cell, fraction, sign, u[k:end], v[k:end], curvature[r], axes[r], centre, stride_y,
                             stride_z, 2)
            read_rows(rows, volume, cell, fraction, end - k, stride_y, stride_z)
            _across_rows(out[r, k:end], rows[0], fraction[0], sign)


@njit(nogil=True, cache=True, fastmath=True)
def _across_rows(out, rows, along, sign):
    """out[k, 2] = values between the two points of rows[k, 4]; of Friedel mates (sign -1), the conjugate."""
    for i in range(out.shape[0]):
        out[i, 0] = rows[i, 0] + along[i] * (rows[i, 2] - rows[i, 0])
        out[i, 1] = sign[i] * (rows[i, 1] + along[i] * (rows[i, 3] - rows[i, 1]))
