"""Which terms of a phase the images ask for: all are fitted together, and those that chance explains are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halfmap.ctf_refinement.phase_likelihood import PhaseLikelihood, found_anywhere, uphill
from halfmap.ctf_refinement.significance import CHANCE, chance_of

LARGE = 1.0  # radians; a phase that changes by more makes what other fits have summed up too poor
CLEAR = 0.02  # probability of a gain by chance from which on it is not looked at closely


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
    """Values [p] and standard errors [p] of terms by name, and the likelihood in nats above that of no change.

    gains: what is lost without a term, if the likelihood is a parabola; joint: without any of those that are tested.
    """

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    value: float
    gains: dict[str, float] = field(default_factory=dict)
    joint: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """full: all terms fitted; gains: nats that each tested one adds to all others (of a parabola where none is nearly
    significant); final: of those that are kept."""

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
    if not keep_all and _far_from_significant(full, terms):
        return Chosen(full, full.gains, TermFit({}, {}, 0.0))
    kept, final = list(terms), full
    gains: dict[str, float] = {}
    while True:
        chances = {}
        for term in (one for one in kept if one.tested):
            others = [one for one in kept if one is not term]
            without = _fitted(likelihood, others, [_values(final, others)], anywhere=False)
            gain = max(0.0, final.value - without.value)
            gains.setdefault(term.name, gain)
            chances[term.name] = _chance(gain, term.basis.shape[1])
        worst = max(chances, key=lambda name: chances[name], default=None)
        if worst is None or keep_all or chances[worst] < CHANCE:
            return Chosen(full, gains, final)
        kept = [term for term in kept if term.name != worst]
        final = _fitted(likelihood, kept, [_values(final, kept)], anywhere=False)


def phase_of(terms: Sequence[Term], fit: TermFit) -> Tensor:
    """The phase [k] of the terms that a fit has."""
    parts = [term.basis @ fit.values[term.name] for term in terms if term.name in fit.values]
    return torch.stack(parts).sum(dim=0) if parts else torch.zeros_like(terms[0].basis[:, 0])


def turns_much(terms: Sequence[Term], choice: Chosen) -> bool:
    """Whether significant terms change phases so much that all fits are better made again."""
    return float(phase_of(terms, choice.final).abs().max()) > LARGE


def _chance(gain: float, freedom: int) -> float:
    return float(chance_of(torch.tensor(gain, dtype=torch.float64), freedom))


def _far_from_significant(full: TermFit, terms: Sequence[Term]) -> bool:
    """Whether tested terms gain so little, each and all together, that the others need not be fitted without them."""
    sizes = {term.name: term.basis.shape[1] for term in terms if term.tested}
    each = min((_chance(full.gains[name], size) for name, size in sizes.items()), default=1.0)
    return min(each, _chance(full.joint, sum(sizes.values()))) > CLEAR


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
             uphill(likelihood, basis, [none, *guesses]))
    sizes = [term.basis.shape[1] for term in terms]
    values = found.values.split(sizes)
    errors = found.covariance.diagonal().clamp_min(0.0).sqrt().split(sizes)
    reached = found.value - likelihood.value(torch.zeros_like(basis[:, 0]))
    places = dict(zip((term.name for term in terms), torch.arange(len(none)).split(sizes), strict=True))

    def parabola(at: Tensor) -> float:
        part = found.values[at]
        return 0.5 * float(part @ torch.linalg.solve(found.covariance[at][:, at], part))

    tested = [places[term.name] for term in terms if term.tested]
    fit = TermFit(
        dict(zip(places, values, strict=True)), dict(zip(places, errors, strict=True)), reached,
        {term.name: parabola(places[term.name]) for term in terms if term.tested},
        parabola(torch.cat(tested)) if tested else 0.0,
    )  # fmt: skip
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
                   rest.value + moved, free.gains, free.joint)
