"""The contrast of scale groups or single particles: the most probable one under a prior that the data themselves set.

The log-likelihood of a contrast s is 2 s <image, model> - s^2 <model, model> (whitened): a normal distribution about
their ratio x with variance e = 1 / (2 <model, model>). For one image that is often wider than contrasts differ, and x
alone would be noise. So log s has a normal prior, and its spread is estimated (empirical Bayes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.refinement.state import State
from halfmap.refinement.tally import Tally

FARTHEST = 5.0  # factor from the typical contrast beyond which none is believed
OUTLYING = 9.0  # squared standard score from which a deviation counts no more: it is not contrast
COUNTED = 0.9950  # the mean of min(z^2, OUTLYING) for a standard normal z
HALVINGS = 30  # of the interval in which the spread is sought
STEPS, STEP = 20, 0.5  # of Newton's method in log s, and the longest


@dataclass(frozen=True)
class Contrast:
    """What the images say about contrast.

    values [n]: of each group, on the scale of the reference that they were compared with. spread: standard deviation of
    their logarithm, that of the prior.
    """

    values: Tensor
    spread: float


def contrast_of(tally: Tally, old: Tensor) -> Contrast:
    """The most probable contrasts of the groups of a tally, whose images were compared with the contrasts ``old`` [n].

    Groups of many images hardly feel the prior, one without images gets the typical contrast, and where groups do not
    differ by more than their noise all get that. A single image gets the contrast that it has if it holds a particle,
    and into the prior it enters as far as it holds one, of whatever contrast: at the old one a much weaker particle
    fits worse than noise alone.
    """
    measured = tally.norm > 0
    if not bool(measured.any()):
        return Contrast(torch.ones_like(tally.norm), 0.0)
    present = (tally.present / tally.images.clamp_min(1)).clamp_min(1e-300)
    cross, norm = tally.cross / present, tally.norm / present
    found, given = (cross / norm)[measured], norm[measured]
    counts = torch.sigmoid(torch.logit(present[measured]) + given * (found - old.to(norm)[measured]) ** 2)
    typical = _weighted_median(found, counts * given)
    if not typical > 0:  # nothing correlates
        return Contrast(torch.ones_like(norm), 0.0)
    variance = _variance((found - typical) ** 2, 0.5 / given, counts, typical**2)
    spread = math.sqrt(math.log1p(variance / typical**2))
    values = typical * _deviation(cross * typical, norm * typical**2, spread).exp()
    return Contrast(values.clamp(typical / FARTHEST, typical * FARTHEST), spread)


def updated_scale(state: State, tally: Tally, contrast: Contrast) -> Tensor:
    """The scale of each group that the next images are compared with.

    The new map fits the images at the old contrast, so the new contrast must be the old one on average: what all groups
    share is left to the map. (A mean of 1, weighted by power, would jump with the noise estimate of an optics group.)
    """
    old = state.scale.to(contrast.values)
    weight = old * tally.norm
    if not float(weight.sum()) > 0:
        return state.scale
    return (contrast.values * (old * weight).sum() / (contrast.values * weight).sum()).to(state.scale)


def _weighted_median(values: Tensor, weight: Tensor) -> float:
    order = values.argsort()
    below = weight[order].cumsum(0)
    return float(values[order][int(torch.searchsorted(below, 0.5 * below[-1]).clamp(max=len(order) - 1))])


def _variance(square: Tensor, noise: Tensor, counts: Tensor, most: float) -> float:
    """Variance of contrasts, from squared deviations [n] of measured ones whose noise has the variance ``noise`` [n].

    counts [n]: how much each counts; most: the largest variance sought. It solves the likelihood equation of a normal
    distribution, sum w (z^2 - 1) = 0 with w = 1 / (variance + noise) and z^2 = w square. That needs the first two
    moments only, and so holds for others as well. EM comes to the same answer, but takes hundreds of steps where noise
    is wider than contrasts differ.
    """
    low, high = 0.0, most
    for _ in range(HALVINGS):
        variance = 0.5 * (low + high)
        weight = 1 / (variance + noise)
        excess = (weight * square).clamp(max=OUTLYING) - COUNTED
        low, high = (variance, high) if float((counts * weight * excess).sum()) > 0 else (low, variance)
    return low


def _deviation(cross: Tensor, norm: Tensor, spread: float) -> Tensor:
    """The d [n] that maximises 2 exp(d) cross - exp(2 d) norm - d^2 / (2 spread^2); 0 where spread is 0.

    Newton's method with the expected curvature, which is never negative.
    """
    twice = 2 * spread**2
    d = torch.zeros_like(cross)
    for _ in range(STEPS):
        s = d.exp()
        bent = twice * norm * s * s
        d -= ((d + bent - twice * cross * s) / (1 + bent)).clamp(-STEP, STEP)
    return d
