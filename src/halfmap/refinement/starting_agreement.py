"""Whether starts that know nothing of each other found the same map.

Two starts see the same images. If both are right, the poses of one are those of the other in another frame, and
perhaps of the other hand: an image cannot tell a map from its mirror image. Their maps, brought into one frame by these
poses, are then compared by FSC.

Poses in common are counted beyond chance, as Cohen (1960, Educ. Psychol. Meas. 20, 37) counts agreement: where a map
says nothing, all images may have one pose, and in any two such starts they have it in common.

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
FEWEST = 8  # images by which two classes are compared
EXCHANGED = 7  # times that images are given the poses of others; less than FEWEST, so that none keeps its own
BOTH_HANDS = 0.9  # FSC with the mirror image that no shell of a map of one hand keeps
HALF_TURN = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Agreement:
    """What two starts have in common.

    share: of the images that hold a particle in one of them, with the same pose in both, beyond chance: 0 for what
    images have in common whose poses were exchanged, 1 for all. mirrored: whether the other is of the other hand.
    resolution: in angstrom, FSC 0.5 of the maps in one frame, the length of the box where they have nothing in common.
    curve [s]: that FSC.
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
class FoundMaps:
    """Maps [k] of classes [z, y, x], with the poses of all images."""

    maps: tuple[Tensor, ...]
    poses: ImagePoses


def of_both_hands(v: Tensor, limit: int) -> bool:
    """Whether a map [z, y, x] is its own mirror image in all shells up to ``limit``, as one is that holds both hands at
    once. Its point group must have many axes, in their places: other maps would have to be turned first."""
    return float(fsc(v, mirrored(v))[1 : limit + 1].min()) > BOTH_HANDS


def mirrored(v: Tensor) -> Tensor:
    """The mirror image of a map v [z, y, x]: V(-x), about the box centre."""
    flipped = v.flip(0, 1, 2)
    return flipped if v.shape[0] % 2 else torch.roll(flipped, (1, 1, 1), (0, 1, 2))


def agreement(first: FoundMaps, other: FoundMaps, grid: Grid, group: Tensor) -> Agreement:
    """Compare maps on ``grid`` and poses of the same images, modulo operators [o, 3, 3] in the first's frame.

    Of several classes each of the first is compared with that of the other in which most of its images have the same
    pose; the map and the hand are those of the largest one.
    """
    mine, its = first.poses.present > SURE, other.poses.present > SURE
    sure = mine & its
    nothing = _Pair(0, 0.0, False, grid.length, torch.zeros(grid.box // 2 + 1))
    pairs = []
    for a in first.poses.class_of[sure].bincount().argsort(descending=True).tolist():
        found = [_compared(first, other, a, b, sure, grid, group) for b in range(len(other.maps))]
        pairs.append(max((one for one in found if one is not None), key=lambda one: one.same, default=nothing))
    chance = sum(pair.chance for pair in pairs)
    beyond = max(0.0, sum(pair.same for pair in pairs) - chance)
    best = pairs[0] if pairs else nothing
    return Agreement(beyond / max(1.0, int((mine | its).sum()) - chance), best.mirrored, best.resolution, best.curve)


@dataclass(frozen=True)
class _Pair:
    """A class of each of two starts: how many images have the same pose in both, how many would by chance, and the rest
    as in `Agreement`."""

    same: int
    chance: float
    mirrored: bool
    resolution: float
    curve: Tensor


def _compared(
    first: FoundMaps, other: FoundMaps, a: int, b: int, sure: Tensor, grid: Grid, group: Tensor
) -> _Pair | None:
    """Compare class a of the first with class b of the other, by the images that are in both."""
    both = sure & (first.poses.class_of == a) & (other.poses.class_of == b)
    if int(both.sum()) < FEWEST:
        return None
    wanted, best = first.poses.rotations[both].double(), None
    for mirror in (False, True):
        rotations = other.poses.rotations[both].double()
        rotations = HALF_TURN @ rotations if mirror else rotations
        frame, angle = common_frame(rotations, wanted, group)  # a point x of the first is at frame x of the other
        same = int((angle < NEAR).sum())
        if best is not None and same <= best.same:
            continue
        difference = (first.poses.shifts[both] - other.poses.shifts[both]).double()
        back = -frame.T @ common_shift(rotations, difference, angle < GOOD)
        volume = mirrored(other.maps[b].cpu()) if mirror else other.maps[b].cpu()
        curve = fsc(first.maps[a].cpu(), moved(volume, frame.T, back, grid.pixel_size))
        chance = _by_chance(rotations @ frame, wanted, group)
        best = _Pair(same, chance, mirror, resolution(curve, grid.box, grid.pixel_size, 0.5), curve)
    return best


def _by_chance(rotations: Tensor, wanted: Tensor, group: Tensor) -> float:
    """How many of rotations [b, 3, 3] are near those that are wanted for other images, modulo operators [o, 3, 3]."""
    near = 0
    for by in range(1, EXCHANGED + 1):
        mates = wanted.roll(by * len(wanted) // (EXCHANGED + 1), 0)[:, None] @ group.double()
        trace = (rotations[:, None] * mates).sum(dim=(2, 3)).amax(dim=1)
        near += int((trace > 1 + 2 * math.cos(NEAR)).sum())
    return near / EXCHANGED
