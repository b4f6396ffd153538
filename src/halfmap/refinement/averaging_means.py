"""The M-step of two-dimensional classification: class means from sums, centred, and empty classes seeded anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle
from halfmap.reconstruction.class_means import (
    Plane,
    agreement,
    at_least_faint,
    centre_of_mass,
    divided,
    folded,
    images_of,
    moved,
)
from halfmap.refinement.averaging_schedule import ClassPlan, ClassSchedule
from halfmap.refinement.averaging_state import ClassMeans
from halfmap.refinement.averaging_sums import AveragingSums
from halfmap.validation.fsc import GOLD_STANDARD

EDGE = 0.06  # of the box: width of the means' mask's edge
EMPTY = 0.1  # of the mean share of a class: below it a class is seeded anew
FEW_LIKELY = 0.1  # of a class's images that are likelier than noise, below which it holds noise
EVENED, MOST_EVENED = 0.5, 4.0  # of log shares, that the prior makes up for after an iteration; and in all, nats


@dataclass(frozen=True)
class MadeMeans:
    """Means, how many classes were seeded anew, and by what means [c, 2] were moved to their centres, in A."""

    means: ClassMeans
    seeded: int
    by: Tensor


def made_means(sums: AveragingSums, plan: ClassPlan, schedule: ClassSchedule) -> MadeMeans:
    """Means from the sums of all images, centred."""
    plane, grid = Plane(schedule.grid.box, plan.limit), schedule.grid
    side = plane.side
    mask = mean_mask(grid, schedule.diameter, side)
    halves = [folded(one) for one in sums.planes]
    raw = torch.stack([images_of(divided(one, plane), plane, side) * mask for one in halves])
    seen = agreement(raw, plane)
    share = sums.mass / sums.mass.sum().clamp_min(1e-12)
    transforms = divided(halves[0] + halves[1], plane, at_least_faint(seen.signal, share))
    resolution = [_resolution(one, grid) for one in seen.correlation]
    share = _closed(share, sums, plan)
    resolution = [one if float(s) > 0 else grid.length for one, s in zip(resolution, share, strict=True)]
    seeded = 0
    if plan.seeds:
        seeded = _seed_(transforms, share, resolution, [divided(one, plane, at_least_faint(seen.signal, share))
                                                        for one in halves])
    images = images_of(transforms, plane, side) * mask
    by = -centre_of_mass(images) * grid.box  # pixels of the box
    by *= (0.05 * grid.box / by.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1.0)
    transforms = moved(transforms, plane, by)
    images = images_of(transforms, plane, side) * mask
    made = ClassMeans(plane, transforms, images, share, tuple(resolution), seen.correlation)
    return MadeMeans(made, seeded, by * grid.pixel_size)


def mean_mask(grid: Grid, diameter: float, side: int) -> Tensor:
    """The soft circle [y, x] of the diameter (A) on ``side`` pixels over the grid's field."""
    pixel = grid.length / side
    return soft_circle(side, min(0.5 * diameter / pixel, side / 2 - 1.0), EDGE * side)


def evened(log_prior: Tensor, share: Tensor) -> Tensor:
    """The log prior [c] of classes moved against their shares [c].

    The mean of a large class has less noise than others, so that images fit it better for that alone: without this one
    class takes four fifths of real images of apoferritin. A few nats decide only where the images do not.
    """
    moved_by = EVENED * (share * len(share)).clamp_min(EMPTY).log()
    return (log_prior - moved_by).clamp(-MOST_EVENED, MOST_EVENED)


def _closed(share: Tensor, sums: AveragingSums, plan: ClassPlan) -> Tensor:
    """Shares [c], 0 for classes of whose images hardly any is likelier under their mean than as noise alone.

    Images of noise have a mean too, and a class of them would take the place of the hypothesis that they hold nothing.
    The expectation of the evidence is 1 under noise, so that it exceeds 20 in a twentieth of such images at most.
    """
    if not plan.null or plan.seeds:  # what is seeded anew may yet become something
        return share
    void = (sums.likely < FEW_LIKELY * sums.images) & (sums.images > 0)
    return share if bool(void.all()) else torch.where(void, 0.0, share)


def _resolution(correlation: Tensor, grid: Grid) -> float:
    """Where the correlation [s] of half means first falls below GOLD_STANDARD, in A, between two shells."""
    for s in range(2, len(correlation)):
        low, high = float(correlation[s]), float(correlation[s - 1])
        if low < GOLD_STANDARD:
            at = s - 1 + (high - GOLD_STANDARD) / (high - low) if high > GOLD_STANDARD else s - 1.0
            return grid.length / max(at, 1.0)
    return grid.length / (len(correlation) - 1)


def _seed_(transforms: Tensor, share: Tensor, resolution: list[float], halves: list[Tensor]) -> int:
    """Give empty classes a half mean of the largest ones, in place, which keep the other. Returns how many."""
    empty = torch.nonzero(share < EMPTY / len(share))[:, 0].tolist()
    large = torch.argsort(share, descending=True).tolist()[: len(empty)]
    count = 0
    for c, source in zip(empty, large, strict=True):
        if float(share[source]) < 1.5 / len(share):
            break
        transforms[source], transforms[c] = halves[0][source], halves[1][source]
        share[source] = share[c] = 0.5 * float(share[source])
        resolution[c] = resolution[source]
        count += 1
    return count
