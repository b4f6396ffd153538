"""The likelihood of phases that all images of an optics group share, and where it is largest.

A phase delta(k) is a sum of terms, basis [k, p] times values [p]. The likelihood is exact for any phase, however large,
since what images say is summed at every coefficient. It is climbed by Newton's method with the expected curvature
(Fisher scoring), which is positive everywhere, from coarse to fine: phases grow with the frequency, and what coarse
shells say brings the finer ones within reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STAGES = (0.12, 0.25, 0.5, 0.75)  # of the coefficients, sorted by frequency
STEPS, HALVINGS = 30, 12
SMALL_GAIN = 1e-3  # nats, with less than which in sight the last step was taken
# Nats by which a maximum elsewhere must be higher than that uphill of what is known: the best of a thousand places
# gains seven by chance alone, and seven more say that it is not chance.
ELSEWHERE = 14.0
RIDGE = 1e-10  # of the scaled curvature: what images say nothing about stays where it was


class PhaseLikelihood(Protocol):
    """Log-likelihood of phases [k] relative to those at which the sums were made, up to a constant."""

    def value(self, phase: Tensor) -> float:
        """In nats."""
        ...

    def score(self, phase: Tensor) -> Tensor:
        """Its derivative [k]."""
        ...

    def information(self, phase: Tensor) -> Tensor:
        """The expected curvature [k], which is the variance of the score."""
        ...

    def turned(self, phase: Tensor) -> PhaseLikelihood:
        """That of phases in addition to these [k]."""
        ...

    def first(self, count: int) -> PhaseLikelihood:
        """That of the leading coefficients."""
        ...


@dataclass(frozen=True)
class OddLikelihood:
    """L = 2 Re sum A exp(-i phi), A = sum over images of c cross: real, imaginary [k]. power [k]: sum of c^2 norm."""

    real: Tensor
    imaginary: Tensor
    power: Tensor

    def value(self, phase: Tensor) -> float:
        return 2.0 * float((self.real * phase.cos() + self.imaginary * phase.sin()).sum())

    def score(self, phase: Tensor) -> Tensor:
        return 2.0 * (self.imaginary * phase.cos() - self.real * phase.sin())

    def information(self, phase: Tensor) -> Tensor:
        return 2.0 * self.power

    def turned(self, phase: Tensor) -> OddLikelihood:
        c, s = phase.cos(), phase.sin()
        return OddLikelihood(self.real * c + self.imaginary * s, self.imaginary * c - self.real * s, self.power)

    def first(self, count: int) -> OddLikelihood:
        return OddLikelihood(self.real[:count], self.imaginary[:count], self.power[:count])


@dataclass(frozen=True)
class EvenLikelihood:
    """That of a phase delta added to gamma: the CTF E sin(x) becomes E sin(x - delta), x = -gamma.

    With D the real part of cross and N norm, sums over images [k]: sine of E sin(x) D, cosine of E cos(x) D, power of
    E^2 N, double_cosine of E^2 N cos(2x) and double_sine of E^2 N sin(2x). L = sum 2 E sin(x - delta) D - E^2
    sin^2(x - delta) N.
    """

    sine: Tensor
    cosine: Tensor
    power: Tensor
    double_cosine: Tensor
    double_sine: Tensor

    def value(self, phase: Tensor) -> float:
        once = self.sine * phase.cos() - self.cosine * phase.sin()
        twice = self.double_cosine * (2 * phase).cos() + self.double_sine * (2 * phase).sin()
        return float((2.0 * once + 0.5 * twice).sum())

    def score(self, phase: Tensor) -> Tensor:
        once = self.sine * phase.sin() + self.cosine * phase.cos()
        return self.double_sine * (2 * phase).cos() - self.double_cosine * (2 * phase).sin() - 2.0 * once

    def information(self, phase: Tensor) -> Tensor:
        return self.power + self.double_cosine * (2 * phase).cos() + self.double_sine * (2 * phase).sin()

    def turned(self, phase: Tensor) -> EvenLikelihood:
        c, s, cc, ss = phase.cos(), phase.sin(), (2 * phase).cos(), (2 * phase).sin()
        return EvenLikelihood(
            self.sine * c - self.cosine * s, self.cosine * c + self.sine * s, self.power,
            self.double_cosine * cc + self.double_sine * ss, self.double_sine * cc - self.double_cosine * ss,
        )  # fmt: skip

    def first(self, count: int) -> EvenLikelihood:
        return EvenLikelihood(self.sine[:count], self.cosine[:count], self.power[:count], self.double_cosine[:count],
                              self.double_sine[:count])


@dataclass(frozen=True)
class Maximum:
    """Where a likelihood is largest: values [p], their covariance [p, p], and its value in nats."""

    values: Tensor
    covariance: Tensor
    value: float


def _climbed(likelihood: PhaseLikelihood, basis: Tensor, start: Tensor) -> Maximum:
    """The maximum that is uphill of ``start`` [p], for phases basis [k, p] @ values [p]."""
    unit = basis.abs().amax(dim=0).clamp_min(1e-300)
    columns, values = basis / unit, start * unit
    phase = columns @ values
    reached = likelihood.value(phase)
    for _ in range(STEPS):
        score = columns.T @ likelihood.score(phase)
        step = torch.linalg.solve(_curvature(likelihood, columns, phase), score)
        if float(score @ step) < SMALL_GAIN:
            break
        for _ in range(HALVINGS):
            tried = columns @ (values + step)
            value = likelihood.value(tried)
            if value > reached:
                break
            step = 0.5 * step
        else:
            break
        values, phase, reached = values + step, tried, value
    covariance = torch.linalg.inv(_curvature(likelihood, columns, phase)) / (unit[:, None] * unit)
    return Maximum(values / unit, covariance, reached)


def uphill(likelihood: PhaseLikelihood, basis: Tensor, starts: Sequence[Tensor]) -> Maximum:
    """The maximum uphill of the best of several starts [p]."""
    best = starts[0] if len(starts) == 1 else max(starts, key=lambda start: likelihood.value(basis @ start))
    return _climbed(likelihood, basis, best)


def found_anywhere(likelihood: PhaseLikelihood, basis: Tensor, guesses: Sequence[Tensor]) -> Maximum:
    """The maximum uphill of no change, or one that is far higher: uphill of a guess, or of what coarser shells say.

    Coefficients k of the likelihood are sorted by frequency.
    """
    path = basis.new_zeros(basis.shape[1])
    near = _climbed(likelihood, basis, path)
    for stage in STAGES:
        count = max(1, int(stage * len(basis)))
        path = _climbed(likelihood.first(count), basis[:count], path).values
    far = uphill(likelihood, basis, [path, *guesses])
    return far if far.value > near.value + ELSEWHERE else near


def _curvature(likelihood: PhaseLikelihood, columns: Tensor, phase: Tensor) -> Tensor:
    """The expected curvature [p, p], with a ridge that keeps it positive."""
    curvature = columns.T @ (likelihood.information(phase).clamp_min(0.0)[:, None] * columns)
    return curvature + torch.diag(RIDGE * curvature.diagonal().clamp_min(1e-12))
