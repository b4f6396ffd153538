"""Defocus, astigmatism, phase shift and B factor of every micrograph, from all its images of one half set.

A pass over the images adds up sums of cells (`cells`) for each half set, micrograph and optics group. Then all values
that are asked for are fitted at once (`micrograph_values`), so that what one does to another is heeded, under a prior
that is estimated in each half set by itself: a micrograph of few particles keeps what it had. A kind of values is
applied where leaving it out costs more likelihood than chance explains.

A B factor that all micrographs share lies in the map already, and so does their common scale: only differences count.
Changes of both have a mean of 0 over the images of a half set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.cells import SUMS, Cells, cell_sums
from halfmap.ctf_refinement.fit import Fitted, Solved
from halfmap.ctf_refinement.input_checks import check_untouched
from halfmap.ctf_refinement.micrograph_values import (
    BFACTOR,
    LIMITS,
    LOG_SCALE,
    VALUES,
    Estimate,
    NormalPrior,
    Units,
    estimated,
    usual_prior,
)
from halfmap.ctf_refinement.parameters import Per
from halfmap.ctf_refinement.phase_values import (
    ACROSS,
    ALONG,
    CONSTANT,
    MEAN,
    changed,
    phase_values,
    still_physical,
)
from halfmap.ctf_refinement.products import PosedImages, Products
from halfmap.ctf_refinement.significance import CHANCE, chance_of
from halfmap.particles.table import ParticleTable

SECTORS = 16  # of a half turn
ENOUGH = 500  # micrographs that the prior of a half set is estimated from
KINDS = {
    "defocus-micrograph": (MEAN,), "astigmatism": (MEAN, ALONG, ACROSS), "phase-shift": (CONSTANT,),
    "bfactor": (BFACTOR, LOG_SCALE),
}  # fmt: skip
COMPONENTS = ("defocus", "astigmatism at 0 degrees", "astigmatism at 45 degrees", "phase shift", "B factor",
              "log scale")
UNITS = ("A", "A", "A", "rad", "A^2", "")
GAINS = [BFACTOR, LOG_SCALE]


class MicrographFit:
    """The fit (`fit.Fit`) of the micrographs of a table with half sets.

    names: of ``KINDS``; finest: the highest frequency used, 1/A; reach: how far defocus may change, A. insignificant:
    whether values are applied too that are not significant. Raises InputError as `check_untouched` does.
    """

    common = False

    def __init__(self, table: ParticleTable, finest: float, names: Sequence[str], reach: float = 1000.0,
                 insignificant: bool = False) -> None:
        if table.half is None:
            raise ValueError("micrographs are fitted within half sets, and the table has none")
        check_untouched(table, names)
        self._kinds, self._reach, self._insignificant = _kinds(names), reach, insignificant
        key = np.stack([table.half, table.micrograph, table.optics_index], axis=1)
        units, of = np.unique(key, axis=0, return_inverse=True)
        self._unit_of = torch.from_numpy(of.reshape(-1).astype(np.int64))
        self._half, self._micrograph, group = torch.from_numpy(units.T.astype(np.int64).copy())
        self._wavelength = torch.tensor([one.wavelength for one in table.optics], dtype=torch.float64)[group]
        self._old = phase_values(table)
        round_only = not {ALONG, ACROSS} & {column for columns in self._kinds.values() for column in columns}
        longest = max(one.wavelength for one in table.optics)
        self._cells = Cells.of_reach(reach, longest, finest, 1 if round_only else SECTORS)
        self._sums = torch.zeros(len(units), SUMS, len(self._cells))
        self._seen = torch.zeros(len(table))

    def add_(self, posed: PosedImages, products: Products) -> None:
        """Count images of one optics group."""
        del posed
        unit = self._unit_of[products.index]
        own, of = unit.unique(return_inverse=True)
        total = torch.zeros(len(own), SUMS, len(self._cells), device=products.norm.device)
        for some in cell_sums(products, self._cells):
            total.index_add_(0, of[some.part].to(total.device), some.sums)
        self._sums[own] += total.cpu()
        self._seen[products.index] = 1.0

    def sums(self) -> list[Tensor]:
        """All that was counted."""
        return [self._sums, self._seen]

    def solved(self, table: ParticleTable) -> Solved:
        """Greatest posteriors, of the kinds of values whose test finds the old ones of a half set wrong."""
        seen = self._seen > 0
        offset = torch.zeros(len(self._sums), 5, dtype=torch.float64)
        offset.index_add_(0, self._unit_of[seen], (phase_values(table) - self._old)[seen])
        count = torch.bincount(self._unit_of[seen], minlength=len(offset))
        offset /= count.clamp_min(1)[:, None]
        halves = [self._of_half_set(torch.nonzero((count > 0) & (self._half == half))[:, 0], offset, count)
                  for half in sorted(set(self._half[count > 0].tolist()))]
        change = torch.zeros(len(offset), VALUES, dtype=torch.float64)
        fitted, now = [], self._now(table, count)
        for name, columns in self._kinds.items():
            parts = [self._fitted(name, list(columns), half, now, table) for half in halves]
            for half, part in zip(halves, parts, strict=True):
                rows = half.unit[part.applied]
                change[rows[:, None], torch.tensor(columns)] = part.change[part.applied]
            fitted.append(_joined(parts))
        each = change[self._unit_of]
        new = changed(table.defocus, each[:, :BFACTOR])
        new = replace(new, bfactor=new.bfactor.double() + each[:, BFACTOR],
                      scale=new.scale.double() * each[:, LOG_SCALE].exp())
        return Solved(replace(table, defocus=new), tuple(fitted))

    def _now(self, table: ParticleTable, count: Tensor) -> Tensor:
        """Means [u, 6] over the particles of each unit of the values in the table, the phase shift without amplitude
        contrast."""
        values = phase_values(table)
        values[:, CONSTANT] = table.defocus.phase_shift.double()
        scale = table.defocus.scale.double().abs().clamp_min(1e-6).log()
        values = torch.cat([values[:, :BFACTOR], table.defocus.bfactor.double()[:, None], scale[:, None]], dim=1)
        seen = self._seen > 0
        total = torch.zeros(len(count), VALUES, dtype=torch.float64).index_add_(0, self._unit_of[seen], values[seen])
        return total / count.clamp_min(1)[:, None]

    def _of_half_set(self, unit: Tensor, offset: Tensor, count: Tensor) -> _HalfSet:
        """What is found of the units int64 [n] of a half set. offset [u, 5], count [u]: of all units."""
        def units(of: Tensor) -> Units:
            return Units(self._sums[of], self._cells, self._wavelength[of], offset[of])

        every, used = units(unit), units(unit[:: max(1, math.ceil(len(unit) / ENOUGH))])
        base = torch.zeros(VALUES, dtype=torch.float64)
        if "bfactor" in self._kinds:
            base = used.common(GAINS)
        names = list(self._kinds)
        full, tests = estimated(used, usual_prior(self._columns(names), base), self._reach), {}
        for name in names:
            others = self._columns([other for other in names if other != name])
            rest = estimated(used, full.prior.only(others, base), self._reach)
            gain = max(full.estimate.evidence - rest.estimate.evidence, 0.0)
            freedom = 2 * len(self._kinds[name])  # a mean and a spread for each value
            tests[name] = _Test(gain, float(chance_of(torch.tensor(gain, dtype=torch.float64), freedom)))
        kept = [name for name in names if tests[name].chance < CHANCE or self._insignificant]
        final = full if kept == names else estimated(used, full.prior.only(self._columns(kept), base), self._reach)
        best, kept_best = (one.estimate if len(every) == len(used) else every.best(one.prior, self._reach)
                           for one in (full, final))
        return _HalfSet(unit, count[unit].double(), best, kept_best, full.prior, tests)

    def _columns(self, names: Sequence[str]) -> list[int]:
        return sorted(column for name in names for column in self._kinds[name])

    def _fitted(
        self, name: str, columns: list[int], half: _HalfSet, now: Tensor, table: ParticleTable
    ) -> Fitted:
        """One kind of values of a half set."""
        test = half.tests[name]
        believed = test.chance < CHANCE or self._insignificant
        found = half.kept if believed else half.full
        change = found.values.clone()
        variance = found.covariance.diagonal(dim1=1, dim2=2)
        if name == "bfactor":
            change[:, GAINS] -= (half.images @ change[:, GAINS]) / half.images.sum()
        limits = torch.tensor((self._reach, *LIMITS[1:]), dtype=torch.float64)
        within = (change.abs() < limits)[:, columns].all(dim=1)
        outside = int((~within).sum())
        if MEAN in columns:
            trial = torch.zeros(len(now), BFACTOR, dtype=torch.float64)
            phases = [column for column in columns if column < BFACTOR]
            trial[half.unit[:, None], torch.tensor(phases)] = change[:, phases]
            fine = still_physical(table.defocus, trial[self._unit_of]).long()
            wrong = torch.zeros(len(now), dtype=torch.int64).index_add_(0, self._unit_of, 1 - fine)
            within &= wrong[half.unit] == 0
        words = f"half set {int(self._half[half.unit[0]]) + 1}: {test.words}"
        for column in columns:
            unit = f" {UNITS[column]}" if UNITS[column] else ""
            words += f", {COMPONENTS[column]} spread {float(half.prior.spread[column]):.3g}{unit}"
        if believed and outside:
            words += f", {outside} micrographs stay as they were: they would change by more than is believed"
        if believed and int((~within).sum()) > outside:
            words += (f", {int((~within).sum()) - outside} micrographs stay as they were: their underfocus would "
                      "become an overfocus")
        return Fitted(
            name, Per.MICROGRAPH, tuple(COMPONENTS[c] for c in columns), tuple(UNITS[c] for c in columns),
            self._micrograph[half.unit], self._half[half.unit], now[half.unit][:, columns], change[:, columns],
            variance[:, columns].clamp_min(0.0).sqrt(),
            _won(change[:, columns], found.covariance[:, columns][..., columns]),
            within & believed, words,
        )  # fmt: skip


def _won(change: Tensor, covariance: Tensor) -> Tensor:
    """Nats [n] that changes [n, p] win over none while the other kinds of values make up for it as well as they can."""
    return 0.5 * (change[:, None] @ torch.linalg.pinv(covariance, hermitian=True) @ change[..., None]).flatten()


@dataclass(frozen=True)
class _Test:
    """Nats of evidence that a kind of values wins, and how often it wins as much where nothing is wrong."""

    gain: float
    chance: float

    @property
    def words(self) -> str:
        verdict = "is significant" if self.chance < CHANCE else "is not significant"
        return f"{verdict} ({self.gain:.1f} nats, chance {self.chance:.1g})"


@dataclass(frozen=True)
class _HalfSet:
    """Units int64 [n] of a half set, and how many images [n] they have; what is found of all kinds of values, and of
    the significant ones alone; the prior of all."""

    unit: Tensor
    images: Tensor
    full: Estimate
    kept: Estimate
    prior: NormalPrior
    tests: dict[str, _Test]


def _kinds(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The values of each name, none twice."""
    kinds: dict[str, tuple[int, ...]] = {}
    for name in KINDS:
        if name in names:
            taken = {column for columns in kinds.values() for column in columns}
            kinds[name] = tuple(column for column in KINDS[name] if column not in taken)
    return kinds


def _joined(parts: list[Fitted]) -> Fitted:
    """Both half sets."""
    def of(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return replace(parts[0], number=of("number"), half=of("half"), before=of("before"), change=of("change"),
                   error=of("error"), gain=of("gain"), applied=of("applied"),
                   verdict="; ".join(part.verdict for part in parts) + ".")
