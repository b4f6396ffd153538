"""One pass over the images that fits the optics to them, at the poses and with the references of a state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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

    count_images(state, problem.source, problem.model, plan.optics, fits, mine, lambda n: advance(n * ranks.world),
                 ranks.add_)
    ranks.add_([sums for fit in fits for sums in fit.sums()])
    found: list[dict[str, Any]] = []
    if ranks.first:
        for fit in fits:  # each about the values that the one before left
            solved = fit.solved(table)
            table, found = solved.table, [*found, *map(summary, solved.fitted)]
    return replace(state, optics=ranks.told(RefinedOptics(table.defocus, table.optics, found)))


def count_images(
    state: State, source: ParticleSource, model: ImagingModel, used: Range, fits: Sequence[Fit],
    members: Callable[[int], Tensor] | None = None, advance: Callable[[int], None] = lambda n: None,
    add_up_: Callable[[list[Tensor]], object] = lambda sums: None,
) -> None:  # fmt: skip
    """Add images that have a pose to the fits, each half set against its own reference.

    used: shells that are fitted to. members: the particles int64 [m] of a half set that this process deals with; None:
    all. add_up_: adds tensors of all processes up, in place.
    """
    halves = []
    for half in range(HALVES):
        own = torch.nonzero(state.poses.half == half)[:, 0] if members is None else members(half)
        halves.append(own[state.poses.known[own]])
    noise = OwnNoise(used)
    for reference in range(HALVES):
        for half, every in enumerate(halves):
            some = every[:: max(1, math.ceil(len(every) / SAMPLE))]
            for posed in _posed(state, source, model, used, reference, some):
                noise.add_(posed, half == reference)
    add_up_(noise.sums())
    for half, every in enumerate(halves):
        for posed in _posed(state, source, model, used, half, every, advance):
            posed = replace(posed, own_noise=noise.share())
            products = posed.products(used)
            for fit in fits:
                fit.add_(posed, products)


def _posed(
    state: State, source: ParticleSource, model: ImagingModel, used: Range, number: int, members: Tensor,
    advance: Callable[[int], None] = lambda n: None,
) -> Iterator[PosedImages]:  # fmt: skip
    """These images, those of one optics group at a time, at the best pose of each, against the reference of a half
    set."""
    reference = Reference(half_volume(state.references[number], model.padding, used.last + 1), model.padding)
    device = reference.volume.device
    power = ProjectedPower.of(state.references[number], model.pixel_size)
    geometries = Geometries(model.box, model.pixel_size, used.last, device)
    for batch in source.stream(members):
        for part in batch.apart():
            index = part.index
            shifts = state.poses.shifts[index, 0]
            images = band_batch(state, source, model, geometries, part, shifts.round().long(), used.last, power)
            yield PosedImages(
                index, part.group, images, reference, state.poses.rotations[index, 0].double().to(device),
                shifts.double().to(device), state.poses.present[index].to(device),
                source.table.defocus[index].to(device),
            )  # fmt: skip
        advance(len(batch))
