"""The grey scale of a starting map: any map will do, in whatever units it was written.

Images of known pose give the scale by least squares. Without poses it comes from the profile likelihood of each image's
best reference. Images of different optics differ in contrast, because each is measured in units of its own noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.expectation.search import GlobalSearch, Reference, ScaleFit
from halfmap.fourier.transform import half_volume
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.particles.source import ParticleSource
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import State
from halfmap.runtime.distributed import ALONE, Ranks

SAMPLE = 400  # images looked at
INVERTED = 1.5  # the negative of the map explains the images this much better than the map: its contrast is inverted
SIGNIFICANT = 5.0  # standard errors by which a correlation at known poses must be negative to be called so
SPREAD = 5.0  # factor within which the contrast of optics groups may differ


@dataclass
class Fit:
    """Sums over images of <image, reference> and <reference, reference>, whitened, for each optics group [g]."""

    cross: Tensor
    norm: Tensor

    @property
    def error(self) -> float:
        """Standard error of the sum of cross: white noise has a real part of variance 1/2."""
        return float((0.5 * self.norm.sum()).sqrt())

    @property
    def scale(self) -> float:
        """The maximum-likelihood factor of the reference. Where nothing correlates, that which chance gives."""
        return max(float(self.cross.sum()), self.error) / float(self.norm.sum().clamp_min(1e-30))

    @property
    def gain(self) -> float:
        """What the reference so scaled adds to the log-likelihood. It is zero if the factor had to be negative."""
        return float(self.cross.sum().clamp_min(0) ** 2 / self.norm.sum().clamp_min(1e-30))

    def contrast(self) -> Tensor:
        """The scale of each optics group [g] relative to all, 1 where it cannot be told."""
        relative = self.cross / self.norm.clamp_min(1e-30) / self.scale
        known = (self.norm > 0) & (self.cross > 0)
        return torch.where(known, relative.clamp(1 / SPREAD, SPREAD), 1.0)


def on_grey_scale(
    path: Path, state: State, source: ParticleSource, model: ImagingModel, plan: Plan, ranks: Ranks = ALONE
) -> tuple[State, float]:
    """The state with its references on the grey scale of the images, and the factor that brought them there.

    path: of the map, for messages; plan: of the first iteration. Where contrast is estimated at all, scale groups start
    at the contrast of their optics group. Raises InputError where map and images have opposite contrast.
    """
    fit = fitted(state, source, model, plan, ranks)
    if not float(fit.norm.sum()) > 0:
        raise InputError(f"{path}: nothing is left of the map inside mask and diameter; is it centred?")
    if plan.sampling.search == "global":
        negative = replace(state, references=tuple(-r for r in state.references))
        inverted = fit.gain * INVERTED < fitted(negative, source, model, plan, ranks).gain
    else:
        inverted = float(fit.cross.sum()) < -SIGNIFICANT * fit.error
    if inverted:
        known = "" if plan.sampling.search == "global" else ", or do the poses belong to another map"
        raise InputError(f"{path}: its negative explains the images better; is its contrast inverted{known} "
                         "(protein must be bright in map and images; --invert-contrast turns images)?")
    scale = state.scale
    if model.update_scale:
        scale = scale.clone()
        scale[model.scale_group] = fit.contrast()[torch.from_numpy(source.table.optics_index)].to(scale)
    return replace(state, references=tuple(r * fit.scale for r in state.references), scale=scale), fit.scale


def fitted(state: State, source: ParticleSource, model: ImagingModel, plan: Plan, ranks: Ranks = ALONE) -> Fit:
    """Fit the first reference to a sample of the images. Each process takes its share of the sample."""
    index = torch.arange(0, len(source.table), max(1, len(source.table) // SAMPLE))
    reference = Reference(half_volume(state.references[0], model.padding, plan.insert_limit), model.padding)
    power = ProjectedPower.of(state.references[0], model.pixel_size)
    searching = plan.sampling.search == "global"
    fit = Fit(*torch.zeros(2, len(source.table.optics), dtype=torch.float64))
    geometries = Geometries(model.box, model.pixel_size, plan.insert_limit, reference.volume.device)
    grid = GlobalSearch(reference, plan.sampling, model.slices_room) if searching else None
    for images in source.stream(source.share(index, ranks.rank, ranks.world)):
        centres = state.poses.shifts[images.index, 0].round().long()
        batch = band_batch(state, source, model, geometries, images, centres, plan.sampling.limit, power)
        if grid is not None:
            sums = grid.grey_scale(batch)
        else:
            rotations, shifts = state.poses.rotations[images.index, 0], state.poses.shifts[images.index, 0]
            sums = _at_poses(reference, batch, rotations.double(), shifts.double(), plan.sampling.limit)
        fit.cross.index_add_(0, images.groups, sums.cross.double().cpu())
        fit.norm.index_add_(0, images.groups, sums.norm.double().cpu())
    ranks.add_([fit.cross, fit.norm])
    return fit


def _at_poses(reference: Reference, images: BandImages, rotations: Tensor, shifts: Tensor, limit: int) -> ScaleFit:
    """The fit of images at rotations [b, 3, 3] and shifts [b, 2], up to a shell of the reference."""
    device = reference.volume.device
    rotations, shifts = rotations.to(device), shifts.to(device)
    k = images.geometry.count(limit)
    y, c = images.whitened(limit)
    band = images.geometry.band
    sums = kernels.residual_sums(
        reference.volume, images.geometry.coords[:k] * reference.padding, band.kxy[:k], band.shell[:k], band.box, y, c,
        c.new_ones(len(c)), rotations, shifts,
    )  # fmt: skip
    return ScaleFit(sums.cross.sum(dim=(1, 2)), sums.norm.sum(dim=(1, 2)))
