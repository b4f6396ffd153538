"""One pass over the images that counts what they say about the optics, at the poses of a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from halfmap.ctf_refinement.fit import Fit
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import Geometries
from halfmap.particles.source import ParticleSource
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.state import State


def count_images(
    state: State, source: ParticleSource, model: ImagingModel, used: Range, fits: Sequence[Fit],
    share: Callable[[Tensor], Tensor] = lambda members: members, advance: Callable[[int], None] = lambda n: None,
) -> None:  # fmt: skip
    """Add all images that have a pose to the fits, each half set against its own reference.

    used: shells that are fitted to. share: which of the members of a half set this process deals with.
    """
    for half in range(HALVES):
        members = torch.nonzero((state.poses.half == half) & state.poses.known)[:, 0]
        for posed in _posed(state, source, model, used, half, share(members), advance):
            products = posed.products(used)
            for fit in fits:
                fit.add_(posed, products)


def _posed(
    state: State, source: ParticleSource, model: ImagingModel, used: Range, half: int, members: Tensor,
    advance: Callable[[int], None],
) -> Iterator[PosedImages]:  # fmt: skip
    """The images of a half set, those of one optics group at a time, at the best pose of each."""
    reference = Reference(half_volume(state.references[half], model.padding, used.last + 1), model.padding)
    device = reference.volume.device
    power = ProjectedPower.of(state.references[half], model.pixel_size)
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
