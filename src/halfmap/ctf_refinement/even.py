"""Spherical aberration, amplitude contrast and tetrafoil of optics groups: phases that are even in the frequency.

They add to gamma of the CTF. Five sums over images at every coefficient hold the likelihood of any phase that all
images of a group share, however large it is, so that an aberration that is far off is found by a scan. Spherical
aberration and amplitude contrast look much like a defocus: the mean defocus of the group is fitted with them and
changes with them, on top of what every particle has. Mean astigmatism is fitted too, and is not applied: it belongs to
particles and micrographs.
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
from halfmap.ctf_refinement.input_checks import check_untouched
from halfmap.ctf_refinement.phase_likelihood import EvenLikelihood
from halfmap.ctf_refinement.phase_terms import Chosen, Term, chosen, phase_of, turns_much
from halfmap.ctf_refinement.products import PosedImages, Products, Range, row_blocks
from halfmap.imaging.ctf import undistorted, zernike, zernike_place
from halfmap.imaging.forward import Geometries
from halfmap.imaging.optics import BeamTilt, OpticsGroup
from halfmap.particles.table import ParticleTable

TETRAFOIL = (zernike_place(4, -4), zernike_place(4, 4))
FOURTH_ORDER = 9  # coefficients up to n = 4
# Spherical aberrations in mm that are looked at, whatever the file says. Beam tilt is nothing without any.
LEAST_CS, LARGEST_CS = 1e-3, 6.0
STEP = 1.0  # radians at the finest shell from one point of a scan to the next
BINS = 4  # of a shell, where the likelihood is scanned
SCANNED_AT_ONCE = 1 << 10


class Even:
    """The fit of ``names``, any of cs, amplitude-contrast and tetrafoil.

    To be solved after the fits of defocus and phase shift of particles and micrographs: the mean of what these
    changed is part of what this one finds, and is not added twice.

    Raises InputError as `check_untouched` does.
    """

    common = True

    def __init__(self, names: Sequence[str], table: ParticleTable, geometries: Geometries, used: Range,
                 insignificant: bool = False) -> None:
        """insignificant: whether values are applied too that are not significant."""
        check_untouched(table, names)
        self.names, self.table, self.insignificant = tuple(names), table, insignificant
        self.maps = GroupMaps(5, table.optics, geometries, used)
        # What an image counts when defocus is averaged over a group: the information on it.
        self.weight = torch.zeros(len(table), dtype=torch.float32, device=geometries.device)

    def add_(self, posed: PosedImages, products: Products) -> None:
        """Count images of one optics group."""
        into = self.maps.maps[products.group]
        fourth = products.frequencies.square().sum(dim=1).square().float()
        for rows in row_blocks(len(products), len(products.kxy)):
            seen = products.quadratures(rows)
            data, norm = products.cross[rows].real, products.norm[rows]
            into[0] += (seen.sine * data).sum(dim=0)
            into[1] += (seen.cosine * data).sum(dim=0)
            sine = seen.sine.square().mul_(norm)
            cosine = seen.cosine.square().mul_(norm)
            self.weight[products.index[rows].to(self.weight.device)] = cosine @ fourth
            into[4] += 2.0 * seen.sine.mul_(seen.cosine).mul_(norm).sum(dim=0)
            into[2] += sine.sum(dim=0).add_(cosine.sum(dim=0))
            into[3] += cosine.sum(dim=0).sub_(sine.sum(dim=0))
        self.maps.count_(products.group, products.present)

    def sums(self) -> list[Tensor]:
        """What was counted."""
        return [*self.maps.sums(), self.weight]

    def solved(self, table: ParticleTable) -> Solved:
        """The values, and the table with those that are significant.

        Beam tilts change with the spherical aberration so that coma stays what it is.
        """
        optics, u, v = list(table.optics), table.defocus.u.clone(), table.defocus.v.clone()
        values: dict[str, list[GroupValue]] = {name: [] for name in self.names}
        pictures = most_seen(self.maps.images)
        maps, again = [], False
        for group, before in enumerate(table.optics):
            members = torch.from_numpy(np.flatnonzero(table.optics_index == group))
            moved = self._moved_already(table, members)
            found = self._found(group)
            defocus = 0.0
            if found is not None:
                if any(found.choice.applied(name) for name in ISOTROPIC):
                    defocus = float(found.choice.final.values["defocus"][0]) - moved.defocus
                    u[members], v[members] = u[members] + defocus, v[members] + defocus
                optics[group] = _with(before, found.choice, moved)
                again = again or turns_much(found.terms, found.choice)
                if group in pictures:
                    maps.append(self._picture(group, found))
            mean = self._mean(0.5 * (table.defocus.u + table.defocus.v), members)
            for name in self.names:
                values[name].append(_value(name, before, optics[group], found, mean, defocus))
        fitted = [fitted_values(name, _COMPONENTS[name], _UNITS[name], values[name], self.maps.images,
                                _NOTES.get(name, ""), self.insignificant) for name in self.names]
        return Solved(replace(table, optics=tuple(optics), defocus=replace(table.defocus, u=u, v=v)), tuple(fitted),
                      tuple(maps), all_again=again)

    def _found(self, group: int) -> _Found | None:
        """What the images of a group say; None where there are none."""
        likelihood = EvenLikelihood(*self.maps.of(group))
        if not bool(likelihood.power.any()):
            return None
        optics = self.table.optics[group]
        f = undistorted(self.maps.kxy[group].cpu(), optics)
        x, y = f.unbind(dim=1)
        squared = f.square().sum(dim=1)
        per_angstrom = -math.pi * optics.wavelength
        terms = [Term("astigmatism", per_angstrom * torch.stack([x * x - y * y, 2 * x * y], dim=1), tested=False),
                 Term("defocus", per_angstrom * squared[:, None], tested=False)]
        starts: list[Tensor] = []
        if "tetrafoil" in self.names:
            terms.append(Term("tetrafoil", torch.stack([zernike(f, 4, -4), zernike(f, 4, 4)], dim=1)))
        if "amplitude-contrast" in self.names:
            now = math.asin(optics.amplitude_contrast)  # it is subtracted in gamma
            terms.append(Term("amplitude-contrast", torch.ones_like(squared)[:, None], least=now - 0.5 * math.pi,
                              most=now))
        if "cs" in self.names:
            now = optics.spherical_aberration
            least = min(now, LEAST_CS)
            terms.append(Term("cs", _spherical(optics) * squared.square()[:, None], least=least - now))
            best = _scanned(likelihood, squared, optics)
            size = sum(term.basis.shape[1] for term in terms)
            start = torch.zeros(size, dtype=torch.float64)
            start[2], start[-1] = best.defocus, best.cs
            starts.append(start)
        return _Found(likelihood, terms, chosen(likelihood, terms, starts, self.insignificant))

    def _moved_already(self, table: ParticleTable, members: Tensor) -> _Moved:
        """Mean changes of the values of a group's particles since the sums were begun, by fits that were solved."""
        new, old = table.defocus, self.table.defocus
        defocus = 0.5 * (new.u - old.u + new.v - old.v)
        return _Moved(self._mean(defocus, members), self._mean(new.phase_shift - old.phase_shift, members))

    def _mean(self, values: Tensor, members: Tensor) -> float:
        """The mean of values [b] over some particles, by what each says about its defocus."""
        weight = self.weight.cpu().double()[members]
        return float((values.double()[members] * weight).sum() / weight.sum().clamp_min(1e-300))

    def _picture(self, group: int, found: _Found) -> PhaseMap:
        """The measured phase of a group, by one step from the one that was fitted."""
        phase = phase_of(found.terms, found.choice.full)
        weight = found.likelihood.information(phase).clamp_min(0.0)
        measured = phase + found.likelihood.score(phase) / weight.clamp_min(1e-300)
        return PhaseMap("even", group, self.maps.kxy[group].cpu(), torch.where(weight > 0, measured, phase), weight,
                        phase)


