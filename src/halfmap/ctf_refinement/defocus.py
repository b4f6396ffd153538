"""The defocus of every particle, and its astigmatism if that is asked for.

A pass over the images leaves the profile of each (`phase_profiles`). Then the prior is estimated in each half set by
itself (`empirical_prior`), and a particle's new value is the mean of its posterior. Where the table has other values by
then than in the pass, those of fits to micrographs or optics groups, profiles are moved there, and the prior is one
about the new values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.ctf_refinement.cells import Cells
from halfmap.ctf_refinement.empirical_prior import (
    ENOUGH,
    Evidence,
    estimated_prior,
    fine_nodes,
    interpolation,
    log_evidence,
    moved,
    posterior,
)
from halfmap.ctf_refinement.fit import Fitted, Solved
from halfmap.ctf_refinement.input_checks import check_untouched
from halfmap.ctf_refinement.parameters import Per
from halfmap.ctf_refinement.phase_profiles import Conditional, ProfileSums
from halfmap.ctf_refinement.phase_values import (
    ACROSS,
    ALONG,
    CONSTANT,
    MEAN,
    SPHERICAL,
    changed,
    phase_values,
    still_physical,
)
from halfmap.ctf_refinement.products import PosedImages, Products
from halfmap.ctf_refinement.significance import CHANCE
from halfmap.particles.table import ParticleTable

SECTORS = 16  # of a half turn: the mean of cos(2 azimuth) over one is 0.6 % below its middle, and is what is used
AT_ONCE = 2_000  # particles whose posteriors are held together
SPREADS = (5.0, 10.0, 20.0, 35.0, 60.0, 100.0, 170.0, 300.0)  # A, of astigmatism, that are looked at
BESIDE = {"astigmatism": (ALONG, ACROSS), "phase-shift": (CONSTANT,), "amplitude-contrast": (CONSTANT,),
          "cs": (SPHERICAL,)}


@dataclass(frozen=True)
class ParticleChanges:
    """What is fitted to particles.

    astigmatism: whether of each particle too. reach: how far defocus may change, A. spread: of the true changes of
    defocus, A; None: estimated. beside: names of what else is fitted in the same pass; that of ``BESIDE`` is heeded.
    insignificant: whether values are applied too that are not significant.
    """

    astigmatism: bool = False
    reach: float = 2000.0
    spread: float | None = None
    beside: tuple[str, ...] = ()
    insignificant: bool = False


class ParticleDefocus:
    """The fit (`fit.Fit`) of the particles of a table with half sets. finest: the highest frequency used, 1/A.

    Raises InputError as `check_untouched` does.
    """

    common = False

    def __init__(self, table: ParticleTable, finest: float, asked: ParticleChanges | None = None) -> None:
        if table.half is None:
            raise ValueError("defocus is fitted to half sets, and the table has none")
        self._asked = asked = asked or ParticleChanges()
        self._name = "astigmatism-particle" if asked.astigmatism else "defocus"
        check_untouched(table, [self._name])
        self._half, self._old = torch.from_numpy(table.half), phase_values(table)
        beside = {column for name in asked.beside for column in BESIDE.get(name, ())}
        others = sorted(beside | ({ALONG, ACROSS} if asked.astigmatism else set()))
        wavelength = max(group.wavelength for group in table.optics)
        cells = Cells.of_reach(asked.reach, wavelength, finest, SECTORS if ALONG in others else 1)
        self._profiles = ProfileSums(len(table), others, cells, asked.reach, wavelength)

    def add_(self, posed: PosedImages, products: Products) -> None:
        """Count images of one optics group."""
        del posed
        self._profiles.add_(products)

    def sums(self) -> list[Tensor]:
        """All that was counted."""
        return self._profiles.sums()

    def solved(self, table: ParticleTable) -> Solved:
        """Posterior means, where the test of a half set finds its old values wrong or a spread was given."""
        now = phase_values(table)
        number = torch.nonzero(self._profiles.seen > 0)[:, 0]
        p = 3 if self._asked.astigmatism else 1
        change, error = torch.zeros(len(number), p).double(), torch.zeros(len(number), p).double()
        gain, applied = torch.zeros(len(number)).double(), torch.zeros(len(number), dtype=torch.bool)
        verdicts, spreads = [], []
        for half in sorted(set(self._half[number].tolist())):
            rows = torch.nonzero(self._half[number] == half)[:, 0]
            found = self._of_half_set(number[rows], now)
            those = found.changes
            change[rows], error[rows], gain[rows] = those.change, those.error, those.gain
            physical = still_physical(table.defocus[number[rows]], those.change)
            applied[rows] = physical & ~those.at_bound & found.believed
            verdicts.append(f"half set {half + 1}: {found.words}")
            spreads.append(found.spread)
            if found.believed:
                verdicts[-1] += self._left_out(int(those.at_bound.sum()), int((~physical & ~those.at_bound).sum()))
        components = ("defocus", "astigmatism at 0 degrees", "astigmatism at 45 degrees")[:p]
        fitted = Fitted(self._name, Per.PARTICLE, components, ("A",) * p, number,
                        self._half[number], now[number, :p], change, error, gain, applied, "; ".join(verdicts) + ".",
                        max(spreads, default=0.0) or None)
        made = torch.zeros(len(table), p).double()
        made[number[applied]] = change[applied]
        return Solved(replace(table, defocus=changed(table.defocus, made)), (fitted,))

    def _left_out(self, at_bound: int, unphysical: int) -> str:
        words = ""
        if at_bound:
            words += f", {at_bound} particles that would change by {self._asked.reach:g} A or more stay as they were"
        if unphysical:
            words += f", {unphysical} particles stay as they were: their underfocus would become an overfocus"
        return words

    def _of_half_set(self, number: Tensor, now: Tensor) -> _HalfSet:
        """Changes of the particles of a half set. now [b, 5]: values of the table."""
        used = number[:: max(1, math.ceil(len(number) / ENOUGH))]
        nodes = fine_nodes(self._profiles.nodes, self._given(used, now, 0.0).likelihood)
        ruler = _Ruler(nodes, interpolation(self._profiles.nodes, nodes))
        offset = (now - self._old)[:, MEAN]

        def likelihood(astigmatism: float) -> Tensor:
            return ruler.at(self._given(used, now, astigmatism).likelihood, offset[used])

        found, astigmatism = estimated_prior(nodes, likelihood(0.0), self._asked.spread), 0.0
        words = _words(found, self._asked.spread)
        if self._asked.astigmatism:
            values = [float(log_evidence(nodes, likelihood(spread), [found.prior])) for spread in SPREADS]
            best = max(range(len(SPREADS)), key=lambda i: values[i])
            with_it = estimated_prior(nodes, likelihood(SPREADS[best]), self._asked.spread)
            gain = max(with_it.value - found.value, 0.0)
            chance = 0.5 * math.erfc(math.sqrt(gain))
            words += f", astigmatism {_tested(gain, chance)}"
            if chance < CHANCE or self._asked.insignificant:
                found, astigmatism = with_it, SPREADS[best]
                words += f" with a spread of {astigmatism:.0f} A"
        prior = found.prior if self._asked.insignificant or self._asked.spread is not None else found.believed
        parts = []
        for some in number.split(AT_ONCE):
            given, here = self._given(some, now, astigmatism), offset[some]
            profile = ruler.at(given.likelihood, here)
            known = posterior(nodes, profile, found, prior)
            won = ruler.middle(moved(profile, nodes, known.mean)) - ruler.middle(profile)
            change, error = known.mean[:, None], known.sd[:, None]
            if self._asked.astigmatism:
                mean, square = (torch.stack([(ruler.at(values[:, i], here) * known.weights).sum(dim=1) for i in (0, 1)],
                                            dim=1) for values in (given.mean, given.square))
                change = torch.cat([change, mean], dim=1)
                error = torch.cat([error, (square - mean.square()).clamp_min_(0.0).sqrt_()], dim=1)
            parts.append(_Changes(change, error, won, known.at_bound))
        believed = prior.spread > 0 or prior.mean != 0 or astigmatism > 0
        return _HalfSet(_Changes.together(parts), believed, prior.spread, words)

    def _given(self, number: Tensor, now: Tensor, astigmatism: float) -> Conditional:
        """What particles say of their defocus, and of their astigmatism if it is fitted and has such a spread."""
        others = self._profiles.others
        profiles = self._profiles.of(number).at((now - self._old)[number][:, others])
        if not self._asked.astigmatism:
            nothing = profiles.likelihood[:, None, :].expand(-1, 2, -1)
            return Conditional(profiles.likelihood, nothing, nothing)
        return Conditional.of(profiles, others.index(ALONG), astigmatism)


@dataclass(frozen=True)
class _Ruler:
    """Fine nodes [m], and the matrix [n, m] that interpolates there."""

    nodes: Tensor
    finer: Tensor

    def at(self, values: Tensor, offset: Tensor) -> Tensor:
        """Values [b, n] at these nodes + offset [b]."""
        return moved(values @ self.finer, self.nodes, offset)

    def middle(self, values: Tensor) -> Tensor:
        """Of values [b, m] those where nothing changes."""
        return values[:, len(self.nodes) // 2]


@dataclass(frozen=True)
class _Changes:
    """change, error [b, p]; gain [b]; at_bound [b]."""

    change: Tensor
    error: Tensor
    gain: Tensor
    at_bound: Tensor

    @staticmethod
    def together(parts: list[_Changes]) -> _Changes:
        return _Changes(torch.cat([part.change for part in parts]), torch.cat([part.error for part in parts]),
                        torch.cat([part.gain for part in parts]), torch.cat([part.at_bound for part in parts]))


@dataclass(frozen=True)
class _HalfSet:
    """Changes of a half set's particles; whether any is significant; the spread of the prior; what was found, in
    words."""

    changes: _Changes
    believed: bool
    spread: float
    words: str


def _words(found: Evidence, given: float | None) -> str:
    if given is not None:
        return f"a spread of {given:g} A as given, mean change {found.prior.mean:+.0f} A"
    spread = f"a spread of {found.prior.spread:.0f} A {_tested(found.spread_gain, found.spread_chance)}"
    if found.spread_chance < CHANCE:
        return f"{spread}, mean change {found.prior.mean:+.0f} A"
    return f"{spread}, a mean change of {found.common:+.0f} A {_tested(found.mean_gain, found.mean_chance)}"


def _tested(gain: float, chance: float) -> str:
    verdict = "is significant" if chance < CHANCE else "is not significant"
    return f"{verdict} ({gain:.1f} nats, chance {chance:.1g})"
