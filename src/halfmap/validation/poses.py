"""How far refined poses are from known ones, independent of the frame, which a refinement chooses freely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.particles.table import ParticleTable

CANDIDATES = 200  # number of particles whose own difference is tried as the frame
JUDGES = 1000  # number of particles by which a candidate is judged
FAR = math.radians(20.0)  # larger errors count as this much when frames are compared
GOOD = math.radians(15.0)  # particles with smaller errors decide the frame


class PoseError(TypedDict):
    """Errors of refined poses: angles in degrees, shifts in A.

    `above10` is a fraction. `frame` [3][3] and `shift` [3] map coordinates x of the true map to those of the refined
    map, frame @ x + shift.
    """

    particles: int
    median: float
    p80: float
    above10: float
    shift_median: float
    frame: list[list[float]]
    frame_angle: float
    shift: list[float]


def pose_error(refined: ParticleTable, truth: ParticleTable, group: Tensor) -> PoseError:
    """Compare the poses of two tables, particles matched by rlnImageName, modulo the symmetry group[o,3,3].

    Raises InputError where a table has no poses, or where a refined particle is not in the truth.
    """
    left = pose_differences(refined, truth.select(matching_rows(refined, truth)), group)
    return PoseError(
        particles=len(left.angles), median=float(left.angles.median()), p80=float(torch.quantile(left.angles, 0.8)),
        above10=left.above(10.0), shift_median=float(left.shifts.median()),
        frame=left.frame.tolist(), frame_angle=left.frame_angle, shift=left.shift.tolist())


@dataclass(frozen=True)
class PoseDifferences:
    """How the poses of two tables differ when the frame is the same: angles[b] in degrees, shifts[b] in A.

    frame[3,3] and shift[3] (A) map the other table's map to that of the first, as in `PoseError`.
    """

    angles: Tensor
    shifts: Tensor
    frame: Tensor
    shift: Tensor

    def above(self, degrees: float) -> float:
        """The fraction of particles that differ by more than so many degrees."""
        return float((self.angles > degrees).double().mean())

    @property
    def frame_angle(self) -> float:
        """The angle in degrees between the frames."""
        return math.degrees(float(_angle(torch.trace(self.frame))))


@dataclass(frozen=True)
class _Errors:
    """Angles[b] (radians) that remain for the best element of a group, and the index nearest[b] of that element."""

    angles: Tensor
    nearest: Tensor


def pose_differences(table: ParticleTable, other: ParticleTable, group: Tensor) -> PoseDifferences:
    """Compare the poses of two tables of the same particles in the same order, modulo the symmetry group[o,3,3].

    Of all equivalent frames the one with the smallest rotation is taken. Raises InputError where a table has no poses.
    """
    if table.rotations is None or other.rotations is None:
        lacking = table.source if table.rotations is None else other.source
        raise InputError(f"{lacking}: has no angles to compare; give the table of a refinement")
    frame, angle = common_frame(table.rotations, other.rotations, group)
    equivalent = frame @ group.double()
    frame = equivalent[equivalent.diagonal(dim1=1, dim2=2).sum(1).argmax()]
    difference = table.origins - other.origins
    shift = common_shift(table.rotations, difference, angle < GOOD)
    rest = (difference - (table.rotations[:, :2].double() @ shift)).norm(dim=1)
    return PoseDifferences(torch.rad2deg(angle), rest, frame, shift)


def common_rows(table: ParticleTable, other: ParticleTable) -> tuple[Tensor, Tensor]:
    """The rows[b] in the first and in the other table of the images that both hold, in the order of the first.

    An image is identified by its number and its stack's path. Where no path is in both tables, the stack's file name
    takes the place of the path, because stacks may have been copied. Of several rows of one image the first counts.
    """
    paths = [{str(path.absolute()) for path in one.stacks} for one in (table, other)]
    keys = [_image_keys(one, [str(path.absolute()) if paths[0] & paths[1] else path.name for path in one.stacks])
            for one in (table, other)]
    first, second = ({key: row for row, key in reversed(list(enumerate(one)))} for one in keys)
    shared = [(row, second[key]) for key, row in first.items() if key in second]
    rows = torch.tensor(sorted(shared), dtype=torch.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def common_frame(refined: Tensor, truth: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation G[3,3] that brings refined[b,3,3] closest to truth[b,3,3], and the angles[b] (radians) that remain.

    With x' = G x between the maps' frames, a perfect refinement has R' G = R g for some g of group[o,3,3]. G starts as
    the best of the particles' own R'^T R, that with the smallest mean error. Large errors are capped, so that lost
    particles do not vote. G then becomes the mean over the particles that agree with it.
    """
    between = refined.double().transpose(1, 2) @ truth.double()
    group = group.double()
    pick = torch.linspace(0, len(between) - 1, min(CANDIDATES, len(between))).long()
    judges = between[torch.linspace(0, len(between) - 1, min(JUDGES, len(between))).long()]
    scores = [_errors(judges, candidate, group).angles.clamp(max=FAR).mean() for candidate in between[pick]]
    frame = between[pick[torch.stack(scores).argmin()]]
    for _ in range(10):
        errors = _errors(between, frame, group)
        good = errors.angles < GOOD
        frame = _nearest_rotation((between @ group[errors.nearest])[good].sum(0)) if bool(good.any()) else frame
    return frame, _errors(between, frame, group).angles