ISOTROPIC = ("cs", "amplitude-contrast")  # what a mean defocus goes with
_COMPONENTS = {"cs": ("Cs", "mean defocus"), "amplitude-contrast": ("amplitude contrast", "mean defocus"),
               "tetrafoil": ("Z(4,-4)", "Z(4,4)")}
_UNITS = {"cs": ("mm", "A"), "amplitude-contrast": ("", "A"), "tetrafoil": ("rad A^4", "rad A^4")}
_NOTES = {"amplitude-contrast": " It is a constant phase, as a phase shift is: images cannot tell one from the other."}


@dataclass(frozen=True)
class _Found:
    """What a group's images say: the likelihood, the terms that were fitted, and which of them are significant."""

    likelihood: EvenLikelihood
    terms: list[Term]
    choice: Chosen


@dataclass(frozen=True)
class _Moved:
    """Mean changes of defocus (A) and phase shift (radians)."""

    defocus: float
    phase_shift: float


@dataclass(frozen=True)
class _Scanned:
    """Changes of spherical aberration in mm and of mean defocus in A."""

    cs: float
    defocus: float


def _spherical(optics: OpticsGroup) -> float:
    """The phase |f|^4 of gamma for 1 mm."""
    return 0.5 * math.pi * 1e7 * optics.wavelength**3


