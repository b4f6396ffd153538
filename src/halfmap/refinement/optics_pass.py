"""One pass over the images that fits the optics to them, at the poses and with the references of a state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfmap.ctf_refinement.fit import Fit
from halfmap.ctf_refinement.own_noise import OwnNoise
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.ctf_refinement.registry import Choices, fits_for
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import Geometries
from halfmap.particles.source import ParticleSource
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.problem import Problem
from halfmap.refinement.refined_optics import RefinedOptics, summary
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import State

SAMPLE = 400  # images of each half set that their own noise is measured in


@dataclass(frozen=True)
class Compared:
    """Images that are compared with the same maps.

    own [z, y, x]: of their half set; other [z, y, x]: of the other one; members int64 [m]: their particles.
    """

    own: Tensor
    other: Tensor
    members: Tensor


def refitted(problem: Problem, state: State, plan: Plan, advance: Callable[[int], None] = lambda n: None) -> State:
    """The state with optics fitted anew, where the plan wants that. All processes of a run call it together."""
    if plan.optics is None:
        return state
    table, ranks = problem.source.table, problem.ranks
    geometries = Geometries(problem.model.box, problem.model.pixel_size, plan.optics.last, state.references[0].device)
    fits = fits_for(problem.optics, table, geometries, plan.optics, Choices())

    def mine(half: int) -> Tensor:
        members = problem.chosen(plan.images, half, torch.nonzero(state.poses.half == half)[:, 0])
        return problem.source.share(members, ranks.rank, ranks.world) if ranks.world > 1 else members

    compared = [Compared(state.references[half], state.references[1 - half], mine(half)) for half in range(HALVES)]
    count_images(compared, state, problem.source, problem.model, plan.optics, fits, lambda n: advance(n * ranks.world),
                 ranks.add_)
    ranks.add_([sums for fit in fits for sums in fit.sums()])
    found: list[dict[str, Any]] = []
    if ranks.first:
        for fit in fits:  # each about the values that the one before left
            solved = fit.solved(table)
            table, found = solved.table, [*found, *map(summary, solved.fitted)]
    return replace(state, optics=ranks.told(RefinedOptics(table.defocus, table.optics, found)))


def count_images(
    compared: Sequence[Compared], state: State, source: ParticleSource, model: ImagingModel, used: Range,
    fits: Sequence[Fit], advance: Callable[[int], None] = lambda n: None,
    add_up_: Callable[[list[Tensor]], object] = lambda sums: None,
) -> None:  # fmt: skip
    """Add images that have a pose to the fits, each against its map.

    Values that both half sets get are fitted against the map of the other half set, all others against that of the own
    one, less what images find of their own noise in it. used: shells that are fitted to. add_up_: adds tensors of all
    processes up, in place.
    """
    kinds = [[fit for fit in fits if fit.common == common] for common in (False, True)]
    own_noise = None
    if kinds[0]:
        own_noise = OwnNoise(used)
        for one in compared:
            some = replace(one, members=one.members[:: max(1, math.ceil(len(one.members) / SAMPLE))])
            for posed in _posed(some, state, source, model, used):
                own_noise.add_(posed, True)
                own_noise.add_(posed.exchanged(), False)
        add_up_(own_noise.sums())
    for one in compared:
        for posed in _posed(one, state, source, model, used, advance):
            own = posed if own_noise is None else replace(posed, own_noise=own_noise.share())
            for against, some_fits in zip((own, posed.exchanged()), kinds, strict=True):
                products = against.products(used) if some_fits else None
                for fit in some_fits:
                    assert products is not None
                    fit.add_(against, products)


def _posed(
    compared: Compared, state: State, source: ParticleSource, model: ImagingModel, used: Range,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[PosedImages]:  # fmt: skip
    """Images, those of one optics group at a time, at the best pose of each."""
    own, other = (Reference(half_volume(one, model.padding, used.last + 1), model.padding)
                  for one in (compared.own, compared.other))
    device = own.volume.device
    power = ProjectedPower.of(compared.own, model.pixel_size)
    geometries = Geometries(model.box, model.pixel_size, used.last, device)
    for batch in source.stream(compared.members[state.poses.known[compared.members]]):
        for part in batch.apart():
            index = part.index
            shifts = state.poses.shifts[index, 0]
            images = band_batch(state, source, model, geometries, part, shifts.round().long(), used.last, power)
            yield PosedImages(
                index, part.group, images, own, other, state.poses.rotations[index, 0].double().to(device),
                shifts.double().to(device), (state.poses.present[index] * part.sound).to(device),
                source.table.defocus[index].to(device),
            )  # fmt: skip
        advance(len(batch))
