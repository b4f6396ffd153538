"""How far refined poses lie from known ones, once the free choice of frame is taken out."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.particles.table import ParticleTable

CANDIDATES = 200  # particles whose own difference is tried as the frame
JUDGES = 1000  # particles that a candidate is judged on
FAR = math.radians(20.0)  # errors beyond this count as this much when frames are compared
GOOD = math.radians(15.0)  # particles within this decide the frame


class PoseError(TypedDict):
    """Errors of refined poses: angles in degrees, shifts in A; `above10` is a fraction; `frame` [3][3] and
    `shift` [3] carry the true map's coordinates x into the refined map's, frame @ x + shift."""

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

    Raises InputError where a table has no poses or a refined particle is not in the truth.
    """
    rows = _matching_rows(refined, truth)
    if refined.rotations is None or truth.rotations is None:
        lacking = refined.source if refined.rotations is None else truth.source
        raise InputError(f"{lacking}: has no angles to compare; give the table of a refinement")
    wanted, known = refined.rotations, truth.rotations[rows]
    frame, angle = common_frame(wanted, known, group)
    difference = refined.origins - truth.origins[rows]
    shift = common_shift(wanted, difference, angle < GOOD)
    rest = (difference - (wanted[:, :2].double() @ shift)).norm(dim=1)
    degrees = torch.rad2deg(angle)
    return PoseError(
        particles=len(angle), median=float(degrees.median()), p80=float(torch.quantile(degrees, 0.8)),
        above10=float((degrees > 10).double().mean()), shift_median=float(rest.median()),
        frame=frame.tolist(), frame_angle=math.degrees(float(_angle(torch.trace(frame)))),
        shift=shift.tolist())


def common_frame(refined: Tensor, truth: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation G[3,3] that brings refined[b,3,3] closest to truth[b,3,3], and the angles[b] (radians)
    that remain.

    With x' = G x between the maps' frames, a perfect refinement has R' G = R g for some g of group[o,3,3]. G
    starts at the best of the particles' own R'^T R (smallest mean error, large ones capped, so that lost
    particles do not vote) and becomes the mean over the particles that agree.
    """
    between = refined.double().transpose(1, 2) @ truth.double()
    group = group.double()
    pick = torch.linspace(0, len(between) - 1, min(CANDIDATES, len(between))).long()
    judges = between[torch.linspace(0, len(between) - 1, min(JUDGES, len(between))).long()]
    scores = [_errors(judges, candidate, group)[0].clamp(max=FAR).mean() for candidate in between[pick]]
    frame = between[pick[torch.stack(scores).argmin()]]
    for _ in range(10):
        angle, nearest = _errors(between, frame, group)
        good = angle < GOOD
        frame = _nearest_rotation((between @ group[nearest])[good].sum(0)) if bool(good.any()) else frame
    return frame, _errors(between, frame, group)[0]


def common_shift(refined: Tensor, difference: Tensor, good: Tensor) -> Tensor:
    """The shift d[3] (A) of the refined map that best explains difference[b,2] = (refined - true) origins as
    (R' d)_xy, over the good[b] particles; components that no view can see stay 0."""
    if not bool(good.any()):
        return torch.zeros(3, dtype=torch.float64)
    views = refined.double()[good, :2].reshape(-1, 3)
    return torch.linalg.pinv(views, rtol=1e-3) @ difference.double()[good].reshape(-1)


def _errors(between: Tensor, frame: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Angles[b] between frame and between[b] @ g for the best g, and the index[b] of that g."""
    trace, nearest = (between.flatten(1) @ (frame @ group.transpose(1, 2)).flatten(1).T).max(1)
    return _angle(trace), nearest


def _angle(trace: Tensor) -> Tensor:
    # |A - B|^2 = 6 - 2 trace = 8 sin^2(angle / 2)
    return 2.0 * torch.asin(((3.0 - trace) / 4.0).clamp(0.0, 1.0).sqrt())


def _nearest_rotation(total: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(total)
    sign = torch.ones(3, dtype=total.dtype)
    sign[2] = torch.det(u @ v)
    return (u * sign) @ v


def _matching_rows(refined: ParticleTable, truth: ParticleTable) -> Tensor:
    """The row of truth for each row of refined. Stacks may have been copied: the image number and the stack's
    file name must agree, or the number alone where truth has one stack."""
    single = len(truth.stacks) == 1

    def keys(table: ParticleTable) -> list[tuple[int, str]]:
        stack = ["" if single else path.name for path in table.stacks]
        return [(int(i), stack[int(s)]) for i, s in
                zip(np.asarray(table.image_index), np.asarray(table.stack_index), strict=True)]

    row = {key: i for i, key in enumerate(keys(truth))}
    try:
        return torch.tensor([row[key] for key in keys(refined)])
    except KeyError as error:
        number, stack = error.args[0]
        raise InputError(f"{refined.source}: image {number + 1}@{stack} is not in {truth.source}; "
                         "compare the same particles") from None
