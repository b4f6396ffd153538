"""The axes of a map: which turn and shift bring it into the orientation that a point group has by convention.

A map is symmetric under a group where it equals its mean over all turns of the group. Their correlation is
sqrt(mean over g of c(g)), with c(g) the correlation of the map with the map turned by g, because the mean is a
projection. c is evaluated in Fourier space up to a low-pass, where a map has a few thousand coefficients. Turns about
the map's centre of mass, through which every axis of a symmetric map passes, are put into a table of all axes first
(the self-rotation function, Rossmann and Blow 1962, Acta Cryst. 15, 24). The best orientations of the group in it are
polished together with the centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.transform import crop_volume, fft_size, half_volume, resize_map
from halfmap.geometry.orientation_grid import healpix_directions, orientation_grid
from halfmap.geometry.rotations import (
    angular_distance,
    matrix_to_rotation_vector,
    random_rotations,
    rotation_vector_to_matrix,
)
from halfmap.geometry.symmetry import normaliser
from halfmap.kernels import project_slices
from halfmap.maps.density import density_of
from halfmap.maps.masks import spherical_mask

_PADDING = 3  # of the map before its transform is interpolated
_EDGE = 2  # voxels over which the sphere around the particle falls to zero
_PLANES, _COEFFICIENTS = 24, 250  # central planes in which maps are compared, and the most coefficients of each
_ORDER = 3  # HEALPix order of the axes and orientations tried first: 7.5 degrees
_CANDIDATES = 3  # orientations that are polished
_EXACT = 0.995  # mean correlation that no other axes can surpass by much
_POLISHED_BY = 8  # turns of a group that show how to polish; all of them judge
_TURN, _MOVE = math.radians(3), 3.0  # rad, A: first steps of polishing
_EYE = torch.eye(3, dtype=torch.float64)


@dataclass(frozen=True)
class SymmetryAxes:
    """Where a map has the axes of a point group.

    as_is: correlation of the map with its symmetrised self, in the conventional orientation about the box centre;
    best: the same about the axes found. rotation [3, 3] (float64), shift [3] (x, y, z; A): what moves these axes to
    where the convention has them, as `halfmap.maps.rigid.moved` takes it.
    """

    as_is: float
    best: float
    rotation: Tensor
    shift: Tensor

    @property
    def angle(self) -> float:
        """The turn in degrees."""
        return float(angular_distance(self.rotation, _EYE))

    @property
    def distance(self) -> float:
        """The shift in A."""
        return float(self.shift.norm())


def symmetry_axes(v: Tensor, pixel_size: float, resolution: float, diameter: float, group: Tensor) -> SymmetryAxes:
    """The axes of a map v [z, y, x] of a particle of ``diameter`` (A), seen to ``resolution`` (A).

    group [o, 3, 3]: all rotations of a point group, the identity first. Of equivalent answers that with the smallest
    turn is given, and a map with a single axis is not shifted along it.
    """
    group = group.double().cpu()
    if len(group) == 1:
        return SymmetryAxes(1.0, 1.0, _EYE, torch.zeros(3, dtype=torch.float64))
    map_ = _TurnedMap.of(v.float().cpu(), pixel_size, resolution, diameter)
    as_is = map_.agreement(group, -map_.centre)
    best: _Axes | None = None
    for start in _coarse(map_, group):
        found = _polished(map_, group, start)
        best = found if best is None or found.agreement > best.agreement else best
        if best.agreement > _EXACT:
            break
    assert best is not None
    single = _single_axis(group)
    if single is None:
        mates = normaliser(group) @ best.rotation
        rotation, across = mates[angular_distance(mates, _EYE).argmin()], _EYE
    else:  # any turn about it and any shift along it are free, and either of its ends may point up
        axis = single @ best.rotation
        rotation = _onto(single, torch.where(axis @ single < 0, -axis, axis)[None])[0]
        across = _EYE - single[:, None] * single
    shift = -across @ rotation @ (map_.centre + best.centre)
    return SymmetryAxes(_root(as_is), _root(best.agreement), rotation, shift)


@dataclass(frozen=True)
class _Axes:
    """An orientation [3, 3] that takes a map's axes to those of the group, a point on them (A off the map's centre),
    and the mean correlation of the map with all its turned selves."""

    rotation: Tensor
    centre: Tensor
    agreement: float


@dataclass(frozen=True)
class _TurnedMap:
    """The transform of a map about its centre of mass, in planes through the origin, and how it is read when turned.

    volume: half volume of the padded map; coords [k, 2]: of the coefficients of a plane, in cycles per box; planes
    [p, 3, 3]: rotations whose first two rows span a plane; values [p, k]: the coefficients there; weight [p, k]: of
    each in a sum over space; length: of the box in A; centre [3]: that of the map (x, y, z) in A off its box's centre.
    """

    volume: Tensor
    coords: Tensor
    planes: Tensor
    values: Tensor
    weight: Tensor
    length: float
    centre: Tensor

    @staticmethod
    def of(v: Tensor, pixel_size: float, resolution: float, diameter: float) -> _TurnedMap:
        """From a map v [z, y, x], what of it lies in a soft sphere about its centre of mass."""
        density = density_of(v, pixel_size)
        fine = max(pixel_size, resolution / 3)
        voxels = torch.zeros(3) if density is None else (density.centre / fine).round()
        whole = resize_map(v, pixel_size, fine, fft_size(len(v) * pixel_size / fine))
        whole = torch.roll(whole, (-voxels.flip(0).int()).tolist(), (0, 1, 2))
        radius = min(diameter / (2 * fine), len(whole) / 2 - _EDGE)
        box = min(len(whole), fft_size(2 * (radius + _EDGE)))
        small = crop_volume(whole, box) * spherical_mask(box, radius, _EDGE)
        limit = min(int(box * fine / resolution), box // 2 - 1)
        volume = half_volume(small.contiguous(), _PADDING, limit)
        generator = torch.Generator().manual_seed(0)
        planes = random_rotations(_PLANES, generator)
        coords = Band.to_shell(box, limit).kxy.double()
        values = project_slices(volume, _PADDING * coords, planes)
        far = coords.norm(dim=1)  # planes through the origin are denser there by 1 / |k|
        chance = far * values.abs().double().mean(dim=0)
        chance = (_COEFFICIENTS * chance / chance.sum()).clamp(max=1)
        kept = torch.rand(len(coords), generator=generator, dtype=torch.float64) < chance
        weight = (far / chance)[kept].expand(_PLANES, -1)
        return _TurnedMap(
            volume, coords[kept], planes, values[:, kept], weight, box * fine, voxels.double() * fine
        )

    def correlations(self, turns: Tensor, centre: Tensor) -> Tensor:
        """Correlation [r] of the map with itself turned by turns [r, 3, 3] about a point (A off the map's centre)."""
        slices = (self.planes @ turns[:, None]).flatten(0, 1)
        turned = project_slices(self.volume, _PADDING * self.coords, slices).unflatten(0, (len(turns), _PLANES))
        moved = (centre - turns @ centre) / self.length  # where a turn takes the map's centre
        if bool(moved.any()):
            phase = -2 * math.pi * (moved @ self.planes[:, :2].mT @ self.coords.T).transpose(0, 1).float()
            turned = turned * torch.polar(torch.ones_like(phase), phase)
        # Each is divided by its own power in these planes: then none agrees better than what is the same.
        weight, turned = self.weight.float(), torch.view_as_real(turned)
        cross = (torch.view_as_real(self.values) * weight[..., None]).flatten()
        power = (turned.square().sum(dim=-1) * weight).sum(dim=(1, 2))
        power = power * (cross @ torch.view_as_real(self.values).flatten())
        return (turned.flatten(1) @ cross).double() / power.double().clamp_min(1e-30).sqrt()

    def agreement(self, group: Tensor, centre: Tensor) -> float:
        """Mean correlation over all turns of a group [o, 3, 3] about a point; that with itself is 1."""
        return (1 + float(self.correlations(group[1:], centre).sum())) / len(group)


def _coarse(map_: _TurnedMap, group: Tensor) -> list[Tensor]:
    """Orientations [3, 3] that take the map's axes to those of the group, by a table of self-correlations."""
    single, directions = _single_axis(group), healpix_directions(_ORDER)
    half = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) if single is None else single
    directions = directions[directions @ half > -1e-9]
    vectors = matrix_to_rotation_vector(group[1:])
    angles = vectors.norm(dim=1)
    rotations = orientation_grid(_ORDER, group, half_turn=False).mT if single is None else _onto(single, directions)
    sums = torch.zeros(len(rotations), dtype=torch.float64)
    nowhere = torch.zeros(3, dtype=torch.float64)
    for angle in torch.unique(angles.round(decimals=6)):
        table = map_.correlations(rotation_vector_to_matrix(angle * directions), nowhere).double()
        for vector in vectors[(angles - angle).abs() < 1e-5] / angle:
            sums += table[(vector @ rotations @ directions.T).abs().argmax(dim=1)]
    chosen: list[Tensor] = []
    for place in sums.argsort(descending=True).tolist():
        one = rotations[place]
        apart = [float(angular_distance(one.T, other.T, group)) for other in chosen]
        if all(angle > 2.5 * 60 / 2**_ORDER for angle in apart):
            chosen.append(one)
        if len(chosen) == _CANDIDATES:
            break
    return chosen


