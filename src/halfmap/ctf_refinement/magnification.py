"""Anisotropic magnification of optics groups (Zivanov et al. 2020, IUCrJ 7, 253).

The matrix M takes frequencies of the image to those of the specimen. A change f -> (I + A) f of the latter moves the
slice p to p + grad p . A f, so that a Gauss-Newton step is a linear problem of four numbers. Of A

- the antisymmetric part is a turn in the plane, which is the poses' (psi): it is fitted and not applied;
- the mean over groups of the isotropic part is the pixel size of the map: it is fitted and not applied;
- what is left is applied, as M_new = (I + A) M.

Where A moves the finest coefficients by much of what the slice needs to become another one, the linear problem holds
for coarser ones: no finer are used, and another pass is asked for.

A CTF is a function of the undistorted frequency too. Defocus and astigmatism were found on micrographs, in most cases
without knowledge of A, and then the CTF at every coefficient of the image is right as it is: u, v and angle change
with M so that it stays. If, however, images say that the CTF moves with the slice, the values were right, and stay.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.distortion_sums import NUMBERS, FocusSums, GradientSums, defocus_forms
from halfmap.ctf_refinement.fit import Solved
from halfmap.ctf_refinement.group_values import GroupValue, fitted_values
from halfmap.ctf_refinement.products import PosedImages, Products, Range, row_blocks
from halfmap.ctf_refinement.significance import CHANCE, chance_of
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.forward import Geometries
from halfmap.imaging.optics import CtfState, MagnificationMatrix, OpticsGroup
from halfmap.particles.table import ParticleTable

BANDS = 12  # into which the shells are divided
# Cycles per box by which coefficients may move in one step: 0.5 turns the rim of a particle of half the box by 0.8 rad.
LINEAR = 0.5
SETTLED = 0.1  # the move of the finest shell that another pass would not better
SINGULAR = 1e-6  # least eigenvalue of scaled normal equations that are solved
LARGEST_PHASE = 1.0  # radians by which the CTF may turn where it is asked which values were right
SYMMETRIC = slice(0, 3)  # of the numbers of a change: isotropic, and both stretches


class Magnification:
    """The fit of the magnification matrix. To be solved after all others, whose sums are those of the old matrix."""

    common = True

    def __init__(self, table: ParticleTable, geometries: Geometries, used: Range, insignificant: bool = False,
                 moved: Collection[int] = ()) -> None:
        """insignificant: whether values are applied too that are not significant; moved: optics groups that an earlier
        pass has changed, whose next step is not tested again: it mends what the first one fell short by."""
        def sums(*shape: int) -> Tensor:
            return torch.zeros((len(table.optics), *shape), dtype=torch.float64, device=geometries.device)

        self.table, self.used, self.insignificant, self.moved = table, used, insignificant, moved
        self.length = geometries.box * geometries.pixel_size
        self.images = sums()
        self.score, self.curvature = sums(BANDS, NUMBERS), sums(BANDS, NUMBERS, NUMBERS)
        # The same for a change of the frequencies in the CTF alone.
        self.ctf_score, self.ctf_curvature = sums(BANDS, NUMBERS), sums(BANDS, NUMBERS, NUMBERS)

    def add_(self, posed: PosedImages, products: Products) -> None:
        """Count images of one optics group."""
        geometry = posed.images.geometry
        q = geometry.coords[self.used.stretch(geometry)]
        band = ((q.norm(dim=1) - self.used.first) * (BANDS / self._width)).long().clamp(0, BANDS - 1)
        gradients, focus = GradientSums.none(q), FocusSums.none(q)
        for rows in row_blocks(len(products), len(q)):
            gradients.add_(posed.some(torch.arange(len(products), device=q.device)[rows]), self.used)
            if products.optics.ctf_state is CtfState.UNTOUCHED:
                focus.add_(products, rows)
        group = products.group
        for into, equations in ((self.score, gradients.score(q)), (self.curvature, gradients.curvature(q)),
                                (self.ctf_score, focus.score(products)),
                                (self.ctf_curvature, focus.curvature(products))):
            into[group].index_add_(0, band, equations)
        self.images[group] += products.present.double().sum()

    def sums(self) -> list[Tensor]:
        """What was counted."""
        return [self.images, self.score, self.curvature, self.ctf_score, self.ctf_curvature]

    def solved(self, table: ParticleTable) -> Solved:
        """The values, and the table with matrices and defocus of the groups where they are significant."""
        found = {group: one for group in range(len(table.optics)) if (one := self._found(group)) is not None}
        mean = _mean_scale(found)
        optics, values, changes = list(table.optics), [], {}
        for group, before in enumerate(table.optics):
            if group not in found:
                values.append(GroupValue.unknown(_parts(before)))
                continue
            tested = found[group].against(mean if len(found) > 1 else None)
            applied = self.insignificant or group in self.moved or tested.chance < CHANCE
            after = _stretched(before, tested.change)
            if applied:
                changes[group], optics[group] = tested.change, after
            values.append(GroupValue(
                _parts(before), [new - old for new, old in zip(_parts(after), _parts(before), strict=True)],
                tested.error.mul(100.0).tolist(), tested.gain, applied,
            ))  # fmt: skip
        kept = self._ctf_moves(table, changes)
        note = f" A mean magnification of {100.0 * mean:.3f} % (fitted, not applied) belongs to the map's pixel size."
        if changes:
            note += (" Defocus values stay: images say that they are those of the undistorted specimen." if kept else
                     " Defocus values changed with the frequencies, so that the CTF is the same at every pixel.")
        fitted = fitted_values("magnification", ("isotropic", "stretch along x", "stretch along the diagonal"),
                               ("%", "%", "%"), values, self.images, note, self.insignificant)
        return Solved(
            replace(table, optics=tuple(optics), defocus=table.defocus if kept else _in_place(table, changes)),
            (fitted,), again=any(_size(change) * self.used.last > SETTLED for change in changes.values()),
        )  # fmt: skip

    @property
    def _width(self) -> int:
        return self.used.last + 1 - self.used.first

    def _edge(self, bands: int) -> float:
        """The last shell of so many bands."""
        return self.used.first + bands * self._width / BANDS

    def _found(self, group: int) -> _Found | None:
        """The change that is found of as many shells as it moves by little; None where there is nothing to fit."""
        curvature, score = self.curvature[group].cpu().cumsum(dim=0), self.score[group].cpu().cumsum(dim=0)
        best = None
        for bands in range(1, BANDS + 1):
            scale = curvature[bands - 1].diagonal().clamp_min(0.0).sqrt()
            unit = scale[:, None] * scale
            # Products of gradients of maps of different noise can be negative where maps hold little else.
            if not bool(scale.gt(0).all()) or float(torch.linalg.eigvalsh(curvature[bands - 1] / unit)[0]) < SINGULAR:
                continue
            covariance = torch.linalg.inv(curvature[bands - 1] / unit) / unit
            one = _Found(covariance @ score[bands - 1], covariance, float(curvature[bands - 1, 0, 0]))
            spread = float(covariance.diagonal()[SYMMETRIC].sum().sqrt())
            if best is not None and (_size(one.change) - 2.0 * spread) * self._edge(bands) > LINEAR:
                break
            best = one
        return best

    def _ctf_moves(self, table: ParticleTable, changes: Mapping[int, Tensor]) -> bool:
        """Whether images say that the CTF changes as the slices do, at the defocus values of a table.

        What is compared is how likely both are, at shells where the CTF turns little by it.
        """
        gain = 0.0
        for group, change in changes.items():
            members = torch.from_numpy(np.flatnonzero(table.optics_index == group))
            old, new = (defocus_forms(one.defocus[members]).double().mean(dim=0) for one in (self.table, table))
            defocus = 0.5 * float(old[0] + old[2])
            turn = 2.0 * math.pi * table.optics[group].wavelength * abs(defocus) * _size(change) / self.length**2
            bands = [n for n in range(1, BANDS + 1) if turn * self._edge(n) ** 2 <= LARGEST_PHASE]
            count = bands[-1] if bands else 1
            curvature = self.ctf_curvature[group, :count].sum(dim=0).cpu()
            # What other fits have changed since is such a move too: the form Q becomes Q + 2 Q A, nearly.
            xx, xy, yy = ((new - old) / (2.0 * defocus)).tolist() if defocus else (0.0, 0.0, 0.0)
            since = change.new_tensor([0.5 * (xx + yy), 0.5 * (xx - yy), xy, 0.0])
            move = torch.cat([change, change.new_zeros(1)])  # a turn is the poses'
            score = self.ctf_score[group, :count].sum(dim=0).cpu() - curvature @ since
            gain += float(move @ score - 0.5 * move @ curvature @ move)
        return gain > 0.0


@dataclass(frozen=True)
class _Tested:
    """A change [3] with its standard errors [3], its gain in nats, and the probability that chance gains as much."""

    change: Tensor
    error: Tensor
    gain: float
    chance: float


@dataclass(frozen=True)
class _Found:
    """A change [4] and its covariance [4, 4]; information: on its isotropic part."""

    change: Tensor
    covariance: Tensor
    information: float

    def against(self, mean: float | None) -> _Tested:
        """What is applied of it: no turn, and the isotropic part relative to the mean, or, without one, none of it."""
        change, covariance = self.change[SYMMETRIC].clone(), self.covariance[SYMMETRIC, SYMMETRIC]
        change[0] = 0.0 if mean is None else change[0] - mean
        told = slice(1 if mean is None else 0, 3)
        part = change[told]
        gain = 0.5 * (part @ torch.linalg.solve(covariance[told, told], part))
        chance = chance_of(gain[None], len(part))
        return _Tested(change, covariance.diagonal().sqrt(), float(gain), float(chance))


def _mean_scale(found: Mapping[int, _Found]) -> float:
    """The mean isotropic change of all groups, by what each says about it."""
    information = sum(one.information for one in found.values())
    return sum(float(one.change[0]) * one.information for one in found.values()) / information if found else 0.0


def _matrix(change: Tensor) -> Tensor:
    """I + A [2, 2] of a change [3], or of more numbers of which the turn is left out."""
    scale, along, across = change[SYMMETRIC].tolist()
    return torch.tensor([[1 + scale + along, across], [across, 1 + scale - along]], dtype=torch.float64)


def _size(change: Tensor) -> float:
    """The largest stretch of a change."""
    return abs(float(change[0])) + math.hypot(float(change[1]), float(change[2]))


def _stretched(optics: OpticsGroup, change: Tensor) -> OpticsGroup:
    """The optics with the matrix (I + A) M."""
    old = torch.tensor(optics.magnification, dtype=torch.float64).view(2, 2)
    return replace(optics, magnification=MagnificationMatrix(*(_matrix(change) @ old).flatten().tolist()))


def _parts(optics: OpticsGroup) -> list[float]:
    """The magnification of a group as numbers in per cent: isotropic, and the stretches."""
    one = optics.magnification
    return [50.0 * (one.xx + one.yy) - 100.0, 50.0 * (one.xx - one.yy), 50.0 * (one.xy + one.yx)]


def _in_place(table: ParticleTable, changes: Mapping[int, Tensor]) -> Defocus:
    """Defocus values with which the CTF stays where it is in images whose frequencies change.

    The defocus term of gamma is a quadratic form of f, f^T Q f, so that Q becomes (I + A)^-T Q (I + A)^-1.
    """
    old = table.defocus
    u, v, angle = old.u.clone(), old.v.clone(), old.angle.clone()
    for group, change in changes.items():
        members = torch.from_numpy(np.flatnonzero(table.optics_index == group))
        xx, xy, yy = defocus_forms(old[members]).double().unbind(dim=1)
        form = torch.stack([xx, xy, xy, yy], dim=1).view(-1, 2, 2)
        back = torch.linalg.inv(_matrix(change))
        form = back.T @ form @ back
        mean = 0.5 * (form[:, 0, 0] + form[:, 1, 1])
        along, across = 0.5 * (form[:, 0, 0] - form[:, 1, 1]), form[:, 0, 1]
        half = torch.hypot(along, across)
        u[members], v[members] = (mean + half).to(u), (mean - half).to(v)
        angle[members] = (0.5 * torch.atan2(across, along)).to(angle)
    return replace(old, u=u, v=v, angle=angle)
