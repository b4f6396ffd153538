"""One pass over the images that fits the optics to them, at the poses and with the references of a state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from halfmap.ctf_refinement.amplitudes import Amplitudes, scale_
from halfmap.ctf_refinement.fit import Fit
from halfmap.ctf_refinement.own_noise import OwnNoise
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.ctf_refinement.registry import Choices, fits_for
from halfmap.ctf_refinement.signal_power import signal_power
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.ctf import ctf, odd_aberration
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import Geometries, ImagingGeometry
from halfmap.maps.filters import lowpass
from halfmap.particles.source import ParticleSource
from halfmap.particles.table import ParticleTable
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.imaging_model import ImagingModel, band_batch, turned_by_masks
from halfmap.refinement.problem import Problem
from halfmap.refinement.refined_optics import RefinedOptics, summary
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import State

SAMPLE, FEWER = 400, 200  # images of each half set that their own noise is measured in, and amplitudes


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
    add_up_: Callable[[list[Tensor]], object] = lambda sums: None, made: ParticleTable | None = None,
) -> None:  # fmt: skip
    """Add images that have a pose to the fits, each against the references of the state.

    Values that both half sets get are fitted against the map of the other half set, all others against that of the own
    one, less what images find of their own noise in it. used: shells that are fitted to. members: the particles int64
    [m] of a half set that this process deals with; None: all. add_up_: adds tensors of all processes up, in place.
    made: the same particles with the optics with which the references were made; None: those of the source.
    """
    poses = state.poses
    every = [torch.nonzero(poses.half == half)[:, 0] if members is None else members(half) for half in range(HALVES)]
    posed = _Posed(state, source, model, used, made)
    kinds = [[fit for fit in fits if fit.common == common] for common in (False, True)]
    amplitudes = Amplitudes(used)
    for half, rows in enumerate(every):
        for some in posed.of(half, rows[:: max(1, math.ceil(len(rows) / FEWER))]):
            amplitudes.add_(some.exchanged())
    add_up_(amplitudes.sums())
    for reference in posed.references:
        scale_(reference, amplitudes.factor())
    share = None
    if kinds[0]:
        noise = OwnNoise(used)
        for half, rows in enumerate(every):
            for some in posed.of(half, rows[:: max(1, math.ceil(len(rows) / SAMPLE))]):
                noise.add_(some, True)
                noise.add_(some.exchanged(), False)
        add_up_(noise.sums())
        share = noise.share()
    for half, rows in enumerate(every):
        for some in posed.of(half, rows, advance):
            for against, own_fits in zip((replace(some, own_noise=share), some.exchanged()), kinds, strict=True):
                products = against.products(used) if own_fits else None
                for fit in own_fits:
                    assert products is not None
                    fit.add_(against, products)


class _Posed:
    """The images at the poses of a state. References are transformed once, for all that is asked of them.

    All shells are under the mask that is as wide as the CTF spreads the finest one's signal. Under a tight mask, which
    keeps neighbours out of a search, an image lacks what its CTF moves out, and that has phases of its own: of 2,304
    images of apoferritin at 2 um, 6.3 A, all micrographs were found 180 to 200 A nearer to focus (511 nats) and are not
    found so under the wide one, and errors of other values are no larger.
    """

    def __init__(self, state: State, source: ParticleSource, model: ImagingModel, used: Range,
                 made: ParticleTable | None = None) -> None:
        self.state, self.source, self.used = state, source, used
        self.model = replace(model, wide_from=math.inf)
        self.made = None if made is source.table else made
        self.references = [Reference(half_volume(one, model.padding, used.last + 1), model.padding)
                           for one in state.references]
        # Of what is compared: detergent that is smooth has its power elsewhere in space, and none in these shells.
        coarsest = model.grid.length / used.first
        self.powers = [ProjectedPower.of(one - lowpass(one, model.pixel_size, coarsest), model.pixel_size)
                       for one in state.references]
        self.signal = signal_power(*state.references)
        self.device = self.references[0].volume.device
        self.geometries = Geometries(model.box, model.pixel_size, used.last, self.device)

    def of(
        self, half: int, members: Tensor, advance: Callable[[int], None] = lambda n: None
    ) -> Iterator[PosedImages]:
        """Particles int64 [m] of a half set that have a pose, those of one optics group at a time, at the best one."""
        poses, device = self.state.poses, self.device
        own, other = self.references[half], self.references[1 - half]
        for batch in self.source.stream(members[poses.known[members]]):
            for part in batch.apart():
                index = part.index
                shifts = poses.shifts[index, 0]
                images = band_batch(self.state, self.source, self.model, self.geometries, part, shifts.round().long(),
                                    self.used.last, self.powers[half])
                defocus = self.source.table.defocus[index].to(device)
                turn = turned_by_masks(self.powers[half], self.signal, images.geometry, defocus, self.model,
                                       self.source.diameter, self.used.last)
                yield PosedImages(
                    index, part.group, images, own, other, poses.rotations[index, 0].double().to(device),
                    shifts.double().to(device), (poses.present[index] * part.sound).to(device), defocus, turn=turn,
                    made=self._made(images.geometry, part.group, index),
                )  # fmt: skip
            advance(len(batch))

    def _made(self, geometry: ImagingGeometry, group: int, index: Tensor) -> Tensor | None:
        """The CTF [b, k] with which the references were made of some images, relative to the phases they have now."""
        if self.made is None:
            return None
        optics, kxy = self.made.optics[group], geometry.band.kxy
        found = ctf(kxy, optics, self.made.defocus[index].to(self.device))
        before, now = odd_aberration(kxy, optics), geometry.odd
        if before is None and now is None:
            return found
        turned = torch.ones_like(kxy[:, 0], dtype=torch.complex64) if before is None else before
        return found * (turned if now is None else turned * now.conj()).real
