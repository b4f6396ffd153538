"""The log-likelihood of an image at a pose, its gradient and its Gauss-Newton precision, on the CPU.

The eight points gathered for a trilinear value also give its gradient, so the Jacobian of a slice with respect to three
rotations and two shifts costs little more than the slice.

Rotations are left perturbations in the image frame, R <- exp([w]x) R, so that with g = R grad V
dV = g_x v w_z - g_y u w_z + g_z (u w_y - v w_x) at the coefficient (u, v). Shifts act through the rotated data,
y exp(+2 pi i k.t / n), which keeps the reference free of phases.

Coefficients are dealt with in blocks, in three passes of which the first and the last are vectorised over coefficients:
where they lie in the volume, what is there, and what it adds to the sums.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from halfmap.kernels.numba_cells import BLOCK, place, read_rows_and_slopes


@njit(nogil=True, cache=True)
def room_for(limit, dtype):
    """Working memory of `evaluate` for images whose coefficients lie within +-``limit``."""
    return (
        np.empty(BLOCK, np.int64), np.empty((3, BLOCK), dtype), np.empty(BLOCK, dtype), np.empty((3, BLOCK, 4), dtype),
        np.empty((3, 3), dtype), np.empty((2, limit + 1), dtype), np.empty((2, 2 * limit + 1), dtype), np.empty(21),
    )  # fmt: skip


@njit(nogil=True, cache=True, fastmath=True)
def phase_table(table, shift, box, centre):
    """table[:, i] = exp(2 pi i (i - centre) shift / box), real and imaginary part."""
    for i in range(table.shape[1]):
        angle = 2.0 * math.pi * (i - centre) * shift / box
        table[0, i] = math.cos(angle)
        table[1, i] = math.sin(angle)


@njit(nogil=True, cache=True, fastmath=True)
def _add_block(sums, found, fraction, sign, u, v, kx, row, y, c, rot, phase_x, phase_y, limit, freq):
    """Add a block of coefficients to sums[21]: upper triangle of J J^T (15), J r (5), and |y|^2 - |y - m|^2.

    found[3, k, 4]: rows of the volume and their slopes; kx, row = ky + limit: unsigned, as indices that are never
    negative; other arguments are those of the block.
    """
    r00, r01, r02 = rot[0, 0], rot[0, 1], rot[0, 2]
    r10, r11, r12 = rot[1, 0], rot[1, 1], rot[1, 2]
    r20, r21, r22 = rot[2, 0], rot[2, 1], rot[2, 2]
    s00 = s01 = s02 = s03 = s04 = s11 = s12 = s13 = s14 = s22 = s23 = s24 = s33 = s34 = s44 = rot.dtype.type(0)
    r0 = r1 = r2 = r3 = r4 = gain = rot.dtype.type(0)
    for i in range(u.shape[0]):
        along = fraction[0, i]
        # V(q) = conj V(-q): of a mate, the imaginary part and the real parts of the gradient change their sign.
        ck = c[i]
        turned = ck * sign[i]
        dxr, dxi = found[0, i, 2] - found[0, i, 0], found[0, i, 3] - found[0, i, 1]
        vr, vi = ck * (found[0, i, 0] + along * dxr), turned * (found[0, i, 1] + along * dxi)
        dyr = turned * (found[1, i, 0] + along * (found[1, i, 2] - found[1, i, 0]))
        dyi = ck * (found[1, i, 1] + along * (found[1, i, 3] - found[1, i, 1]))
        dzr = turned * (found[2, i, 0] + along * (found[2, i, 2] - found[2, i, 0]))
        dzi = ck * (found[2, i, 1] + along * (found[2, i, 3] - found[2, i, 1]))
        dxr, dxi = turned * dxr, ck * dxi
        gxr, gxi = r00 * dxr + r01 * dyr + r02 * dzr, r00 * dxi + r01 * dyi + r02 * dzi
        gyr, gyi = r10 * dxr + r11 * dyr + r12 * dzr, r10 * dxi + r11 * dyi + r12 * dzi
        gzr, gzi = r20 * dxr + r21 * dyr + r22 * dzr, r20 * dxi + r21 * dyi + r22 * dzi
        ar, ai, br, bi = phase_x[0, kx[i]], phase_x[1, kx[i]], phase_y[0, row[i]], phase_y[1, row[i]]
        pr, pi = ar * br - ai * bi, ar * bi + ai * br
        yr, yi = y[i, 0] * pr - y[i, 1] * pi, y[i, 0] * pi + y[i, 1] * pr
        dr, di = yr - vr, yi - vi
        gain += (yr + dr) * vr + (yi + di) * vi
        p, q = u[i], v[i]
        fx = freq * rot.dtype.type(np.int32(kx[i]))
        fy = freq * (rot.dtype.type(np.int32(row[i])) - limit)
        j0r, j0i, j1r, j1i = -q * gzr, -q * gzi, p * gzr, p * gzi
        j2r, j2i = q * gxr - p * gyr, q * gxi - p * gyi
        j3r, j3i, j4r, j4i = fx * vi, -fx * vr, fy * vi, -fy * vr
        s00 += j0r * j0r + j0i * j0i
        s01 += j0r * j1r + j0i * j1i
        s02 += j0r * j2r + j0i * j2i
        s03 += j0r * j3r + j0i * j3i
        s04 += j0r * j4r + j0i * j4i
        s11 += j1r * j1r + j1i * j1i
        s12 += j1r * j2r + j1i * j2i
        s13 += j1r * j3r + j1i * j3i
        s14 += j1r * j4r + j1i * j4i
        s22 += j2r * j2r + j2i * j2i
        s23 += j2r * j3r + j2i * j3i
        s24 += j2r * j4r + j2i * j4i
        s33 += j3r * j3r + j3i * j3i
        s34 += j3r * j4r + j3i * j4i
        s44 += j4r * j4r + j4i * j4i
        r0 += j0r * dr + j0i * di
        r1 += j1r * dr + j1i * di
        r2 += j2r * dr + j2i * di
        r3 += j3r * dr + j3i * di
        r4 += j4r * dr + j4i * di
    values = (s00, s01, s02, s03, s04, s11, s12, s13, s14, s22, s23, s24, s33, s34, s44, r0, r1, r2, r3, r4, gain)
    for i in range(21):
        sums[i] += values[i]


@njit(nogil=True, cache=True)
def evaluate(volume, m, band, y, c, rotation, shift, box, prior, room, hessian, gradient):
    """Objective (gain + shift prior), its gradient [5] and Gauss-Newton precision [5, 5] at one pose.

    volume: flat half volume [z, y, x, 2] that reaches to m; band: poses.band_arrays; y[k, 2], c[k]: whitened image and
    CTF; room: from `room_for`.
    """
    cell, fraction, sign, found, rot, phase_x, phase_y, sums = room
    u, v, kx, row, limit = band.u, band.v, band.kx, band.row, band.limit
    for i in range(3):  # an assignment of whole arrays takes Numba seconds to compile
        for j in range(3):
            rot[i, j] = rotation[i, j]
    phase_table(phase_x, shift[0], box, 0)
    phase_table(phase_y, shift[1], box, limit)
    sums[:] = 0.0
    freq, centre = rot.dtype.type(2.0 * math.pi / box), rot.dtype.type(m)
    stride_y = 2 * (m + 1)
    stride_z = stride_y * (2 * m + 1)
    for k in range(0, len(u), BLOCK):
        end = min(k + BLOCK, len(u))
        place(cell, fraction, sign, u[k:end], v[k:end], rot, centre, stride_y, stride_z, 2)
        read_rows_and_slopes(found, volume, cell, fraction, end - k, stride_y, stride_z)
        _add_block(sums, found, fraction, sign, u[k:end], v[k:end], kx[k:end], row[k:end], y[k:end], c[k:end], rot,
                   phase_x, phase_y, rot.dtype.type(limit), freq)
    n = 0
    for i in range(5):
        for j in range(i, 5):
            hessian[i, j] = hessian[j, i] = 2.0 * sums[n]
            n += 1
        gradient[i] = 2.0 * sums[15 + i]
    total = sums[20]
    for i in range(2):
        total -= 0.5 * prior * shift[i] * shift[i]
        gradient[3 + i] -= prior * shift[i]
        hessian[3 + i, 3 + i] += prior
    return total
