"""Empirical Bayes for values that many particles have: how far they scatter in truth is estimated from all of them.

A particle's defocus is normal about its old value plus a mean that all share, with a spread that is the same for all.
Mean and spread are those of the greatest evidence, the product over particles of the integral of likelihood times prior
(Efron 2010, Large-Scale Inference, ch. 1). A noisy estimate so shrinks to the old value as far as the old values have
proved right, and a set with right defoci keeps them. The likelihood is not taken for a Gaussian: that of a small
particle has several maxima within 2,000 A, and the integral is a sum over nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.significance import CHANCE

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

ENOUGH = 8_000  # particles that the prior of a half set is estimated from
ZOOMS, STEPS = 7, 7  # of the search for mean and spread: each looks at so many values of both, a third as far apart


@dataclass(frozen=True)
class Prior:
    """A normal prior: mean and spread (standard deviation) in A. spread 0: all change by the mean."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Evidence:
    """What particles say about their prior.

    prior: of the greatest evidence, ``value`` (nats). common: the mean of the greatest evidence where there is no
    spread; common_error: its standard error. spread_gain, mean_gain: nats that a spread wins over none, and a common
    mean over none; spread_chance, mean_chance: how often at least that much is found where there is none.
    """

    prior: Prior
    value: float
    common: float
    common_error: float
    spread_gain: float
    spread_chance: float
    mean_gain: float
    mean_chance: float

    @property
    def believed(self) -> Prior:
        """The prior without what is not significant."""
        if self.spread_chance < CHANCE:
            return self.prior
        return Prior(self.common if self.mean_chance < CHANCE else 0.0, 0.0)


@dataclass(frozen=True)
class Posterior:
    """Of every particle b: mean and sd of the change, weights [b, m] of the nodes, and whether the most likely node
    lies at an end of their range."""

    mean: Tensor
    sd: Tensor
    weights: Tensor
    at_bound: Tensor


def fine_nodes(nodes: Tensor, likelihood: Tensor) -> Tensor:
    """Nodes [m] over the range of ``nodes`` [n] that are close enough for sums of exp(likelihood), likelihood [b, n].

    A sum over nodes one standard deviation apart is the integral of a Gaussian to 1e-8.
    """
    step, reach = float(nodes[1] - nodes[0]), float(nodes[-1])
    inner = likelihood[:, 1:-1]
    curvature = (2.0 * inner - likelihood[:, :-2] - likelihood[:, 2:]) / step ** 2
    at = curvature.gather(1, inner.argmax(dim=1, keepdim=True))[:, 0].double()
    sharp = 1.0 / math.sqrt(max(float(at.quantile(0.98)) if len(at) else 0.0, 1e-12))
    return torch.linspace(-reach, reach, 2 * math.ceil(reach / min(max(sharp, 4.0), 20.0)) + 1, dtype=torch.float64)


def interpolation(nodes: Tensor, finer: Tensor) -> Tensor:
    """The matrix [n, m] that takes values at ``nodes`` [n] to the cubic spline through them at ``finer`` [m]."""
    return torch.from_numpy(_spline(nodes, np.eye(len(nodes)))(finer.numpy()).T.copy())


def moved(likelihood: Tensor, nodes: Tensor, offset: Tensor) -> Tensor:
    """The likelihood [b, m] at nodes + offset [b], between nodes linear, beyond them that of the last."""
    if not bool((offset != 0).any()):
        return likelihood
    place = (nodes + offset[:, None] - nodes[0]) / (nodes[1] - nodes[0])
    place = place.clamp(0.0, len(nodes) - 1.0)
    low = place.long().clamp_(max=len(nodes) - 2)
    return torch.lerp(likelihood.gather(1, low), likelihood.gather(1, low + 1), (place - low).to(likelihood))


