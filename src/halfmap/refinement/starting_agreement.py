"""Whether starts that know nothing of each other found the same map.

Two starts see the same images. If both are right, the poses of one are those of the other in another frame, and
perhaps of the other hand: an image cannot tell a map from its mirror image. Their maps, brought into one frame by these
poses, are then compared by FSC.

The mirror image V'(x) = V(-x) shows at the pose R what V shows at D R, with D = diag(-1, -1, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.maps.grid import Grid
from halfmap.maps.rigid import moved
from halfmap.refinement.soft_em import ImagePoses
from halfmap.validation.fsc import fsc, resolution
from halfmap.validation.poses import GOOD, common_frame, common_shift

NEAR = math.radians(20.0)  # poses that differ by less are the same: a grid of 15 degrees finds no better ones
AGREEING = 0.45  # share of the images with the same pose from which on two starts agree; by chance it is a few per cent
SURE = 0.5  # probability of a particle from which on an image is asked
HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Agreement:
    """What two starts have in common.

    share: of the images that hold a particle, with the same pose in both. mirrored: whether the other is of the other
    hand. resolution: in angstrom, FSC 0.5 of the maps in one frame, the length of the box where they have nothing in
    common. curve [s]: that FSC.
    """

    share: float
    mirrored: bool
    resolution: float
    curve: Tensor

    @property
    def agrees(self) -> bool:
        """Whether both found the same."""
        return self.share >= AGREEING


@dataclass(frozen=True)
class FoundMap:
    """A map [z, y, x] with the poses of its images."""

    map: Tensor
    poses: ImagePoses


def mirrored(v: Tensor) -> Tensor:
    """The mirror image of a map v [z, y, x]: V(-x), about the box centre."""
    flipped = v.flip(0, 1, 2)
    return flipped if v.shape[0] % 2 else torch.roll(flipped, (1, 1, 1), (0, 1, 2))


def agreement(first: FoundMap, other: FoundMap, grid: Grid, group: Tensor) -> Agreement:
    """Compare two maps on ``grid`` and poses of the same images, modulo operators [o, 3, 3] in the first's frame."""
    sure = (first.poses.present > SURE) & (other.poses.present > SURE)
    if int(sure.sum()) < 2:
        return Agreement(0.0, False, grid.length, torch.zeros(grid.box // 2 + 1))
    wanted = first.poses.rotations[sure].double()
    best: Agreement | None = None
    for mirror in (False, True):
        rotations = other.poses.rotations[sure].double()
        rotations = HALF_TURN @ rotations if mirror else rotations
        frame, angle = common_frame(rotations, wanted, group)  # a point x of the first is at frame x of the other
        share = float((angle < NEAR).double().mean())
        if best is not None and share <= best.share:
            continue
        difference = (first.poses.shifts[sure] - other.poses.shifts[sure]).double()
        back = -frame.T @ common_shift(rotations, difference, angle < GOOD)
        volume = mirrored(other.map.cpu()) if mirror else other.map.cpu()
        curve = fsc(first.map.cpu(), moved(volume, frame.T, back, grid.pixel_size))
        best = Agreement(share, mirror, resolution(curve, grid.box, grid.pixel_size, 0.5), curve)
    assert best is not None
    return best
