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


@njit(nogil=True, cache=True)
def _put(score, shift, index, new_score, new_shift, new_index, size):
    """Put a new point in place of the root of a heap [size], the worst by its score and then by its higher number."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (score[other] < score[child] or (score[other] == score[child]
                                                             and index[other] > index[child])):
            child = other
        if new_score < score[child] or (new_score == score[child] and new_index > index[child]):
            break
        score[place], shift[place], index[place] = score[child], shift[child], index[child]
        place = child
    score[place], shift[place], index[place] = new_score, new_shift, new_index


@njit(nogil=True, cache=True)
def keep_best_range(score, shift, index, kept_score, kept_shift, kept_index, start, stop):
    """Put the points score[b, r], shift[b, r] with numbers index[r] in place of those kept [b, n] that are worse.

    What is kept of each image is a heap, the worst first; it begins with scores of -inf and numbers above all others.
    """
    size = kept_score.shape[1]
    for b in range(start, stop):
        own_score, own_shift, own_index = kept_score[b], kept_shift[b], kept_index[b]
        least = own_score[0]
        for r in range(score.shape[1]):
            if score[b, r] > least or (score[b, r] == least and index[r] < own_index[0]):
                _put(own_score, own_shift, own_index, score[b, r], shift[b, r], index[r], size)
                least = own_score[0]


@njit(nogil=True, cache=True)
def sort_best_range(kept_score, kept_shift, kept_index, start, stop):
    """Sort the heaps [b, n] of images b in [start, stop), the best first."""
    for b in range(start, stop):
        score, shift, index = kept_score[b], kept_shift[b], kept_index[b]
        for last in range(score.shape[0] - 1, 0, -1):
            worst_score, worst_shift, worst_index = score[0], shift[0], index[0]
            _put(score, shift, index, score[last], shift[last], index[last], last)
            score[last], shift[last], index[last] = worst_score, worst_shift, worst_index
