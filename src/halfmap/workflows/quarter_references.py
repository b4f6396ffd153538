"""Maps that particles at their poses are compared with, none of which holds the image that it is compared with.

A half map holds the noise of its own images, under the CTF and with the phases that they were inserted with. Compared
with it, an image says that its optics are what they were taken to be: at shells where the map's signal has x times the
power of its noise, what is found is x / (1 + x) of what is true, however many images there are. So each half set is
divided once more. The images of one quarter set are compared with the map of the other, which knows nothing of their
noise, and half sets stay apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import Range
from halfmap.expectation.posterior import Poses, posterior_samples
from halfmap.fourier.band import band_limit
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import Geometries
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.imaging_model import band_batch
from halfmap.refinement.optics_pass import Compared
from halfmap.refinement.quarter_sets import drawn
from halfmap.regularisation.protocol import MapPair
from halfmap.regularisation.wiener import Uniform
from halfmap.validation.fsc import corrected_fsc
from halfmap.workflows.posed_particles import PosedParticles

_SEED = 0  # of quarter sets and randomised phases: the same particles give the same numbers
_BEYOND = 2  # shells that are reconstructed beyond the last one used


def compared_by_quarters(
    posed: PosedParticles, used: Range, advance: Callable[[int], None] = lambda n: None
) -> list[Compared]:
    """Both quarter sets of each half set, each with the map of the other, filtered by the FSC of the two, and with the
    map of the other half set.

    used: shells that are looked at. One pass over the images; advance: called with numbers of images done.
    """
    compared = []
    for half in range(HALVES):
        members = torch.nonzero(posed.state.poses.half == half)[:, 0]
        quarter_of = drawn(members, half, _SEED, posed.source.pieces).quarter_of
        maps = _filtered(posed, _inserted(posed, half, members, quarter_of, used, advance))
        other = posed.state.references[1 - half]
        compared += [Compared(maps[1 - q], other, members[quarter_of[members] == q]) for q in (0, 1)]
    return compared


def _inserted(
    posed: PosedParticles, half: int, members: Tensor, quarter_of: Tensor, used: Range, advance: Callable[[int], None]
) -> list[Backprojection]:
    """Sums of both quarter sets, symmetrised."""
    model, state = posed.model, posed.state
    limit = min(used.last + _BEYOND, band_limit(model.box))
    sums = [Backprojection.zeros(model.box, model.padding, limit, torch.zeros(()), model.kernel).with_core()
            for _ in range(2)]
    geometries = Geometries(model.box, model.pixel_size, limit, torch.device("cpu"))
    power = ProjectedPower.of(state.references[half], model.pixel_size)
    for batch in posed.source.stream(members):
        images = band_batch(state, posed.source, model, geometries, batch, torch.zeros(len(batch), 2).long(), 0, power)
        values, weights = images.sums()
        index = batch.index
        poses = Poses(state.poses.rotations[index].double(), state.poses.shifts[index].double(),
                      torch.zeros(len(index), 1), torch.zeros(len(index), 1, 5, 5))
        samples = posterior_samples(poses, "best")
        mass = samples.mass * (state.poses.present[index] * batch.sound)[samples.image]
        for quarter in (0, 1):
            own = quarter_of[index][samples.image] == quarter
            if bool(own.any()):
                taken = replace(samples, mass=mass).where(own)
                sums[quarter].insert_(values, weights, images.geometry.coords, images.geometry.band,
                                      replace(taken, mass=taken.mass.float()))
        advance(len(batch))
    return [one.completed_().finished(model.symmetry) for one in sums]


def _filtered(posed: PosedParticles, sums: list[Backprojection]) -> tuple[Tensor, ...]:
    """The maps of both quarter sets, filtered by their FSC, within the mask."""
    mask = posed.pair.mask
    first, second = (reconstruct(one) for one in sums)
    curves = corrected_fsc(first, second, mask, torch.Generator().manual_seed(_SEED))
    found = Uniform().filter_pair(MapPair(first, second, curves, posed.model.pixel_size), mask)
    return tuple((one * mask).float() for one in found.maps)
