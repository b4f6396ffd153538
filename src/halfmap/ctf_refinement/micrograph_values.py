"""Phases and gains of micrographs from sums of cells: the likelihood, its greatest posterior, and the prior.

A micrograph (of one half set and optics group: a unit u) has values theta [6]: the changes of mean defocus M and
astigmatism A1, A2 (A), of the phase shift (radians), of the B factor (A^2) and of the logarithm of the scale. Their
likelihood is that of `cells`, for large changes as for small ones. Maxima are found by Fisher scoring, from the
best of a scan of M. Priors are normal, with a mean and a spread for every value, by EM with Laplace's approximation
of each unit's posterior (Tierney & Kadane 1986, J. Am. Stat. Assoc. 81, 82), within one half set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_refinement.cells import Cells
from halfmap.ctf_refinement.phase_values import MEAN, phase_functions

BFACTOR, LOG_SCALE, VALUES = 4, 5, 6
USUAL = (100.0, 50.0, 50.0, 0.1, 20.0, 0.1)  # what values change by in practice: where EM begins
LIMITS = (0.0, 2000.0, 2000.0, 1.0, 200.0, 1.6)  # no larger change is believed; that of M is the reach
CELLS_AT_ONCE = 1 << 19
ROUNDS, STEPS = 20, 6  # of EM, and of Fisher scoring in the first of them
SETTLED = 0.01  # relative change of all spreads
LEAST = 0.01  # spreads below this share of the usual ones are as good as none


@dataclass(frozen=True)
class NormalPrior:
    """Means and spreads [6]. A value with spread 0 stays at its mean."""

    mean: Tensor
    spread: Tensor

    @property
    def free(self) -> list[int]:
        """The values that may change."""
        return torch.nonzero(self.spread > 0)[:, 0].tolist()

    def only(self, columns: list[int], mean: Tensor) -> NormalPrior:
        """The same for the values ``columns``; the others stay at ``mean`` [6]."""
        kept = torch.zeros(VALUES, dtype=torch.bool)
        kept[columns] = True
        return NormalPrior(torch.where(kept, self.mean, mean), torch.where(kept, self.spread, 0.0))


@dataclass(frozen=True)
class Terms:
    """Log-likelihood [u], its gradient [u, 6] and its Fisher information [u, 6, 6]."""

    value: Tensor
    gradient: Tensor
    information: Tensor


@dataclass(frozen=True)
class Estimate:
    """Values [u, 6] of the greatest posterior, its covariance [u, 6, 6], the log-likelihood [u] that they win, and the
    log-evidence of the prior, summed over units (nats, above that of no change)."""

    values: Tensor
    covariance: Tensor
    gain: Tensor
    evidence: float


class Units:
    """Units with sums [u, 5, c] of the cells, seen at electrons of wavelength [u] (A).

    offset [u, 5]: by how much `phase_values` differ already from those under which the sums were taken.
    """

    def __init__(self, sums: Tensor, cells: Cells, wavelength: Tensor, offset: Tensor) -> None:
        self._sums, self._cells = sums, cells
        powers = torch.tensor([1.0, 1.0, 1.0, 0.0, 3.0], dtype=torch.float64)
        self._power = wavelength.double()[:, None] ** powers
        self._functions = phase_functions(cells, 1.0)
        self._offset = offset * self._power
        self._gains = torch.stack([-0.25 * cells.squared(), torch.ones(len(cells), dtype=torch.float64)], dim=1)
        self._nothing = self.terms(torch.zeros(len(sums), VALUES).double()).value

    def __len__(self) -> int:
        return len(self._sums)

    def terms(self, values: Tensor) -> Terms:
        """The likelihood at ``values`` [u, 6]."""
        step = max(1, CELLS_AT_ONCE // len(self._cells))
        parts = [self._terms(slice(start, start + step), values[start : start + step])
                 for start in range(0, len(values), step)]
        return Terms(torch.cat([part.value for part in parts]), torch.cat([part.gradient for part in parts]),
                     torch.cat([part.information for part in parts]))

    def _terms(self, part: slice, values: Tensor) -> Terms:
        power = self._power[part, :BFACTOR]
        first, second, both, even, odd = (term.double() for term in self._sums[part].unbind(dim=1))
        turn = self._turns(part, values)
        cosine, sine = turn.cos(), turn.sin()
        cosine2, sine2 = 1.0 - 2.0 * sine.square(), 2.0 * sine * cosine
        gain = (values[:, BFACTOR:] @ self._gains.T).exp()
        square = gain.square()
        match, turned = gain * (first * cosine + second * sine), gain * (second * cosine - first * sine)
        norm, skew = square * (both + even * cosine2 + odd * sine2), square * (odd * cosine2 - even * sine2)
        other = square * (2.0 * both) - norm  # N times the square of the other quadrature
        phase, size = self._functions[:, :BFACTOR], self._gains
        gradient = torch.cat([2.0 * (turned - skew) @ phase * power, 2.0 * (match - norm) @ size], dim=1)
        corner = _paired(other, phase, phase) * power[:, :, None] * power[:, None, :]
        mixed = _paired(skew, phase, size) * power[:, :, None]
        information = torch.cat([torch.cat([corner, mixed], dim=2),
                                 torch.cat([mixed.transpose(1, 2), _paired(norm, size, size)], dim=2)], dim=1)
        return Terms((2.0 * match - norm).sum(dim=1), gradient, 2.0 * information)

    def _turns(self, part: slice, values: Tensor) -> Tensor:
        """The phases [u, c] that values [u, 6] add to -gamma."""
        moved = self._offset[part].clone()
        moved[:, :BFACTOR] += values[:, :BFACTOR] * self._power[part, :BFACTOR]
        return moved @ self._functions.T

    def common(self, columns: list[int]) -> Tensor:
        """The values [6] that are best if all units have the same, those of ``columns``; the others are 0. Where units
        say next to nothing they stay small, under a prior as wide as LIMITS."""
        values, widest = torch.zeros(1, VALUES, dtype=torch.float64), torch.tensor(LIMITS, dtype=torch.float64)[columns]
        for _ in range(STEPS):
            terms = self.terms(values.expand(len(self), -1))
            gradient, information = terms.gradient.sum(0)[columns], terms.information.sum(0)[columns][:, columns]
            slope = gradient - values[0, columns] * widest**-2
            values[0, columns] += torch.linalg.solve(information + (widest**-2).diag(), slope)
            values[0, columns] = values[0, columns].clamp(-widest, widest)
        return values[0]

    def greatest(self, prior: NormalPrior, start: Tensor, steps: int) -> Estimate:
        """The greatest posterior of every unit, by Fisher scoring from ``start`` [u, 6]."""
        free = prior.free
        precision = prior.spread[free] ** -2
        values = prior.mean.expand(len(self), -1).clone()
        values[:, free] = start[:, free]
        terms = self.terms(values)

        def objective(of: Terms, at: Tensor) -> Tensor:
            return of.value - 0.5 * ((at - prior.mean)[:, free].square() * precision).sum(dim=1)

        for _ in range(steps):
            curvature = terms.information[:, free][:, :, free] + precision.diag()
            slope = terms.gradient[:, free] - (values - prior.mean)[:, free] * precision
            move = torch.zeros_like(values)
            move[:, free] = torch.linalg.solve(curvature, slope)
            now = objective(terms, values)
            share = torch.ones_like(now)
            for _ in range(4):  # a step that does not climb is halved
                tried = values + share[:, None] * move
                found = self.terms(tried)
                worse = objective(found, tried) < now - 1e-9
                if not bool(worse.any()):
                    break
                share = torch.where(worse, 0.25 * share, share)
            keep = (objective(found, tried) >= now - 1e-9)[:, None]
            values = torch.where(keep, tried, values)
            terms = Terms(torch.where(keep[:, 0], found.value, terms.value),
                          torch.where(keep, found.gradient, terms.gradient),
                          torch.where(keep[..., None], found.information, terms.information))
        curvature = terms.information[:, free][:, :, free] + precision.diag()
        covariance = torch.zeros(len(self), VALUES, VALUES, dtype=torch.float64)
        if free:
            block = torch.linalg.inv(curvature)
            covariance[:, torch.tensor(free)[:, None], torch.tensor(free)] = block
        gain = terms.value - self._nothing
        evidence = objective(terms, values) - self._nothing
        if free:
            evidence = evidence - 0.5 * torch.logdet(curvature / precision.sqrt()[:, None] / precision.sqrt())
        return Estimate(values, covariance, gain, float(evidence.sum()))

    def best(self, prior: NormalPrior, reach: float) -> Estimate:
        """The greatest posterior of every unit, from the best of a scan of the mean defocus up to +- reach."""
        start = prior.mean.expand(len(self), -1).clone()
        if MEAN in prior.free:
            changes = torch.linspace(-reach, reach, 2 * math.ceil(reach / USUAL[MEAN]) + 1, dtype=torch.float64)
            informed = -0.5 * ((changes - prior.mean[MEAN]) / prior.spread[MEAN]).square()
            start[:, MEAN] = changes[(self._scanned(changes) + informed).argmax(dim=1)]
        return self.greatest(prior, start, STEPS)

    def _scanned(self, changes: Tensor) -> Tensor:
        """The likelihood [u, n], up to a constant of each unit, of changes [n] of the mean defocus alone."""
        turn = torch.outer(self._functions[:, MEAN], changes)
        found = []
        for i, sums in enumerate(self._sums):  # of one wavelength and offset each
            phase = turn * self._power[i, MEAN] + (self._functions @ self._offset[i])[:, None]
            first, second, _, even, odd = sums.double()
            found.append(2.0 * (first @ phase.cos() + second @ phase.sin())
                         - even @ (2.0 * phase).cos() - odd @ (2.0 * phase).sin())
        return torch.stack(found)


@dataclass(frozen=True)
class Fitting:
    """A prior, and the values of units under it."""

    prior: NormalPrior
    estimate: Estimate


def estimated(units: Units, prior: NormalPrior, reach: float) -> Fitting:
    """The prior of the greatest evidence. Values with spread 0 in ``prior`` stay as they are.

    EM creeps where units say little of a value: every other step goes as far as the last two foretell, up to five
    times.
    """
    free, found = prior.free, units.best(prior, reach)
    least = LEAST * torch.tensor(USUAL, dtype=torch.float64)[free]
    last: Tensor | None = None
    for _ in range(ROUNDS if free else 0):
        mean = found.values.mean(dim=0)
        square = (found.values - mean).square() + found.covariance.diagonal(dim1=1, dim2=2)
        step = (square.mean(dim=0).sqrt()[free] / prior.spread[free]).log()
        settled = bool((step.abs() < SETTLED)[prior.spread[free] > least].all())
        if last is not None:
            again = (step / last).nan_to_num().clamp(0.0, 0.8)
            step, last = step / (1.0 - again), None
        else:
            last = step
        prior = NormalPrior(prior.mean.clone(), prior.spread.clone())
        prior.mean[free], prior.spread[free] = mean[free], (prior.spread[free] * step.exp()).maximum(least)
        found = units.greatest(prior, found.values, 2)
        if settled:
            break
    return Fitting(prior, found)


def usual_prior(columns: list[int], mean: Tensor) -> NormalPrior:
    """Where EM begins for the values ``columns``. mean [6]."""
    spread = torch.zeros(VALUES, dtype=torch.float64)
    spread[columns] = torch.tensor(USUAL, dtype=torch.float64)[columns]
    return NormalPrior(mean, spread)


def _paired(weights: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Sums over c of weights [u, c] left [c, i] right [c, j]: [u, i, j]."""
    product = (left[:, :, None] * right[:, None, :]).flatten(1)
    return (weights @ product).unflatten(1, (left.shape[1], right.shape[1]))
