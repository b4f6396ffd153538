"""`halfmap expand`: a symmetry-expanded particle set, in which every subunit of a particle has a row of its own.

A group moves the reference onto itself, so that an image of pose R is one of pose R g too, for every g of the group. In
the expanded set one and the same part of the map is therefore seen as each of the subunits in turn, and it can be
masked, subtracted, classified or refined without symmetry.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.rotations import angular_distance, euler_to_matrix, matrix_to_euler
from halfmap.geometry.symmetry import canonical_name, symmetry_group
from halfmap.particles.same_images import image_numbers
from halfmap.particles.star import read_star, write_star
from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import ParticleTable
from halfmap.runtime import terminal
from halfmap.settings.expand import ExpandSettings
from halfmap.settings.particle_sets import run_folder, run_setting
from halfmap.settings.refine import RefineSettings
from halfmap.validation.halfset_audit import SAME_POSE
from halfmap.workflows.select import half_sizes

ORIGINAL_ROW = "halfmapOriginalRow"
PRIORS = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
LOCAL_ONLY = (
    "Such a set is for local work: subtraction, classification, or a refinement with --search local and --symmetry C1. "
    "A search of all orientations would find the same pose for all copies of an image."
)


def expand(settings: ExpandSettings) -> None:
    """Write every image of settings.particles at all its equivalent poses into settings.out, and say what was done.

    settings: as `validated_expand` returns them. Raises InputError where a file cannot be read or written, has no
    angles, or is expanded already, and where no group is known or it has one element only.
    """
    table = read_star(settings.particles)
    name = _group_of(settings)
    group = symmetry_group(name)
    expanded = expanded_table(table, group)
    write_star(settings.out, expanded)
    lines = [f"{table.source}: {len(table):,} particles, {half_sizes(table)}",
             f"{name}: {len(group)} equivalent poses of every image, the given one first",
             f"Wrote {settings.out}: {len(expanded):,} rows, {half_sizes(expanded)}; {ORIGINAL_ROW} is the row of "
             f"{table.source.name}, counted from 1, that a row comes from"]
    if table.half is None:
        lines.append("note: there are no half sets; draw them before the expansion, or all copies of an image may not "
                     "come into the same one")
    terminal.say_lines([*lines, LOCAL_ONLY], "particles")


def expanded_table(table: ParticleTable, group: Tensor) -> ParticleTable:
    """Each particle once for every element g of group [o, 3, 3], one after the other, at the pose R g.

    Everything else is kept, half sets and shifts among it: a group leaves the box centre where it is. Prior angles of
    RELION are turned too. Raises InputError where there are no poses, or the table is expanded by these elements.
    """
    if table.rotations is None:
        raise InputError(f"{table.source}: has no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); refine the "
                         "particles first")
    _check_not_expanded(table, group)
    result = table.select(np.repeat(np.arange(len(table)), len(group)))
    columns = dict(result.columns)
    if ORIGINAL_ROW not in columns:
        columns[ORIGINAL_ROW] = np.repeat(table.rows + 1, len(group))
    if all(label in columns for label in PRIORS):
        angles = np.stack([numbers_of(table.columns[label]) for label in PRIORS], axis=1)
        turned = matrix_to_euler(_turned(euler_to_matrix(torch.from_numpy(angles)), group))
        columns |= {label: turned[:, i].numpy() for i, label in enumerate(PRIORS)}
    return replace(result, columns=columns, rotations=_turned(table.rotations, group))


def _turned(rotations: Tensor, group: Tensor) -> Tensor:
    """R g [b o, 3, 3] of rotations R [b, 3, 3], with all elements of a particle side by side."""
    return (rotations[:, None] @ group.to(rotations)).flatten(0, 1)


def _check_not_expanded(table: ParticleTable, group: Tensor) -> None:
    """Raise InputError where an image is there at two poses that the group makes equivalent."""
    assert table.rotations is not None
    (images,) = image_numbers(table)
    order = np.argsort(images, kind="stable")
    images, rotations = images[order], table.rotations[torch.from_numpy(order)]
    for apart in range(1, int(np.unique(images, return_counts=True)[1].max())):
        copies = np.flatnonzero(images[apart:] == images[:-apart])
        between = angular_distance(rotations[copies], rotations[copies + apart], group)
        same = copies[(between < SAME_POSE).numpy()] + apart
        if len(same):
            raise InputError(f"{table.name(int(order[same].min()))}: the same image is in an earlier row, at the same "
                             "or an equivalent pose; expand the file that has every image once")


def _group_of(settings: ExpandSettings) -> str:
    """The point group's name. Raises InputError where none is given or known, and for C1."""
    name = settings.symmetry
    if name is None:
        run = run_folder(settings.particles)
        if run is None:
            raise InputError(f"{settings.particles}: is not the particles.star of a run whose symmetry is known; give "
                             "--symmetry")
        name = str(run_setting(run, "symmetry") or RefineSettings.symmetry)
    name = canonical_name(name)
    if name == "C1":
        raise InputError("--symmetry C1: has one element, which leaves every pose as it is; give the group of the "
                         "particle")
    return name