def _polished(map_: _TurnedMap, group: Tensor, start: Tensor) -> _Axes:
    """The best axes near an orientation [3, 3], by the simplex of Nelder and Mead."""
    some = group[:1 + _POLISHED_BY] if len(group) <= 1 + _POLISHED_BY else group[:: len(group) // _POLISHED_BY]

    def placed(x: np.ndarray) -> _Axes:
        step = torch.from_numpy(x.copy())
        rotation, centre = rotation_vector_to_matrix(_TURN * step[:3]) @ start, _MOVE * step[3:]
        return _Axes(rotation, centre, map_.agreement(rotation.T @ some @ rotation, centre))

    simplex = np.concatenate([np.zeros((1, 6)), np.eye(6)])
    found = minimize(lambda x: -placed(x).agreement, np.zeros(6), method="Nelder-Mead",
                     options={"initial_simplex": simplex, "xatol": 0.03, "fatol": 1e-5, "maxfev": 300})
    best = placed(found.x)
    return _Axes(best.rotation, best.centre, map_.agreement(best.rotation.T @ group @ best.rotation, best.centre))


def _onto(axis: Tensor, directions: Tensor) -> Tensor:
    """The smallest rotations [d, 3, 3] that take directions [d, 3], none opposite to an axis [3], onto it."""
    across = torch.linalg.cross(directions, axis.expand_as(directions))
    angle = torch.acos((directions @ axis).clamp(-1, 1))
    return rotation_vector_to_matrix(across / across.norm(dim=1, keepdim=True).clamp_min(1e-12) * angle[:, None])


def _single_axis(group: Tensor) -> Tensor | None:
    """The axis [3] that all rotations of a group [o, 3, 3] turn about; None if there are several."""
    vectors = matrix_to_rotation_vector(group[1:])
    axes = vectors / vectors.norm(dim=1, keepdim=True)
    return axes[0] if bool(((axes @ axes[0]).abs() > 1 - 1e-9).all()) else None


def _root(agreement: float) -> float:
    return math.sqrt(min(max(agreement, 0.0), 1.0))
