"""The starting map as it is given: whether it is centred, and whether it has the symmetry where it should be.

A map that lies elsewhere in its box, or whose axes lie elsewhere, is another reference than the one that was meant:
symmetry imposed about wrong axes blurs it, and images then find wrong poses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.maps.density import Density, density_of
from halfmap.maps.rigid import moved
from halfmap.validation.symmetry_axes import SymmetryAxes, symmetry_axes

OFF_CENTRE = 0.15  # distance of the centre of mass over the diameter, from which on a start is re-centred
_ROUNDS = 4  # of centring: what lies beyond the box's sphere is not seen at first
OFF_AXIS = 0.98  # a map correlates less with its symmetrised self where its axes are elsewhere
UNLIKE = 0.95  # or it has no such symmetry
NO_AXES = 0.9  # nor any to be turned by
CLEARED = 0.4  # right axes leave less than this of the part that is not symmetric


@dataclass(frozen=True)
class Wanted:
    """What a starting map is for.

    diameter, resolution: of the particle, and of what is kept of the map, in A. symmetry: the point group's name; group
    [o, 3, 3]: its rotations. searched: whether poses are sought from the map; given ones belong to it as it lies.
    masked: whether a mask belongs to it as it lies. align: whether it shall be turned onto the group's axes.
    """

    diameter: float
    resolution: float
    symmetry: str
    group: Tensor
    searched: bool
    masked: bool
    align: bool


@dataclass(frozen=True)
class Placed:
    """A starting map [z, y, x] where it is used, its density (None where nothing stands out), and what was found."""

    map: Tensor
    density: Density | None
    findings: list[Finding]


def placed(name: str, v: Tensor, pixel_size: float, wanted: Wanted) -> Placed:
    """The starting map v [z, y, x], centred and turned onto the axes of its symmetry as far as that is wanted.

    name: of its file. Raises InputError where it shall be turned, and has no such symmetry about any axes.
    """
    start = _centred(name, v, pixel_size, wanted)
    if len(wanted.group) == 1:
        return start
    v, found = start.map, start.findings
    axes = symmetry_axes(v, pixel_size, wanted.resolution, wanted.diameter, wanted.group)
    if not wanted.align:
        return replace(start, findings=found + _off_axes(name, axes, wanted))
    if axes.best < NO_AXES:
        raise InputError(f"--align-start: {name} has no {wanted.symmetry} axes to turn by: about the best ones it "
                         f"correlates {axes.best:.2f} with its symmetrised self; check --symmetry")
    v = moved(v, axes.rotation, axes.shift, pixel_size)
    text = (f"{name}: turned by {axes.angle:.1f} degrees and moved by {axes.distance:.1f} A onto the axes of "
            f"{wanted.symmetry}: it correlates {axes.best:.3f} with its symmetrised self, {axes.as_is:.3f} before")
    return Placed(v, density_of(v, pixel_size), [*found, Finding("start aligned", text, "starting map", "note")])


def _centred(name: str, v: Tensor, pixel_size: float, wanted: Wanted) -> Placed:
    """The map with its centre of mass in the box's centre, if that is far off and nothing speaks against it."""
    density = density_of(v, pixel_size)
    if density is None or not wanted.searched:
        return Placed(v, density, [])
    centre = density.centre
    far = float(centre.norm())
    whole = (density.held_within(wanted.diameter), density.held_within(wanted.diameter, centre))
    if far <= OFF_CENTRE * wanted.diameter or whole[1] < whole[0]:
        return Placed(v, density, [])
    lies = f"{name}: its density lies {far:.0f} A off the centre of the box"
    if wanted.masked:
        stays = f"{lies} and stays there, because a mask was drawn on it"
        return Placed(v, density, [Finding("start off centre", stays, "starting map", "note")])
    voxels, there = torch.zeros(3, dtype=torch.int32), v
    for _ in range(_ROUNDS):
        step = (-density.centre / pixel_size).round().int()
        voxels, there = voxels + step, _shifted(v, voxels + step)
        after = density_of(there, pixel_size)
        if after is None or not bool(step.any()):
            break
        density = after
    text = f"{lies}; it was moved by ({', '.join(str(int(n)) for n in voxels)}) voxels along x, y, z"
    return Placed(there, density, [Finding("start re-centred", text, "starting map", "note")])


def _shifted(v: Tensor, voxels: Tensor) -> Tensor:
    """The map v [z, y, x] moved by whole voxels (x, y, z). What comes in is 0."""
    v = v.clone()
    for axis, step in zip((2, 1, 0), voxels.tolist(), strict=True):
        v = torch.roll(v, step, axis)
        if step:
            v.narrow(axis, 0 if step > 0 else v.shape[axis] + step, abs(step)).zero_()
    return v


def _off_axes(name: str, axes: SymmetryAxes, wanted: Wanted) -> list[Finding]:
    """What is to be said of a map about the axes where it lies and about the best ones."""
    group, said = wanted.symmetry, f"correlates {axes.as_is:.3f} with its {wanted.symmetry}-symmetrised self"
    found = f"{axes.best:.3f} about axes that a turn by {axes.angle:.0f} degrees and a shift by {axes.distance:.0f} A"
    cleared = 1 - axes.best**2 < CLEARED * (1 - axes.as_is**2)
    if not wanted.searched:
        cure = "turn it together with the poses of the particle file"
    elif wanted.masked:
        cure = "turn it and the mask"
    else:
        cure = "--align-start does so"
    if axes.as_is < OFF_AXIS <= axes.best and cleared:
        text = f"{name}: {said}, but {found} would bring to where {group} has them: its axes lie elsewhere; {cure}"
        return [Finding("start off its symmetry axes", text, "starting map")]
    if axes.as_is < UNLIKE:
        text = (f"{name}: {said}, and {found} would bring to where {group} has them: is {group} the particle's "
                f"symmetry? If it is and the axes are off, {cure}")
        return [Finding("start without the symmetry", text, "starting map")]
    return []
