"""One step of expectation maximisation: state, particles, sampling, regulariser -> state, info.

Refinement is a schedule of this step. The expectation step runs half set by half set and leaves one Backprojection per
quarter set, the noise power and the contrast; the maximisation step sees nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, posterior_samples
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.search import GlobalSearch, Reference, Sampling, find_poses
from halfmap.fourier.transform import half_volume
from halfmap.imaging.forward import BandImages, ImagingGeometry, band_images, masks_at
from halfmap.particles.preprocess import soft_circle
from halfmap.particles.source import ParticleSource
from halfmap.reconstruction.statistics import Backprojection, Place
from halfmap.refinement.in_parts import in_parts
from halfmap.refinement.quarter_sets import drawn, turns
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime.stopwatch import Cost, Stopwatch

MASK_EDGE = 5.0  # pixels of the cosine edge of the circular image mask
PRIOR_WIDTH = 3.0  # of the shift prior, in spreads of the shifts: real ones have tails that a tighter normal pulls in


@dataclass(frozen=True)
class ImagingModel:
    """What the expectation step needs to know beside images and state.

    box, pixel_size: the reference's; symmetry: operators [o, 3, 3]; scale_group [b]: which entry of State.scale each
    particle uses; padding; update_scale: whether contrast is re-estimated; kernel: what images are inserted with;
    place: where the sums of a quarter set go when it is complete, one being made after the other. None: in memory, both
    quarter sets of a half set made together.
    """

    box: int
    pixel_size: float
    symmetry: Tensor
    scale_group: Tensor
    padding: int = 2
    update_scale: bool = True
    kernel: str = "trilinear"
    place: Place | None = None


@dataclass
class Tally:
    """Sums over images that re-estimate noise and contrast, and what the report says about the step."""

    noise: list[Tensor]
    count: list[Tensor]
    cross: Tensor
    norm: Tensor
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "search", "insert"), 0.0))

    @staticmethod
    def zeros(state: State) -> Tally:
        """Nothing counted yet."""
        zero = torch.zeros_like(state.scale, dtype=torch.float64)
        noise, count = ([torch.zeros_like(s) for s in state.sigma2] for _ in range(2))
        return Tally(noise, count, zero, zero.clone())


@dataclass(frozen=True)
class Expectation:
    """What the expectation step leaves: unfinished statistics [h][q], new poses, and the tally.

    While the step runs, the same for the images so far: statistics of the half sets begun, batches done of the last of
    them, images done of all, and what it cost: seconds by the clock and of the processor.
    """

    statistics: tuple[tuple[Backprojection, ...], ...]
    poses: PoseTable
    tally: Tally
    batches: int = 0
    images: int = 0
    cost: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Following:
    """Where an expectation step goes on (None: from the first image; what it is given here changes), and who hears of
    each batch: ``advance`` the number of its images, ``keep`` what there is so far. share: which of a half set's
    members are dealt with in this process."""

    begun: Expectation | None = None
    advance: Callable[[int], None] = lambda n: None
    keep: Callable[[Expectation], object] = lambda so_far: None
    share: Callable[[Tensor], Tensor] = lambda members: members


def expectation_step(
    state: State,
    source: ParticleSource,
    model: ImagingModel,
    sampling: Sampling,
    insertion: tuple[int, str],
    seed: int,
    following: Following = Following(),
) -> Expectation:
    """Find the poses of all particles against their half's reference and back-project them.

    insertion: highest shell back-projected (and of the noise estimate), and what feeds the M-step (see posterior.py).
    Quarter sets are drawn anew from ``seed``. A step that goes on adds in the order of one that was never stopped.
    """
    insert_limit, posterior = insertion
    so_far = following.begun or Expectation((), state.poses.clone(), Tally.zeros(state))
    cost = Cost(so_far.cost)
    poses, tally = so_far.poses, so_far.tally
    for half in range(max(0, len(so_far.statistics) - 1), len(state.references)):
        members, quarter_of = drawn(poses, half, seed)
        members = following.share(members)
        reference = Reference(half_volume(state.references[half], model.padding, insert_limit), model.padding)
        if half == len(so_far.statistics):
            so_far = replace(so_far, statistics=(*so_far.statistics, ()), batches=0)
        search = _Search(state, source, model, sampling, insert_limit, reference, poses)
        watch = Stopwatch(tally.seconds)
        for quarters, rows in turns(source, members, quarter_of, model.place is not None, so_far.batches):
            so_far = _begun(so_far, quarters[-1] + 1, model, insert_limit)
            for group, index, images, _ in source.stream(rows):
                for part, batch, found, mask_power in search.found(group, index, images, watch):
                    _record(poses, part, found)
                    watch.lap("search")
                    _insert(so_far.statistics[half], batch, posterior_samples(found, posterior), quarter_of[part])
                    watch.lap("insert")
                    _tally(tally, batch, found, reference, (group, model.scale_group[part], mask_power, sampling.limit))
                    watch.lap("search")
                so_far = replace(
                    so_far, batches=so_far.batches + 1, images=so_far.images + len(index), cost=cost.so_far()
                )
                following.advance(len(index))
                following.keep(so_far)
                watch.skip()
            so_far = _put(so_far, model)
        del reference, search  # before the next one is made
    return so_far


@dataclass
class _Search:
    """Images of a half set against its reference. What their optics groups need is made once, when the first comes."""

    state: State
    source: ParticleSource
    model: ImagingModel
    sampling: Sampling
    insert_limit: int
    reference: Reference
    poses: PoseTable
    geometries: dict[int, ImagingGeometry] = field(default_factory=dict)
    grids: dict[int, GlobalSearch] = field(default_factory=dict)

    def found(
        self, group: int, index: Tensor, images: Tensor, watch: Stopwatch
    ) -> Iterator[tuple[Tensor, BandImages, Poses, float]]:
        """Indices, coefficients, poses and mask power (see `band_batch`) of a batch, in parts where memory is short."""
        optics, device = self.source.table.optics[group], self.reference.volume.device
        if group not in self.geometries:
            geometry = ImagingGeometry.build(optics, self.model.box, self.model.pixel_size, self.insert_limit)
            self.geometries[group] = geometry.to(device)
        prior = ShiftPrior.from_spread(PRIOR_WIDTH * self.state.shift_sigma / optics.pixel_size)

        def find(some: slice) -> tuple[Tensor, BandImages, Poses, float]:
            part = index[some]
            centres = self.poses.shifts[part, 0].round().long()
            batch, mask_power = band_batch(
                self.state, self.source, self.model, self.geometries[group], (group, part, images[some], centres)
            )
            watch.lap("read")
            if self.sampling.search == "global" and group not in self.grids:
                self.grids[group] = GlobalSearch(self.reference, batch, self.sampling)
            known = _known(self.poses, part, device)
            return part, batch, find_poses(
                self.reference, batch, self.sampling, prior, known, self.grids.get(group)
            ), mask_power

        return in_parts(find, len(index))


def _begun(so_far: Expectation, count: int, model: ImagingModel, insert_limit: int) -> Expectation:
    """With empty statistics for the first ``count`` quarter sets of the last half set, where there are none."""
    *before, last = so_far.statistics
    like = torch.zeros((), device=model.symmetry.device)
    new = [Backprojection.zeros(model.box, model.padding, insert_limit, like, model.kernel)
           for _ in range(count - len(last))]
    return replace(so_far, statistics=(*before, (*last, *new)))


def _put(so_far: Expectation, model: ImagingModel) -> Expectation:
    """With the statistics of the last half set where the model wants them."""
    if model.place is None:
        return so_far
    *before, last = so_far.statistics
    return replace(so_far, statistics=(*before, tuple(replace(s, sums=model.place(s.sums)) for s in last)))


def _insert(
    quarters: tuple[Backprojection, ...], batch: BandImages, samples: tuple[Tensor, Tensor, Tensor, Tensor],
    quarter_of: Tensor,
) -> None:
    """Back-project the samples (image, rotation, shift, mass) of a batch, whose images lie in ``quarter_of`` [b]."""
    values, weights = batch.sums()
    image, rotations, shifts, mass = samples
    geometry = batch.geometry
    for q, quarter in enumerate(quarters):
        chosen = quarter_of.to(image.device)[image] == q
        if not bool(chosen.any()):
            continue
        taken = (image[chosen], rotations[chosen], shifts[chosen], mass[chosen].float())
        quarter.insert_(values, weights, geometry.coords, geometry.band, taken)


def band_batch(
    state: State, source: ParticleSource, model: ImagingModel, geometry: ImagingGeometry,
    batch: tuple[int, Tensor, Tensor, Tensor],
) -> tuple[BandImages, float]:
    """Band coefficients of a batch (group, index, images, centres), and the mean square of the circular mask.

    centres [b, 2]: whole pixels off the box centre where each image's mask is put.
    """
    group, index, images, centres = batch
    device = state.references[0].device
    optics = source.table.optics[group]
    radius = min(0.5 * source.diameter / optics.pixel_size, optics.box / 2 - 1.0)
    mask = soft_circle(optics.box, radius, MASK_EDGE).to(device)
    noise = (state.sigma2[group].float().to(device), state.scale[model.scale_group[index]].float().to(device))
    moved = masks_at(mask, centres.to(device))
    result = band_images(images.to(device), moved, geometry, source.table.defocus[index].to(device), noise)
    return result, float((mask**2).mean())


def _known(poses: PoseTable, index: Tensor, device: torch.device) -> Poses | None:
    """Modes of the last iteration; None if there are none."""
    weight = poses.weight[index].double()
    if not bool((weight[:, 0] > 0).any()):
        return None
    gain = torch.where(weight > 0, weight.clamp_min(1e-30).log(), -torch.inf)
    shifts = poses.shifts[index].double()
    count, modes = weight.shape
    precision = torch.zeros(count, modes, 5, 5, dtype=torch.float64)
    return Poses(poses.rotations[index].double(), shifts, gain, precision).to(device)


def _record(poses: PoseTable, index: Tensor, found: Poses) -> None:
    """Write the modes found for particles ``index`` into the table."""
    modes = min(found.gain.shape[1], poses.weight.shape[1])
    weight = found.weight[:, :modes].float().cpu()
    poses.weight[index] = 0.0
    poses.weight[index, :modes] = weight
    poses.rotations[index, :modes] = found.rotations[:, :modes].float().cpu()
    poses.shifts[index, :modes] = found.shifts[:, :modes].float().cpu()
    poses.gain[index] = found.gain[:, 0].float().cpu()
    covariance = found.covariance().cpu()
    variance = torch.diagonal(covariance, dim1=1, dim2=2)
    poses.angle_sd[index] = torch.rad2deg(variance[:, :3].mean(dim=1).sqrt()).float()
    poses.shift_sd[index] = variance[:, 3:].mean(dim=1).sqrt().float()


def _tally(
    tally: Tally, batch: BandImages, found: Poses, reference: Reference, context: tuple[int, Tensor, float, int]
) -> None:
    """Add residual power per shell, and the sums that give the contrast, at the best pose of each image."""
    group, scale_group, mask_power, limit = context
    geometry = batch.geometry
    slices = kernels.project_slices(
        reference.volume, geometry.coords * reference.padding, found.rotations[:, 0]
    )
    freq = geometry.band.kxy.double() * (2 * math.pi / geometry.band.box)
    angle = (found.shifts[:, 0] @ freq.T).float()
    model = batch.ctf * slices
    data = batch.scored * torch.polar(torch.ones_like(angle), angle)
    residual = data - batch.scale[:, None] * model
    power = (residual.real**2 + residual.imag**2).double().sum(dim=0)
    shells = geometry.band.shell_sum(power).cpu() / mask_power
    tally.noise[group][: len(shells)] += shells
    tally.count[group][: len(shells)] += geometry.band.shell_sum(torch.ones_like(power)).cpu() * len(batch.scored)
    k = geometry.count(limit)
    weighted = model[:, :k] / batch.sigma2[:k]
    cross = (data[:, :k].real * weighted.real + data[:, :k].imag * weighted.imag).double().sum(dim=1)
    norm = (model[:, :k].real * weighted.real + model[:, :k].imag * weighted.imag).double().sum(dim=1)
    tally.cross.index_add_(0, scale_group, cross.cpu())
    tally.norm.index_add_(0, scale_group, norm.cpu())


def updated_noise(state: State, tally: Tally) -> tuple[Tensor, ...]:
    """Noise power by shell from the residuals; shells that were not measured keep their value."""
    result = []
    for old, power, count in zip(state.sigma2, tally.noise, tally.count, strict=True):
        result.append(torch.where(count > 0, power / count.clamp_min(1), old))
    return tuple(result)


def updated_scale(state: State, tally: Tally) -> Tensor:
    """Contrast of each scale group, kept within a factor 5 of the median.

    The new map fits the images at the old contrast, so the new one must be the old one on average: what all groups
    share is left to the map. (A mean of 1, weighted by power, would jump with the noise estimate of an optics group.)
    """
    measured = tally.norm > 0
    if not bool(measured.any()):
        return state.scale
    scale = torch.where(measured, tally.cross / tally.norm.clamp_min(1e-30), torch.nan)
    middle = scale.nanmedian()
    scale = scale.nan_to_num(float(middle)).clamp(min=float(middle) / 5, max=float(middle) * 5)
    old = state.scale.to(scale)
    weight = old * tally.norm
    return (scale * (old * weight).sum() / (scale * weight).sum()).to(state.scale)


def updated_shift_sigma(poses: PoseTable, pixel_size: Tensor) -> float:
    """Spread of the shifts along one axis in angstrom, from best shifts and their posterior variance (an EM update)."""
    square = poses.shifts[:, 0].double().square().mean(dim=1) + poses.shift_sd.double().square()
    return float((square * pixel_size**2).mean().sqrt())


def next_state(state: State, outcome: Expectation, model: ImagingModel, pixel_size: Tensor) -> State:
    """The state with what the expectation step learnt about images; references are the regulariser's part."""
    scale = updated_scale(state, outcome.tally) if model.update_scale else state.scale
    return replace(
        state,
        iteration=state.iteration + 1,
        sigma2=updated_noise(state, outcome.tally),
        scale=scale,
        shift_sigma=updated_shift_sigma(outcome.poses, pixel_size),
        poses=outcome.poses,
    )