def _scanned(likelihood: EvenLikelihood, squared: Tensor, optics: OpticsGroup) -> _Scanned:
    """The best of all spherical aberrations, each with the defoci that make up for part of it. squared: |f|^2 [k].

    Both phases are functions of |f| alone, so that the likelihood needs the means over rings only.
    """
    finest = float(squared.max())
    width = 1.0 / (optics.box_length * BINS)
    ring = (squared.sqrt() / width).round().long()
    parts = (likelihood.sine, likelihood.cosine, likelihood.power, likelihood.double_cosine, likelihood.double_sine)
    count = int(ring.max()) + 1
    rings = [torch.zeros(count, dtype=torch.float64).index_add_(0, ring, part) for part in parts]
    f2 = (torch.arange(count, dtype=torch.float64) * width).square()
    per_mm, per_angstrom = _spherical(optics), -math.pi * optics.wavelength
    now = optics.spherical_aberration
    steps = max(3, math.ceil((LARGEST_CS + now) * per_mm * finest**2 / (2.0 * STEP)))
    cs = torch.linspace(-now, max(LARGEST_CS - now, 0.0), steps, dtype=torch.float64)
    # Phases a r^4 + b r^2 differ least from none between b = -a and b = 0, in units of the finest shell.
    reach = float(cs.abs().max()) * per_mm * finest / abs(per_angstrom)
    fine = max(3, math.ceil(2.4 * reach * abs(per_angstrom) * finest / STEP))
    defocus = torch.linspace(-1.2 * reach, 1.2 * reach, fine, dtype=torch.float64)
    grid = torch.cartesian_prod(cs, defocus)
    grid = grid[((grid[:, 1] * per_angstrom) * (grid[:, 0] * per_mm * finest) <= 0.0)]
    best, highest = _Scanned(0.0, 0.0), -math.inf
    for part in grid.split(SCANNED_AT_ONCE):
        phase = torch.outer(part[:, 0] * per_mm, f2.square()) + torch.outer(part[:, 1] * per_angstrom, f2)
        once = phase.cos() @ rings[0] - phase.sin() @ rings[1]
        twice = phase.mul_(2.0).cos() @ rings[3] + phase.sin() @ rings[4]
        value, at = (2.0 * once + 0.5 * twice).max(dim=0)
        if float(value) > highest:
            highest = float(value)
            best = _Scanned(*part[at].tolist())
    return best


def _with(optics: OpticsGroup, choice: Chosen, moved: _Moved) -> OpticsGroup:
    """The optics with the significant values."""
    even, cs = list(optics.even_zernike), optics.spherical_aberration
    contrast, tilt = optics.amplitude_contrast, optics.beam_tilt
    if choice.applied("tetrafoil"):
        even += [0.0] * (FOURTH_ORDER - len(even))
        for place, change in zip(TETRAFOIL, choice.final.values["tetrafoil"].tolist(), strict=True):
            even[place] += change
    if choice.applied("cs"):
        cs += float(choice.final.values["cs"][0])
        tilt = BeamTilt(tilt.x * optics.spherical_aberration / cs, tilt.y * optics.spherical_aberration / cs)
    if choice.applied("amplitude-contrast"):
        constant = float(choice.final.values["amplitude-contrast"][0]) + moved.phase_shift
        contrast = math.sin(min(max(math.asin(contrast) - constant, 0.0), 0.5 * math.pi))
    return replace(optics, spherical_aberration=cs, amplitude_contrast=contrast, beam_tilt=tilt,
                   even_zernike=tuple(even))


def _value(
    name: str, before: OpticsGroup, after: OpticsGroup, found: _Found | None, mean: float, moved: float
) -> GroupValue:  # fmt: skip
    """What is reported of one group. mean: its defocus; moved: the change of it that was applied."""
    even = [*before.even_zernike, *[0.0] * (FOURTH_ORDER - len(before.even_zernike))]
    old = {"cs": [before.spherical_aberration, mean], "amplitude-contrast": [before.amplitude_contrast, mean],
           "tetrafoil": [even[place] for place in TETRAFOIL]}[name]
    if found is None:
        return GroupValue.unknown(old)
    choice = found.choice
    applied = choice.applied(name)
    change, error = choice.best(name).tolist(), choice.error(name).tolist()
    if name == "amplitude-contrast":
        new = after.amplitude_contrast if applied else math.sin(math.asin(old[0]) - change[0])
        change, error = [new - old[0]], [error[0] * math.cos(math.asin(new))]
    if name == "cs" and applied:
        change = [after.spherical_aberration - old[0]]
    if name in ISOTROPIC:
        change = [*change, moved if applied else float(choice.best("defocus")[0])]
        error = [*error, float(choice.error("defocus")[0])]
    return GroupValue(old, change, error, choice.gains[name], applied)
