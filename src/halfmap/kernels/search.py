"""Reductions of the global search: from products of images and references to the few poses worth a closer look."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfmap.kernels import reference_search
from halfmap.kernels.paths import elsewhere
from halfmap.kernels.reference_search import LAST, Slices
from halfmap.kernels.threads import for_ranges


def best_shift(cross_re: Tensor, cross_im: Tensor, norm: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """Best score over shifts: [b, 2, r] and the shift's index, for references and their 180-degree in-plane mates.

    cross_re, cross_im [b, t, r]: twice the products of real and imaginary parts; norm[b, r]; log_prior[t].
    """
    if norm.device.type != "cpu":
        return elsewhere("best_shift", norm.device, reference_search)(cross_re, cross_im, norm, log_prior)
    from halfmap.kernels.numba_search import best_shift_range

    score = torch.empty((norm.shape[0], 2, norm.shape[1]))
    shift = torch.empty(score.shape, dtype=torch.int16)
    arrays = tuple(t.contiguous().numpy() for t in (cross_re, cross_im, norm, log_prior.float(), score, shift))
    for_ranges(lambda i, j: best_shift_range(*arrays, i, j), norm.shape[0])
    return score, shift


def score_block(y: Tensor, c: Tensor, slices: Slices, phases: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [b, 2, r] of whitened images y[b, k] under contrast c[b, k], maximised over shifts, and the best shifts.

    phases[t, k]: that undo the shifts; log_prior[t]; the second of the two are the references turned by 180 degrees in
    plane. On the CPU the bits do not depend on how many references there are.
    """
    if y.device.type != "cpu":
        return elsewhere("score_block", y.device, reference_search)(y, c, slices, phases, log_prior)
    return reference_search.score_block(y, c, slices, phases, log_prior, best_shift)


def distinct_peaks(
    score: Tensor, order: Tensor, rotations: Tensor, operators: Tensor, angle: float, most: int, drop: float
) -> Tensor:
    """Candidates farther apart than ``angle`` radians: positions in ``order`` [b, most], -1 where there are fewer.

    score[b, n] (descending) and order[b, n] (rotation indices): the best grid points of each image. Rotations are
    compared modulo the point group operators[g, 3, 3].
    """
    if score.device.type != "cpu":
        choose = elsewhere("distinct_peaks", score.device, reference_search)
        return choose(score, order, rotations, operators, angle, most, drop)
    from halfmap.kernels.numba_search import distinct_peaks_range

    chosen = torch.full((len(score), most), -1, dtype=torch.int64)
    count = torch.zeros(len(score), dtype=torch.int64)
    arrays = (
        score.float().contiguous().numpy(), order.contiguous().numpy(),
        rotations.float().contiguous().numpy(), operators.float().contiguous().numpy(),
    )  # fmt: skip
    results, cosine = (chosen.numpy(), count.numpy()), math.cos(angle)
    for_ranges(lambda i, j: distinct_peaks_range(*arrays, cosine, *results, drop, i, j), len(score))
    return chosen


class BestPoints:
    """The ``most`` best points of a grid for each of ``images`` images, while its scores come block by block.

    Points are numbered; of equal ones the lower number comes first. score [b, n], index int64 [b, n], shift int16
    [b, n] on the given device; the results are those of sorting all scores.
    """

    def __init__(self, images: int, most: int, device: torch.device) -> None:
        self.most = most
        self.score = torch.full((images, most), -torch.inf, device=device)
        self.index = torch.full((images, most), LAST, dtype=torch.int64, device=device)
        self.shift = torch.zeros((images, most), dtype=torch.int16, device=device)

    def add_(self, score: Tensor, shift: Tensor, index: Tensor) -> None:
        """Look at more points: score [b, r] and shift [b, r] of those numbered index [r] (below LAST)."""
        if score.device.type != "cpu":
            keep = elsewhere("keep_best_", score.device, reference_search)
            keep(self.score, self.shift, self.index, score, shift, index)
            return
        from halfmap.kernels.numba_search import keep_best_range

        arrays = [t.contiguous().numpy() for t in (score, shift, index, self.score, self.shift, self.index)]
        for_ranges(lambda i, j: keep_best_range(*arrays, i, j), len(score))

    def sort_(self) -> None:
        """Put the points of each image in order, the best first. None can be added afterwards."""
        if self.score.device.type != "cpu":
            found = reference_search.best_points(self.score, self.shift, self.index, self.most)
            self.score, self.shift, self.index = found
            return
        from halfmap.kernels.numba_search import sort_best_range

        arrays = [t.numpy() for t in (self.score, self.shift, self.index)]
        for_ranges(lambda i, j: sort_best_range(*arrays, i, j), len(self.score))