def estimated_prior(nodes: Tensor, likelihood: Tensor, spread: float | None = None) -> Evidence:
    """The prior of particles with the log-likelihoods [b, m] at changes ``nodes`` [m]. spread: given, or estimated."""
    used = likelihood[:: max(1, math.ceil(len(likelihood) / ENOUGH))]
    total = _spline(nodes, used.double().sum(dim=0).numpy())
    fine = np.linspace(float(nodes[0]), float(nodes[-1]), 20 * len(nodes) - 19)
    together = total(fine)
    common = float(fine[int(together.argmax())])
    height = float(together.max())
    error = 1.0 / math.sqrt(max(-float(total(common, 2)), 1e-12))
    mean_gain = max(height - float(total(0.0)), 0.0)
    found = _greatest(nodes, used, common, spread)
    spread_gain = max(found.value - height, 0.0)
    # chi^2 of one degree of freedom, of twice the gain; a spread lies at its bound in half of all cases (Self & Liang
    # 1987, J. Am. Stat. Assoc. 82, 605).
    return Evidence(found.prior, found.value, common, error, spread_gain, 0.5 * math.erfc(math.sqrt(spread_gain)),
                    mean_gain, math.erfc(math.sqrt(mean_gain)))


def log_evidence(nodes: Tensor, likelihood: Tensor, priors: list[Prior]) -> Tensor:
    """Sum over particles of the log of likelihood times prior, float64, for each of the priors."""
    top = likelihood.amax(dim=1, keepdim=True)
    weights = torch.stack([_weights(nodes, prior) for prior in priors], dim=1)
    inner = (likelihood - top).float().exp_() @ weights.float()
    return inner.double().clamp_min_(1e-37).log_().sum(dim=0) + top.double().sum()


def posterior(nodes: Tensor, likelihood: Tensor, evidence: Evidence, prior: Prior) -> Posterior:
    """Of particles with the log-likelihoods [b, m] at changes ``nodes`` [m].

    Under a prior without spread all change by its mean, and are as sure of it as the evidence is.
    """
    if prior.spread == 0:
        weights = (1.0 - (nodes - prior.mean).abs() / (nodes[1] - nodes[0])).clamp_min_(0.0).expand(likelihood.shape)
        mean = torch.full_like(weights[:, 0], prior.mean)
        return Posterior(mean, torch.full_like(mean, evidence.common_error), weights, torch.zeros_like(mean).bool())
    weights = (likelihood.double() + _weights(nodes, prior).log()).softmax(dim=1)
    mean = weights @ nodes
    sd = (weights @ nodes.square() - mean.square()).clamp_min_(0.0).sqrt_()
    best = weights.argmax(dim=1)
    return Posterior(mean, sd, weights, (best == 0) | (best == len(nodes) - 1))


def _spline(nodes: Tensor, values: np.ndarray) -> CubicSpline:
    from scipy.interpolate import CubicSpline  # takes a second, and help must be immediate

    return CubicSpline(nodes.numpy(), values)


def _weights(nodes: Tensor, prior: Prior) -> Tensor:
    return (-0.5 * ((nodes - prior.mean) / prior.spread).square()).softmax(dim=0)


def _greatest(nodes: Tensor, likelihood: Tensor, mean: float, spread: float | None) -> Best:
    """Mean and spread of the greatest evidence, by a search that closes in."""
    reach, step = float(nodes[-1]), float(nodes[1] - nodes[0])
    low, high = math.log(step), math.log(0.5 * reach)
    middle, height = mean, 0.5 * (low + high)
    width, tall = 0.25 * reach, 0.5 * (high - low)
    ruler = np.linspace(-1.0, 1.0, STEPS)
    found = Best(Prior(mean, spread or step), -math.inf)
    for _ in range(ZOOMS):
        spreads = [spread] if spread is not None else np.exp(np.clip(height + tall * ruler, low, high)).tolist()
        means = np.clip(middle + width * ruler, -0.75 * reach, 0.75 * reach).tolist()
        priors = [Prior(m, s) for m in means for s in spreads]
        values = log_evidence(nodes, likelihood, priors)
        at = int(values.argmax())
        if float(values[at]) > found.value:
            found = Best(priors[at], float(values[at]))
        middle, height = found.prior.mean, math.log(found.prior.spread)
        width, tall = width / 3.0, tall / 3.0
    return found


@dataclass(frozen=True)
class Best:
    """A prior, and its evidence."""

    prior: Prior
    value: float