def common_shift(refined: Tensor, difference: Tensor, good: Tensor) -> Tensor:
    """The shift d[3] (A) of the refined map that best explains difference[b,2] = (refined - true) origins as (R' d)_xy.

    Only the particles with good[b] count. Components of d that no view can see are 0.
    """
    if not bool(good.any()):
        return torch.zeros(3, dtype=torch.float64, device=refined.device)
    views = refined.double()[good, :2].reshape(-1, 3)
    return torch.linalg.pinv(views, rtol=1e-3) @ difference.double()[good].reshape(-1)


def _errors(between: Tensor, frame: Tensor, group: Tensor) -> _Errors:
    """How far frame[3,3] and between[b,3,3] @ g are apart, for the g of group[o,3,3] that brings them closest."""
    trace, nearest = (between.flatten(1) @ (frame @ group.transpose(1, 2)).flatten(1).T).max(1)
    return _Errors(_angle(trace), nearest)


def _angle(trace: Tensor) -> Tensor:
    # |A - B|^2 = 6 - 2 trace = 8 sin^2(angle / 2)
    return 2.0 * torch.asin(((3.0 - trace) / 4.0).clamp(0.0, 1.0).sqrt())


def _nearest_rotation(total: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(total)
    sign = total.new_ones(3)
    sign[2] = torch.det(u @ v)
    return (u * sign) @ v


def matching_rows(refined: ParticleTable, truth: ParticleTable) -> Tensor:
    """The row of truth for each row of refined.

    Stacks may have been copied: the image number and the stack's file name must agree, or the number alone where truth
    has one stack. Raises InputError where truth lacks an image.
    """
    single = len(truth.stacks) == 1
    keys, wanted = (_image_keys(table, ["" if single else path.name for path in table.stacks])
                    for table in (truth, refined))
    row = {key: i for i, key in enumerate(keys)}
    try:
        return torch.tensor([row[key] for key in wanted])
    except KeyError as error:
        number, stack = error.args[0]
        raise InputError(f"{refined.source}: image {number + 1}@{stack} is not in {truth.source}; "
                         "compare the same particles") from None


def _image_keys(table: ParticleTable, stacks: list[str]) -> list[tuple[int, str]]:
    """(image number from 0, name of its stack) of every row; stacks holds the name of each stack of the table."""
    return [(int(i), stacks[int(s)]) for i, s in
            zip(np.asarray(table.image_index), np.asarray(table.stack_index), strict=True)]
