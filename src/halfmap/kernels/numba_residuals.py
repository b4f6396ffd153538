"""What images and their models at given poses have in common, and what is left, by shell, on the CPU.

One pass over the coefficients of an image: where they lie in the volume, what is there, and what it adds to the sums
of its shell. Numbers of a block are added up in the arrays' precision, blocks in float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from halfmap.kernels.numba_cells import BLOCK, place, read_rows
from halfmap.kernels.numba_objective import phase_table


@njit(nogil=True, cache=True, fastmath=True)
def _add_block(sums, rows, along, sign, kx, row, y, c, weight, scale, phase_x, phase_y):
    """Add a block of coefficients of one shell to sums[6] of `residual_range`. rows[k, 4], along, sign: what was read
    of the volume, and where."""
    zero = scale.dtype.type(0)
    power = square = cross_above = cross_below = norm_above = norm_below = zero
    s = scale[0]
    for i in range(y.shape[0]):
        ar, ai, br, bi = phase_x[0, kx[i]], phase_x[1, kx[i]], phase_y[0, row[i]], phase_y[1, row[i]]
        pr, pi = ar * br - ai * bi, ar * bi + ai * br
        yr, yi = y[i, 0] * pr - y[i, 1] * pi, y[i, 0] * pi + y[i, 1] * pr
        ck = c[i]
        mr = ck * (rows[i, 0] + along[i] * (rows[i, 2] - rows[i, 0]))
        mi = ck * sign[i] * (rows[i, 1] + along[i] * (rows[i, 3] - rows[i, 1]))
        dr, di = yr - s * mr, yi - s * mi
        product, norm = yr * mr + yi * mi, mr * mr + mi * mi
        power += weight[i] * (dr * dr + di * di)
        square += weight[i] * norm
        above = ck > zero
        cross_above += product if above else zero
        norm_above += norm if above else zero
        cross_below += zero if above else product
        norm_below += zero if above else norm
    values = (power, square, cross_above, cross_below, norm_above, norm_below)
    for i in range(6):
        sums[i] += values[i]


@njit(nogil=True, cache=True)
def residual_range(out, volume, m, band, edges, y, c, weight, scale, axes, shifts, box, start, stop):
    """out[b, s, 6] for the images b in [start, stop): sums over their shells, as `ResidualSums` has them.

    volume: flat half volume [z, y, x, 2] that reaches to m; band: poses.band_arrays, where shell s is the stretch from
    edges[s] to edges[s + 1]; y[b, k, 2], c[b, k]; weight[b, k], or [1, k] for all images; scale[b]; axes[b, 2, 3],
    shifts[b, 2]: the poses.
    """
    cell, sign, rows = np.empty(BLOCK, np.int64), np.empty(BLOCK, c.dtype), np.empty((1, BLOCK, 4), c.dtype)
    fraction, centre = np.empty((3, BLOCK), c.dtype), axes.dtype.type(m)
    phase_x, phase_y = np.empty((2, band.limit + 1), c.dtype), np.empty((2, 2 * band.limit + 1), c.dtype)
    stride_y = 2 * (m + 1)
    stride_z = stride_y * (2 * m + 1)
    for b in range(start, stop):
        phase_table(phase_x, shifts[b, 0], box, 0)
        phase_table(phase_y, shifts[b, 1], box, band.limit)
        w = weight[b if len(weight) > 1 else 0]
        for s in range(len(edges) - 1):
            out[b, s, :] = 0.0
            for k in range(edges[s], edges[s + 1], BLOCK):
                end = min(k + BLOCK, edges[s + 1])
                place(cell, fraction, sign, band.u[k:end], band.v[k:end], axes[b], centre, stride_y, stride_z, 2)
                read_rows(rows, volume, cell, fraction, end - k, stride_y, stride_z)
                _add_block(out[b, s], rows[0], fraction[0], sign, band.kx[k:end], band.row[k:end], y[b, k:end],
                           c[b, k:end], w[k:end], scale[b : b + 1], phase_x, phase_y)
