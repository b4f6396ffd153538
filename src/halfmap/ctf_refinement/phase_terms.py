"""Which terms of a phase the images ask for: all are fitted together, and those that chance explains are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.ctf_refinement.phase_likelihood import PhaseLikelihood, found_anywhere, highest
from halfmap.ctf_refinement.significance import CHANCE, chance_of


@dataclass(frozen=True)
class Term:
    """A term of a phase: basis [k, p] of its p numbers.

    tested: whether it is left out where it is not significant; others are always fitted. least, most: between which
    the first number lies.
    """

    name: str
    basis: Tensor
    tested: bool = True
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True)
class TermFit:
    """Values [p] and standard errors [p] of terms by name, and the likelihood in nats above that of no change."""

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    value: float


@dataclass(frozen=True)
class Chosen:
    """full: all terms fitted; gains: nats that each tested one adds to all others; final: of those that are kept."""

    full: TermFit
    gains: dict[str, float]
    final: TermFit

    def applied(self, name: str) -> bool:
        """Whether a term is significant."""
        return name in self.final.values

    def best(self, name: str) -> Tensor:
        """The values [p] of a term: beside those that are kept if it is one of them, and beside all if not."""
        return (self.final if self.applied(name) else self.full).values[name]

    def error(self, name: str) -> Tensor:
        """Their standard errors [p]."""
        return (self.final if self.applied(name) else self.full).errors[name]


def chosen(likelihood: PhaseLikelihood, terms: Sequence[Term], guesses: Sequence[Tensor], keep_all: bool) -> Chosen:
    """Fit all terms, then leave out those without significance, the least significant first.

    guesses: where else the best values may lie, each with the numbers of all terms in their order. keep_all: nothing is
    left out.
    """
    full = _fitted(likelihood, terms, guesses, anywhere=True)
    kept, final = list(terms), full
    gains: dict[str, float] = {}
    while True:
        chances = {}
        for term in (one for one in kept if one.tested):
            others = [one for one in kept if one is not term]
            without = _fitted(likelihood, others, [_values(final, others)], anywhere=False)
            gain = max(0.0, final.value - without.value)
            gains.setdefault(term.name, gain)
            chances[term.name] = float(chance_of(torch.tensor(gain, dtype=torch.float64), term.basis.shape[1]))
        worst = max(chances, key=lambda name: chances[name], default=None)
        if worst is None or keep_all or chances[worst] < CHANCE:
            return Chosen(full, gains, final)
        kept = [term for term in kept if term.name != worst]
        final = _fitted(likelihood, kept, [_values(final, kept)], anywhere=False)


def _values(fit: TermFit, terms: Sequence[Term]) -> Tensor:
    """The numbers of terms [p], one after the other."""
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(fit.values[term.name] for term in terms)])


def _fitted(
    likelihood: PhaseLikelihood, terms: Sequence[Term], guesses: Sequence[Tensor], anywhere: bool
) -> TermFit:
    """The best numbers of all terms, uphill of no change and of guesses, or anywhere.

    A first number beyond its bounds is put there, and the others are fitted again.
    """
    if not terms:
        return TermFit({}, {}, 0.0)
    basis = torch.cat([term.basis for term in terms], dim=1)
    none = torch.zeros(basis.shape[1], dtype=torch.float64)
    found = (found_anywhere(likelihood, basis, guesses) if anywhere else
             highest(likelihood, basis, [none, *guesses]))
    sizes = [term.basis.shape[1] for term in terms]
    values = found.values.split(sizes)
    errors = found.covariance.diagonal().clamp_min(0.0).sqrt().split(sizes)
    reached = found.value - likelihood.value(torch.zeros_like(basis[:, 0]))
    fit = TermFit({term.name: one for term, one in zip(terms, values, strict=True)},
                  {term.name: one for term, one in zip(terms, errors, strict=True)}, reached)
    for at, term in enumerate(terms):
        held = min(max(float(values[at][0]), term.least), term.most)
        if held != float(values[at][0]):
            return _bounded(likelihood, terms, fit, at, held)
    return fit


def _bounded(likelihood: PhaseLikelihood, terms: Sequence[Term], free: TermFit, at: int, held: float) -> TermFit:
    """With the one number of the term ``at`` held fixed. Its error is that without bounds."""
    bounded = terms[at]
    if bounded.basis.shape[1] != 1:
        raise ValueError(f"{bounded.name} has bounds and more than one number")
    phase = held * bounded.basis[:, 0]
    others = [term for term in terms if term is not bounded]
    rest = _fitted(likelihood.turned(phase), others, [_values(free, others)], anywhere=False)
    moved = likelihood.value(phase) - likelihood.value(torch.zeros_like(phase))
    value = torch.tensor([held], dtype=torch.float64)
    return TermFit(rest.values | {bounded.name: value}, rest.errors | {bounded.name: free.errors[bounded.name]},
                   rest.value + moved)
