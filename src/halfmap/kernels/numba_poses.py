"""Gauss-Newton pose refinement on the CPU.

The eight corners gathered for a trilinear value also give its gradient, so the Jacobian of a slice with respect to
three rotations and two shifts costs little more than the slice. A Levenberg-Marquardt step is accepted only if the
log-likelihood rises; the trial evaluation already holds the next Jacobian.

Rotations are left perturbations in the image frame, R <- exp([w]x) R, so that with g = R grad V
dV = g_x v w_z - g_y u w_z + g_z (u w_y - v w_x) at the coefficient (u, v). Shifts act through the rotated data,
y exp(+2 pi i k.t / n), which keeps the reference free of phases.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

BLOCK = 256  # coefficients whose Jacobian stays in the first-level cache


@njit(nogil=True, cache=True, fastmath=True)
def _phase_table(table, shift, box, centre):
    """table[i, :] = exp(2 pi i (i - centre) shift / box)."""
    for i in range(table.shape[0]):
        angle = 2.0 * math.pi * (i - centre) * shift / box
        table[i, 0] = math.cos(angle)
        table[i, 1] = math.sin(angle)


@njit(nogil=True, cache=True, fastmath=True)
def _jacobian(work, volume, coords, kxy, y, c, rot, phase_x, phase_y, freq, k0, count):
    """Fill work[0:5, :2 count] with the Jacobian, work[5] with the residual; return the log-likelihood gain."""
    m = (volume.shape[0] - 1) // 2
    centre = np.int16(m)
    one = np.int16(1)
    limit = (phase_y.shape[0] - 1) // 2
    gain = rot[0, 0] * np.int16(0)
    for i in range(count):
        k = k0 + i
        u, v = coords[k, 0], coords[k, 1]
        px = u * rot[0, 0] + v * rot[1, 0]
        py = u * rot[0, 1] + v * rot[1, 1]
        pz = u * rot[0, 2] + v * rot[1, 2]
        flip = px < 0
        if flip:
            px, py, pz = -px, -py, -pz
        py += centre
        pz += centre
        xi, yi, zi = int(px), int(py), int(pz)
        fx, fy, fz = px - np.int16(xi), py - np.int16(yi), pz - np.int16(zi)
        gx, gy, gz = one - fx, one - fy, one - fz
        vr = vi = dxr = dxi = dyr = dyi = dzr = dzi = gain * np.int16(0)
        for part in range(2):
            a00, a01 = volume[zi, yi, xi, part], volume[zi, yi, xi + 1, part]
            a10, a11 = volume[zi, yi + 1, xi, part], volume[zi, yi + 1, xi + 1, part]
            b00, b01 = volume[zi + 1, yi, xi, part], volume[zi + 1, yi, xi + 1, part]
            b10, b11 = volume[zi + 1, yi + 1, xi, part], volume[zi + 1, yi + 1, xi + 1, part]
            a0, a1 = gx * a00 + fx * a01, gx * a10 + fx * a11
            b0, b1 = gx * b00 + fx * b01, gx * b10 + fx * b11
            a, b = gy * a0 + fy * a1, gy * b0 + fy * b1
            value = gz * a + fz * b
            ddz = b - a
            ddy = gz * (a1 - a0) + fz * (b1 - b0)
            ddx = gz * (gy * (a01 - a00) + fy * (a11 - a10)) + fz * (gy * (b01 - b00) + fy * (b11 - b10))
            if part == 0:
                vr, dxr, dyr, dzr = value, ddx, ddy, ddz
            else:
                vi, dxi, dyi, dzi = value, ddx, ddy, ddz
        if flip:
            # V(q) = conj V(-q): the gradient changes sign in its real part only
            vi, dxr, dyr, dzr = -vi, -dxr, -dyr, -dzr
        ck = c[k]
        vr *= ck
        vi *= ck
        grx = ck * (rot[0, 0] * dxr + rot[0, 1] * dyr + rot[0, 2] * dzr)
        gix = ck * (rot[0, 0] * dxi + rot[0, 1] * dyi + rot[0, 2] * dzi)
        gry = ck * (rot[1, 0] * dxr + rot[1, 1] * dyr + rot[1, 2] * dzr)
        giy = ck * (rot[1, 0] * dxi + rot[1, 1] * dyi + rot[1, 2] * dzi)
        grz = ck * (rot[2, 0] * dxr + rot[2, 1] * dyr + rot[2, 2] * dzr)
        giz = ck * (rot[2, 0] * dxi + rot[2, 1] * dyi + rot[2, 2] * dzi)
        kx, ky = kxy[k, 0], kxy[k, 1]
        iy = ky + limit
        cr = phase_x[kx, 0] * phase_y[iy, 0] - phase_x[kx, 1] * phase_y[iy, 1]
        ci = phase_x[kx, 0] * phase_y[iy, 1] + phase_x[kx, 1] * phase_y[iy, 0]
        yr = y[k, 0] * cr - y[k, 1] * ci
        yim = y[k, 0] * ci + y[k, 1] * cr
        dr, di = yr - vr, yim - vi
        gain += (yr + dr) * vr + (yim + di) * vi  # |y|^2 - |y - m|^2
        j = 2 * i
        work[0, j], work[0, j + 1] = -v * grz, -v * giz
        work[1, j], work[1, j + 1] = u * grz, u * giz
        work[2, j], work[2, j + 1] = v * grx - u * gry, v * gix - u * giy
        fkx, fky = freq * np.int16(kx), freq * np.int16(ky)
        work[3, j], work[3, j + 1] = fkx * vi, -fkx * vr
        work[4, j], work[4, j + 1] = fky * vi, -fky * vr
        work[5, j], work[5, j + 1] = dr, di
    return gain


@njit(nogil=True, cache=True, fastmath=True)
def _accumulate(work, count, sums):
    """sums[0:20] += upper triangle of J J^T (15) and J r (5), over ``count`` real numbers."""
    s00 = s01 = s02 = s03 = s04 = s11 = s12 = s13 = s14 = s22 = s23 = s24 = s33 = s34 = s44 = work[0, 0] * np.int16(0)
    r0 = r1 = r2 = r3 = r4 = s00
    for i in range(count):
        a, b, c, d, e, r = work[0, i], work[1, i], work[2, i], work[3, i], work[4, i], work[5, i]
        s00 += a * a
        s01 += a * b
        s02 += a * c
        s03 += a * d
        s04 += a * e
        s11 += b * b
        s12 += b * c
        s13 += b * d
        s14 += b * e
        s22 += c * c
        s23 += c * d
        s24 += c * e
        s33 += d * d
        s34 += d * e
        s44 += e * e
        r0 += a * r
        r1 += b * r
        r2 += c * r
        r3 += d * r
        r4 += e * r
    values = (s00, s01, s02, s03, s04, s11, s12, s13, s14, s22, s23, s24, s33, s34, s44, r0, r1, r2, r3, r4)
    for i in range(20):
        sums[i] += values[i]


@njit(nogil=True, cache=True)
def _evaluate(volume, coords, kxy, y, c, rotation, shift, box, prior, scratch, hessian, gradient):
    """Objective (gain + shift prior), its gradient [5] and Gauss-Newton precision [5, 5] at one pose."""
    work, rot, phase_x, phase_y, sums = scratch
    for i in range(3):
        for j in range(3):
            rot[i, j] = rotation[i, j]
    _phase_table(phase_x, shift[0], box, 0)
    _phase_table(phase_y, shift[1], box, (phase_y.shape[0] - 1) // 2)
    sums[:] = 0.0
    total = 0.0
    freq = rot.dtype.type(2.0 * math.pi / box)
    for k0 in range(0, coords.shape[0], BLOCK):
        count = min(BLOCK, coords.shape[0] - k0)
        total += _jacobian(work, volume, coords, kxy, y, c, rot, phase_x, phase_y, freq, k0, count)
        _accumulate(work, 2 * count, sums)
    n = 0
    for i in range(5):
        for j in range(i, 5):
            hessian[i, j] = hessian[j, i] = 2.0 * sums[n]
            n += 1
        gradient[i] = 2.0 * sums[15 + i]
    for i in range(2):
        total -= 0.5 * prior * shift[i] * shift[i]
        gradient[3 + i] -= prior * shift[i]
        hessian[3 + i, 3 + i] += prior
    return total


@njit(nogil=True, cache=True)
def _solve_damped(hessian, gradient, damping, step, lower):
    """Cholesky solution of (H + damping diag H) step = gradient; False if it is not positive definite."""
    for i in range(5):
        for j in range(i + 1):
            s = hessian[i, j]
            if i == j:
                s += damping * hessian[i, i] + 1e-12
            for k in range(j):
                s -= lower[i, k] * lower[j, k]
            if i == j:
                if s <= 0.0:
                    return False
                lower[i, i] = math.sqrt(s)
            else:
                lower[i, j] = s / lower[j, j]
    for i in range(5):
        s = gradient[i]
        for k in range(i):
            s -= lower[i, k] * step[k]
        step[i] = s / lower[i, i]
    for i in range(4, -1, -1):
        s = step[i]
        for k in range(i + 1, 5):
            s -= lower[k, i] * step[k]
        step[i] = s / lower[i, i]
    return True


@njit(nogil=True, cache=True)
def _rotate(rotation, w, out):
    """out = exp([w]x) rotation (Rodrigues)."""
    angle = math.sqrt(w[0] * w[0] + w[1] * w[1] + w[2] * w[2])
    s = 1.0 if angle < 1e-12 else math.sin(angle) / angle
    h = 0.5 if angle < 1e-6 else (1.0 - math.cos(angle)) / (angle * angle)
    for j in range(3):
        a, b, c = rotation[0, j], rotation[1, j], rotation[2, j]
        dot = w[0] * a + w[1] * b + w[2] * c
        out[0, j] = a * math.cos(angle) + s * (w[1] * c - w[2] * b) + h * dot * w[0]
        out[1, j] = b * math.cos(angle) + s * (w[2] * a - w[0] * c) + h * dot * w[1]
        out[2, j] = c * math.cos(angle) + s * (w[0] * b - w[1] * a) + h * dot * w[2]


@njit(nogil=True, cache=True)
def _turn(rotation, centre, w):
    """w = log(rotation centre^T) as a rotation vector; returns its length."""
    trace, square = 0.0, 0.0
    for i in range(3):
        a, b = (i + 1) % 3, (i + 2) % 3
        w[i] = 0.0
        for j in range(3):
            trace += rotation[i, j] * centre[i, j]
            w[i] += 0.5 * (rotation[b, j] * centre[a, j] - rotation[a, j] * centre[b, j])
        square += w[i] * w[i]
    sine = math.sqrt(square)
    angle = math.atan2(sine, 0.5 * (trace - 1.0))
    if sine > 1e-12:
        for i in range(3):
            w[i] *= angle / sine
    return angle


@njit(nogil=True, cache=True)
def _add_prior(rotation, shift, prior, b, w, hessian, gradient):
    """The log of the pose prior of image b (poses.PosePrior); its derivatives are added to hessian and gradient.

    With R <- exp([d]x) R, dw = J^-1 d, where J^-T w = w, and J^-T J^-1 is 1 along w and (|w|/2 / sin |w|/2)^2 across.
    """
    centres, places, fulcrum, options = prior
    turn, move = options[0], options[1]
    angle = _turn(rotation, centres[b], w)
    half = 0.5 * angle
    across = (half / math.sin(half)) ** 2 if angle > 1e-3 else 1.0 + angle * angle / 12.0
    along = (1.0 - across) / (angle * angle) if angle > 1e-3 else -1.0 / 12.0
    for i in range(3):
        gradient[i] -= turn * w[i]
        hessian[i, i] += turn * across
        for j in range(3):
            hessian[i, j] += turn * along * w[i] * w[j]
    ax, ay, az = _dot(rotation[0], fulcrum), _dot(rotation[1], fulcrum), _dot(rotation[2], fulcrum)
    ex, ey = shift[0] + ax - places[b, 0], shift[1] + ay - places[b, 1]
    slope_x, slope_y = (0.0, az, -ay, 1.0, 0.0), (-az, 0.0, ax, 0.0, 1.0)
    for i in range(5):
        gradient[i] -= move * (slope_x[i] * ex + slope_y[i] * ey)
        for j in range(5):
            hessian[i, j] += move * (slope_x[i] * slope_x[j] + slope_y[i] * slope_y[j])
    return -0.5 * (turn * angle * angle + move * (ex * ex + ey * ey))


@njit(nogil=True, cache=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(nogil=True, cache=True)
def _pull_back(rotation, shift, prior, b, w):
    """Move a pose of image b that lies beyond the limits of its prior to where the way there crosses them."""
    centres, places, fulcrum, options = prior
    angle = _turn(rotation, centres[b], w)
    if angle > options[2]:
        for i in range(3):
            w[i] *= options[2] / angle
        _rotate(centres[b], w, rotation)
    ax, ay = _dot(rotation[0], fulcrum), _dot(rotation[1], fulcrum)
    ex, ey = shift[0] + ax - places[b, 0], shift[1] + ay - places[b, 1]
    length = math.sqrt(ex * ex + ey * ey)
    if length > options[3]:
        shift[0] = places[b, 0] - ax + ex * options[3] / length
        shift[1] = places[b, 1] - ay + ey * options[3] / length


@njit(nogil=True, cache=True)
def refine_range(
    volume, coords, kxy, y, c, image, rotations, shifts, objective, precision, options, pose_prior, start, stop
):
    """Levenberg-Marquardt for starts j in [start, stop): rotations[j], shifts[j] are overwritten with the optimum.

    volume[z, y, x, 2]; coords[k, 2] (padded units); kxy[k, 2]; y[b, k, 2] and c[b, k] whitened data and CTF;
    image[j] -> b; objective[j]; precision[j, 5, 5]; options = (box, steps, shift prior precision, tolerance, max step).
    pose_prior = (centres[b, 3, 3], places[b, 2], fulcrum[3], (precision of turn and shift, their limits)): that of
    poses.PosePrior; without centres there is none.
    """
    box, steps, prior, tolerance, max_step = options
    limit = 0
    for k in range(kxy.shape[0]):
        limit = max(limit, abs(kxy[k, 0]), abs(kxy[k, 1]))
    dtype = volume.dtype
    scratch = (
        np.empty((6, 2 * BLOCK), dtype),
        np.empty((3, 3), dtype),
        np.empty((limit + 1, 2), dtype),
        np.empty((2 * limit + 1, 2), dtype),
        np.empty(20),
    )
    hessian, trial_hessian = np.empty((5, 5)), np.empty((5, 5))
    gradient, trial_gradient = np.empty(5), np.empty(5)
    step, lower = np.empty(5), np.zeros((5, 5))
    rotation, shift, w = np.empty((3, 3)), np.empty(2), np.empty(3)
    informed = pose_prior[0].shape[0] > 0
    for j in range(start, stop):
        b = image[j]
        if informed:
            _pull_back(rotations[j], shifts[j], pose_prior, b, w)
        value = _evaluate(
            volume, coords, kxy, y[b], c[b], rotations[j], shifts[j], box, prior, scratch, hessian, gradient
        )
        if informed:
            value += _add_prior(rotations[j], shifts[j], pose_prior, b, w, hessian, gradient)
        damping = 1e-2
        for _ in range(int(steps)):
            if not _solve_damped(hessian, gradient, damping, step, lower):
                damping = max(damping * 10.0, 1e-3)
                continue
            angle = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
            if angle > max_step:
                for i in range(5):
                    step[i] *= max_step / angle
            predicted = 0.0
            for i in range(5):
                predicted += 0.5 * step[i] * gradient[i]
            if predicted < tolerance:
                break
            _rotate(rotations[j], step, rotation)
            shift[0], shift[1] = shifts[j, 0] + step[3], shifts[j, 1] + step[4]
            if informed:
                _pull_back(rotation, shift, pose_prior, b, w)
            trial = _evaluate(
                volume, coords, kxy, y[b], c[b], rotation, shift, box, prior, scratch, trial_hessian, trial_gradient
            )
            if informed:
                trial += _add_prior(rotation, shift, pose_prior, b, w, trial_hessian, trial_gradient)
            if trial > value:
                value = trial
                rotations[j] = rotation
                shifts[j] = shift
                hessian[:] = trial_hessian
                gradient[:] = trial_gradient
                damping = max(damping * 0.2, 1e-6)
            else:
                damping = max(damping * 8.0, 1e-3)
                if damping > 1e6:
                    break
        objective[j] = value
        precision[j] = hessian
