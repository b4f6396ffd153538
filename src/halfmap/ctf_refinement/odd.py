"""Beam tilt and trefoil of optics groups: phases that are odd in the frequency.

They turn the phases of an image against those of its model: A(k), the sum over images of c conj(p) s y / sigma2, has
the phase of what was left out (Zivanov et al. 2018, eLife 7, e42166). A shift of all images of a group is fitted with
them, because coma looks much like one; where a term is significant the origins of the group's images are moved by it,
since their poses made up for what the optics lacked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.fit import PhaseMap, Solved
from halfmap.ctf_refinement.group_maps import GroupMaps
from halfmap.ctf_refinement.group_values import GroupValue, fitted_values, most_seen
from halfmap.ctf_refinement.phase_likelihood import OddLikelihood
from halfmap.ctf_refinement.phase_terms import Chosen, Term, chosen, phase_of, turns_much
from halfmap.ctf_refinement.products import PosedImages, Products, Range, row_blocks
from halfmap.imaging.ctf import undistorted, zernike, zernike_place
from halfmap.imaging.forward import Geometries
from halfmap.imaging.optics import BeamTilt, OpticsGroup
from halfmap.particles.table import ParticleTable

COMA = (zernike_place(3, 1), zernike_place(3, -1))  # the coefficients of cosine (x) and sine (y)
LINEAR = (zernike_place(1, 1), zernike_place(1, -1))
TREFOIL = (zernike_place(3, -3), zernike_place(3, 3))
THIRD_ORDER = 6  # coefficients up to n = 3


class Odd:
    """The fit of ``names``: tilt, trefoil, or both."""

    common = True

    def __init__(self, names: Sequence[str], table: ParticleTable, geometries: Geometries, used: Range,
                 insignificant: bool = False) -> None:
        """insignificant: whether values are applied too that are not significant."""
        self.names, self.table, self.insignificant = tuple(names), table, insignificant
        self.maps = GroupMaps(3, table.optics, geometries, used)
        self.used = used

    def add_(self, posed: PosedImages, products: Products) -> None:
        """Count images of one optics group."""
        c = posed.images.ctf[:, self.used.stretch(posed.images.geometry)]
        into = self.maps.maps[products.group]
        for rows in row_blocks(len(c), c.shape[1]):
            cross = products.cross[rows]
            into[0] += (c[rows] * cross.real).sum(dim=0)
            into[1] += (c[rows] * cross.imag).sum(dim=0)
            into[2] += c[rows].square().mul_(products.norm[rows]).sum(dim=0)
        self.maps.count_(products.group, products.present)

    def sums(self) -> list[Tensor]:
        """What was counted."""
        return self.maps.sums()

    def solved(self, table: ParticleTable) -> Solved:
        """The values, and the table with those that are significant: beam tilt, odd Zernike terms, and origins.

        Coma of the group's Zernike terms goes into its beam tilt: RELION 3.1 ignores the former beside the latter.
        """
        optics, origins = list(table.optics), table.origins.clone()
        values: dict[str, list[GroupValue]] = {name: [] for name in self.names}
        pictures = most_seen(self.maps.images)
        maps, again = [], False
        for group, before in enumerate(table.optics):
            found = self._found(group)
            if found is not None:
                optics[group] = _with(before, found)
                again = again or turns_much(found.terms, found.choice)
                if any(found.choice.applied(name) for name in found.tested):
                    members = torch.from_numpy(np.flatnonzero(table.optics_index == group))
                    origins[members] += _moved(self.table.optics[group], found.choice.final.values["shift"])
                if group in pictures:
                    maps.append(self._picture(group, found))
            for name in self.names:
                values[name].append(_value(name, before, optics[group], found))
        fitted = [fitted_values(name, _COMPONENTS[name], _UNITS[name], values[name], self.maps.images,
                                insignificant=self.insignificant) for name in self.names]
        return Solved(replace(table, optics=tuple(optics), origins=origins), tuple(fitted), tuple(maps),
                      all_again=again)

    def _found(self, group: int) -> _Found | None:
        """What the images of a group say; None where there is nothing to fit."""
        real, imaginary, power = self.maps.of(group)
        old = self.table.optics[group]
        f = undistorted(self.maps.kxy[group].cpu(), old)
        terms = [Term("shift", f.clone(), tested=False)]
        if "tilt" in self.names and old.spherical_aberration > 0.0:
            terms.append(Term("tilt", _coma_of_tilt(old) * f.square().sum(dim=1, keepdim=True) * f))
        if "trefoil" in self.names:
            terms.append(Term("trefoil", torch.stack([zernike(f, 3, -3), zernike(f, 3, 3)], dim=1)))
        if not bool(power.any()) or len(terms) == 1:
            return None
        likelihood = OddLikelihood(real, imaginary, power)
        return _Found(_coma_of_tilt(old), likelihood, terms, chosen(likelihood, terms, [], self.insignificant))

    def _picture(self, group: int, found: _Found) -> PhaseMap:
        """The measured phase of a group about the one that was fitted."""
        phase = phase_of(found.terms, found.choice.full)
        left = found.likelihood.turned(phase)
        measured = phase + torch.atan2(left.imaginary, left.real)
        return PhaseMap("odd", group, self.maps.kxy[group].cpu(), measured, 2.0 * found.likelihood.power, phase)


@dataclass(frozen=True)
class _Found:
    """What a group's images say: the likelihood, the terms that were fitted, and which of them are significant.

    coma: of a tilt of 1 mrad in the optics of which the sums were made.
    """

    coma: float
    likelihood: OddLikelihood
    terms: list[Term]
    choice: Chosen

    @property
    def tested(self) -> list[str]:
        return [term.name for term in self.terms if term.tested]


_COMPONENTS = {"tilt": ("x", "y"), "trefoil": ("Z(3,-3)", "Z(3,3)")}
_UNITS = {"tilt": ("mrad", "mrad"), "trefoil": ("rad A^3", "rad A^3")}


def _coma_of_tilt(optics: OpticsGroup) -> float:
    """The coma phase |f|^2 f in rad A^3 of a beam tilt of 1 mrad (`imaging.ctf.odd_aberration`)."""
    return -2.0 * math.pi * optics.spherical_aberration * 1e7 * optics.wavelength**2 * 1e-3


def _with(optics: OpticsGroup, found: _Found) -> OpticsGroup:
    """The optics with the significant values."""
    choice = found.choice
    zernikes = [*optics.odd_zernike, *[0.0] * (THIRD_ORDER - len(optics.odd_zernike))]
    if choice.applied("trefoil"):
        for place, change in zip(TREFOIL, choice.final.values["trefoil"].tolist(), strict=True):
            zernikes[place] += change
    tilt = list(optics.beam_tilt)
    if choice.applied("tilt"):
        for axis, change in enumerate(choice.final.values["tilt"].tolist()):
            # R_3^1 = 3 r^3 - 2 r: its coma becomes a tilt, and what is linear stays a Zernike term.
            coma = zernikes[COMA[axis]]
            tilt[axis] += (change * found.coma + 3.0 * coma) / _coma_of_tilt(optics)
            zernikes[LINEAR[axis]] -= 2.0 * coma
            zernikes[COMA[axis]] = 0.0
    return replace(optics, beam_tilt=BeamTilt(*tilt), odd_zernike=tuple(zernikes) if any(zernikes) else ())


def _moved(optics: OpticsGroup, shift: Tensor) -> Tensor:
    """The change of origins [2] in A that the phase shift . f is, f being undistorted and origins in the image."""
    matrix = torch.tensor(optics.magnification, dtype=torch.float64).view(2, 2)
    return matrix.T @ shift / (2.0 * math.pi)


def _value(name: str, before: OpticsGroup, after: OpticsGroup, found: _Found | None) -> GroupValue:
    """What is reported of one group."""
    def numbers(optics: OpticsGroup) -> list[float]:
        if name == "tilt":
            return list(optics.beam_tilt)
        return [optics.odd_zernike[place] if place < len(optics.odd_zernike) else 0.0 for place in TREFOIL]

    old = numbers(before)
    if found is None or name not in found.tested:
        return GroupValue.unknown(old)
    choice = found.choice
    applied = choice.applied(name)
    unit = found.coma / _coma_of_tilt(before) if name == "tilt" else 1.0  # another fit may have changed Cs
    change = choice.best(name).mul(unit).tolist()
    if applied:  # with what was coma of a Zernike term
        change = [new - one for new, one in zip(numbers(after), old, strict=True)]
    return GroupValue(old, change, choice.error(name).mul(unit).tolist(), choice.gains[name], applied)
