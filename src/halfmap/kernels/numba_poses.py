"""Levenberg-Marquardt refinement of poses on the CPU.

A step is accepted only if the log-likelihood rises; the trial evaluation (numba_objective.py) already holds the next
Jacobian.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from halfmap.kernels.numba_objective import evaluate, room_for


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
    """Move a pose of image b that lies beyond the limits of its prior, if any, to where the way there crosses them."""
    centres, places, fulcrum, options = prior
    if len(centres) == 0:
        return
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
def _value(volume, m, band, y, c, b, rotation, shift, options, pose_prior, room, turn, hessian, gradient):
    """The objective of image b at a pose, all priors included; its derivatives are written to hessian and gradient."""
    value = evaluate(volume, m, band, y, c, rotation, shift, options[0], options[2], room, hessian, gradient)
    if len(pose_prior[0]) > 0:
        value += _add_prior(rotation, shift, pose_prior, b, turn, hessian, gradient)
    return value


@njit(nogil=True, cache=True)
def refine_range(
    volume, m, band, y, c, groups, image, rotations, shifts, objective, precision, options, pose_prior, start, stop
):
    """Levenberg-Marquardt of the starts of the images g in [start, stop), as poses.PolishOptions say.

    Those of image g are j in [groups[g], groups[g + 1]); rotations[j], shifts[j] are overwritten with the optimum.
    volume: flat half volume [z, y, x, 2] that reaches to m; band: poses.band_arrays; y[b, k, 2] and c[b, k]: whitened
    data and CTF; image[j] -> b; objective[j]; precision[j, 5, 5]; options: those of poses.PolishOptions, in order.
    pose_prior = (centres[b, 3, 3], places[b, 2], fulcrum[3], (precision of turn and shift, their limits)): that of
    poses.PosePrior; without centres there is none.
    """
    steps, drop, look = int(options[1]), options[5], int(options[6])
    room = room_for(band.limit, volume.dtype)
    work = (np.empty((5, 5)), np.empty(5), np.empty(5), np.zeros((5, 5)), np.empty((3, 3)), np.empty(2), np.empty(3))
    turn = work[6]
    most = 0
    for g in range(start, stop):
        most = max(most, groups[g + 1] - groups[g])
    gradients, damping, live = np.empty((most, 5)), np.empty(most), np.empty(most, np.bool_)
    for g in range(start, stop):
        first, count = groups[g], groups[g + 1] - groups[g]
        best = -np.inf
        for i in range(count):
            j = first + i
            b = image[j]
            _pull_back(rotations[j], shifts[j], pose_prior, b, turn)
            objective[j] = _value(volume, m, band, y[b], c[b], b, rotations[j], shifts[j], options, pose_prior, room,
                                  turn, precision[j], gradients[i])
            damping[i], live[i] = 1e-2, True
        for taken in (min(look, steps), max(steps - look, 0)):
            for i in range(count):
                j = first + i
                if live[i] and objective[j] >= best - drop:
                    b = image[j]
                    live[i] = _climb(volume, m, band, y[b], c[b], b, rotations[j], shifts[j], objective, precision[j],
                                     gradients[i], damping, j, i, taken, options, pose_prior, room, work)
            for i in range(count):
                best = max(best, objective[first + i])


@njit(nogil=True, cache=True)
def _keep_pose(rotation, shift, turned, moved):
    """Write a pose over another, number by number: an assignment of whole arrays takes Numba seconds to compile."""
    for i in range(3):
        for j in range(3):
            rotation[i, j] = turned[i, j]
    shift[0], shift[1] = moved[0], moved[1]


@njit(nogil=True, cache=True)
def _climb(
    volume, m, band, y, c, b, rotation, shift, objective, hessian, gradient, damping, j, i, steps, options, pose_prior,
    room, work,
):  # fmt: skip
    """Up to ``steps`` steps of start j, number i of its image b. Returns whether there may be more to gain.

    objective[j], damping[i], and all of rotation, shift, hessian and gradient are those of the start, and change.
    """
    tolerance, max_step = options[3], options[4]
    trial_hessian, trial_gradient, step, lower, turned, moved, turn = work
    for _ in range(steps):
        if not _solve_damped(hessian, gradient, damping[i], step, lower):
            damping[i] = max(damping[i] * 10.0, 1e-3)
            continue
        angle = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
        if angle > max_step:
            for p in range(5):
                step[p] *= max_step / angle
        predicted = 0.0
        for p in range(5):
            predicted += 0.5 * step[p] * gradient[p]
        _rotate(rotation, step, turned)
        moved[0], moved[1] = shift[0] + step[3], shift[1] + step[4]
        _pull_back(turned, moved, pose_prior, b, turn)
        if predicted < tolerance:  # what is left to gain is known well enough without another look
            _keep_pose(rotation, shift, turned, moved)
            objective[j] += predicted
            return False
        trial = _value(volume, m, band, y, c, b, turned, moved, options, pose_prior, room, turn, trial_hessian,
                       trial_gradient)
        if trial > objective[j]:
            objective[j] = trial
            _keep_pose(rotation, shift, turned, moved)
            for p in range(5):
                gradient[p] = trial_gradient[p]
                for q in range(5):
                    hessian[p, q] = trial_hessian[p, q]
            damping[i] = max(damping[i] * 0.2, 1e-6)
        else:
            damping[i] = max(damping[i] * 8.0, 1e-3)
            if damping[i] > 1e6:
                return False
    return True
