"""Reductions of the global search on the CPU: best shift for each rotation, without storing every score."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath=True)
def best_shift_range(cross_re, cross_im, norm, log_prior, score, shift, start, stop):
    """Maximise over shifts for images b in [start, stop).

    cross_re, cross_im [b, t, r]: products of the real and of the imaginary parts; a reference and its mate turned by
    180 degrees in plane are complex conjugates (Friedel), so their scores are the sum and the difference.
    norm[b, r], log_prior[t]; writes score[b, 2, r] and shift[b, 2, r].
    """
    for b in range(start, stop):
        for r in range(norm.shape[1]):
            score[b, 0, r] = cross_re[b, 0, r] + cross_im[b, 0, r] + log_prior[0]
            score[b, 1, r] = cross_re[b, 0, r] - cross_im[b, 0, r] + log_prior[0]
            shift[b, 0, r] = 0
            shift[b, 1, r] = 0
        for t in range(1, cross_re.shape[1]):
            prior = log_prior[t]
            for r in range(norm.shape[1]):
                plus = cross_re[b, t, r] + cross_im[b, t, r] + prior
                minus = cross_re[b, t, r] - cross_im[b, t, r] + prior
                if plus > score[b, 0, r]:
                    score[b, 0, r] = plus
                    shift[b, 0, r] = t
                if minus > score[b, 1, r]:
                    score[b, 1, r] = minus
                    shift[b, 1, r] = t
        for r in range(norm.shape[1]):
            score[b, 0, r] -= norm[b, r]
            score[b, 1, r] -= norm[b, r]


@njit(nogil=True, cache=True)
def distinct_peaks_range(score, order, rotations, operators, cosine, chosen, count, drop, start, stop):
    """Greedy choice of candidates farther apart than acos(cosine), best first, for images b in [start, stop).

    Two candidates are as far apart as their nearest copies under the point group operators[g, 3, 3]. score[b, n] and
    order[b, n]: the best n grid points of each image in descending order; rotations[r, 3, 3] and operators in float32;
    chosen[b, c] receives positions in ``order``, count[b] their number; those ``drop`` below the best are left out.
    """
    copies = np.empty((chosen.shape[1], operators.shape[0], 3, 3), np.float32)  # of the candidates chosen
    for b in range(start, stop):
        found = 0
        for i in range(order.shape[1]):
            if score[b, i] < score[b, 0] - drop:
                break
            a = rotations[order[b, i]]
            new = True
            for j in range(found):
                for g in range(operators.shape[0]):
                    trace = 0.0
                    for p in range(3):
                        for q in range(3):
                            trace += a[p, q] * copies[j, g, p, q]
                    if trace > 1.0 + 2.0 * cosine:
                        new = False
                        break
                if not new:
                    break
            if new:
                for g in range(operators.shape[0]):
                    for p in range(3):
                        for q in range(3):
                            copies[found, g, p, q] = (a[p, 0] * operators[g, 0, q] + a[p, 1] * operators[g, 1, q]
                                                      + a[p, 2] * operators[g, 2, q])
                chosen[b, found] = i
                found += 1
                if found == chosen.shape[1]:
                    break
        count[b] = found
