"""The expectation step: find the pose of every image, and add the image to its quarter set's sums.

It runs half set by half set against that half's own reference. It leaves one Backprojection per quarter set, the poses,
and sums that give noise and contrast. The maximisation step sees nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap.expectation.posterior import Poses, log_evidence, particle_probability, posterior_samples
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.search import GlobalSearch, Reference, find_poses
from halfmap.fourier.transform import half_volume
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.kernels.poses import PosePrior, Samples
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.particles.table import ParticleTable
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.contrast import contrast_of, updated_scale
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.in_parts import in_parts
from halfmap.refinement.input_prior import updated_prior
from halfmap.refinement.quarter_sets import drawn, searched_everywhere, turns
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import Residuals, Tally, noise_sources, updated_noise, updated_shift_sigma
from halfmap.runtime.stopwatch import NOTHING, Cost, CostMeter, Stopwatch

PRIOR_WIDTH = 3.0  # of the shift prior, in spreads of the shifts: real ones have tails that a tighter normal pulls in


@dataclass(frozen=True)
class Expectation:
    """What the expectation step leaves: statistics [h][q] that are not yet finished, new poses, and the tally.

    While the step runs it holds the same for the images so far: the half sets that were begun, how many batches of the
    last of them are done, how many images of all, and what they cost.
    """

    statistics: tuple[tuple[Backprojection, ...], ...]
    poses: PoseTable
    tally: Tally
    batches: int = 0
    images: int = 0
    cost: Cost = NOTHING


@dataclass(frozen=True)
class Following:
    """Where an expectation step begins, and who follows it.

    begun: a step that was stopped and goes on (its tensors are changed in place); None begins with the first image.
    advance: told the number of images of each batch. keep: given what there is after each batch. chosen: which of the
    members of a half set (by its number) are used. share: which of these this process deals with.
    """

    begun: Expectation | None = None
    advance: Callable[[int], None] = lambda n: None
    keep: Callable[[Expectation], object] = lambda so_far: None
    chosen: Callable[[int, Tensor], Tensor] = lambda half, members: members
    share: Callable[[Tensor], Tensor] = lambda members: members


def expectation_step(
    state: State, source: ParticleSource, model: ImagingModel, plan: Plan, seed: int,
    following: Following = Following(),
) -> Expectation:  # fmt: skip
    """Find the poses of all particles that were chosen against their half's reference, and back-project them.

    Quarter sets are drawn anew from ``seed``. A step that goes on adds in the order of one that was never stopped.
    """
    so_far = following.begun or Expectation((), state.poses.clone(), Tally.zeros(state))
    meter = CostMeter(so_far.cost)
    poses, tally = so_far.poses, so_far.tally
    for half in range(max(0, len(so_far.statistics) - 1), len(state.references)):
        members = following.chosen(half, torch.nonzero(poses.half == half)[:, 0])
        sets = drawn(members, half, seed, source.pieces)
        sets = replace(sets, members=following.share(members))
        reference = Reference(half_volume(state.references[half], model.padding, plan.insert_limit), model.padding)
        if half == len(so_far.statistics):
            so_far = replace(so_far, statistics=(*so_far.statistics, ()), batches=0)
        power = ProjectedPower.of(state.references[half], model.pixel_size)
        search = _Search(state, source, model, plan, reference, power, poses, seed)
        watch = Stopwatch(tally.seconds)
        for turn in turns(source, sets, model.place is not None, so_far.batches):
            so_far = _begun(so_far, turn.quarters[-1] + 1, model, plan.insert_limit)
            watch.lap("insert")
            for batch in source.stream(turn.particles):
                for found in search.found(batch, watch):
                    _record(poses, found)
                    watch.lap("search")
                    samples = posterior_samples(found.poses, plan.posterior)
                    samples = replace(samples, mass=samples.mass * found.present[samples.image])
                    _insert(so_far.statistics[half], found.images, samples, sets.quarter_of[found.index])
                    watch.lap("insert")
                    residuals = Residuals.of(found.images, found.poses, found.present, found.groups, reference,
                                             plan.sampling.limit)
                    tally.add_(residuals, model.scale_group[found.index])
                    if state.prior is not None and state.prior.estimated and found.about is not None:
                        pixel_size = found.images.geometry.optics.pixel_size
                        tally.moves.add_(found.poses, found.about, found.present, pixel_size)
                    watch.lap("search")
                so_far = replace(so_far, batches=so_far.batches + 1, images=so_far.images + len(batch),
                                 cost=meter.so_far())
                following.advance(len(batch))
                following.keep(so_far)
                watch.skip()
            so_far = _completed(so_far, turn.quarters, model)
        del reference, search  # before the next half set's are made
    return so_far


@dataclass(frozen=True)
class _Found:
    """Images of one frame with their poses.

    index, groups int64 [b]: their particles and optics groups; present [b]: probability that there is a particle.
    about: the prior about the poses of the file.
    """

    index: Tensor
    groups: Tensor
    images: BandImages
    poses: Poses
    present: Tensor
    about: PosePrior | None


class _Search:
    """Images of a half set against its reference."""

    def __init__(
        self, state: State, source: ParticleSource, model: ImagingModel, plan: Plan, reference: Reference,
        power: ProjectedPower, poses: PoseTable, seed: int,
    ) -> None:  # fmt: skip
        self.power = power
        self.state, self.source, self.model, self.reference, self.poses = state, source, model, reference, poses
        self.sampling, self.device = plan.sampling, reference.volume.device
        self.geometries = Geometries(model.box, model.pixel_size, plan.insert_limit, self.device)
        searching = self.sampling.search == "global"
        self.grid = GlobalSearch(reference, self.sampling, model.slices_room) if searching else None
        self.everywhere = searched_everywhere(state.poses.known, plan.looked_at, seed)

    def found(self, batch: ImageBatch, watch: Stopwatch) -> Iterator[_Found]:
        """The poses of a batch, in parts where memory is short."""
        pixel_size = self.source.table.optics[batch.group].pixel_size
        held = self.state.prior is not None and self.state.prior.shift is not None
        prior = ShiftPrior() if held else ShiftPrior.from_spread(PRIOR_WIDTH * self.state.shift_sigma / pixel_size)

        def find(some: slice) -> _Found:
            part = batch.part(some)
            centres = self.poses.shifts[part.index, 0].round().long()
            images = band_batch(self.state, self.source, self.model, self.geometries, part, centres,
                                self.sampling.limit, self.power)
            watch.lap("read")
            known = _known(self.poses, part.index, self.device)
            about = self._about(part.index, pixel_size)
            everywhere = self.everywhere[part.index].to(self.device)
            poses = find_poses(self.reference, images, self.sampling, prior, known, self.grid, about, everywhere)
            return _Found(part.index, part.groups, images, poses, self._present(poses, prior, about), about)

        return in_parts(find, len(batch))

    def _about(self, index: Tensor, pixel_size: float) -> PosePrior | None:
        """The prior of these particles about their poses in the file."""
        prior, table = self.state.prior, self.source.table
        if prior is None or table.rotations is None:
            return None
        rotations, shifts = table.rotations[index], -table.origins[index] / pixel_size
        about = prior.about(rotations.to(self.device), shifts.to(self.device), pixel_size)
        return replace(about, mates=self.sampling.mates.to(self.device))

    def _present(self, poses: Poses, prior: ShiftPrior, about: PosePrior | None) -> Tensor:
        """Probability [b] that an image holds a particle; 1 where it is not asked."""
        if not self.model.null_hypothesis or self.sampling.search == "fixed":
            return torch.ones_like(poses.gain[:, 0])
        evidence = log_evidence(poses, prior, len(self.sampling.symmetry), about)
        return particle_probability(evidence, self.state.share)


def _begun(so_far: Expectation, count: int, model: ImagingModel, insert_limit: int) -> Expectation:
    """With empty statistics for those of the first ``count`` quarter sets of the last half set that have none."""
    *before, last = so_far.statistics
    like = torch.zeros((), device=model.symmetry.device)
    new = [Backprojection.zeros(model.box, model.padding, insert_limit, like, model.kernel).with_core()
           for _ in range(count - len(last))]
    return replace(so_far, statistics=(*before, (*last, *new)))


def _completed(so_far: Expectation, quarters: tuple[int, ...], model: ImagingModel) -> Expectation:
    """With the statistics of these quarter sets of the last half set complete, and where the model wants them."""
    *before, last = so_far.statistics
    made = list(last)
    for q in quarters:
        made[q] = last[q].completed_()
        if model.place is not None:
            made[q] = replace(made[q], sums=model.place(made[q].sums))
    return replace(so_far, statistics=(*before, tuple(made)))


def _insert(quarters: tuple[Backprojection, ...], images: BandImages, samples: Samples, quarter_of: Tensor) -> None:
    """Back-project the samples of a batch, whose images lie in the quarter sets ``quarter_of`` [b]."""
    values, weights = images.sums()
    geometry = images.geometry
    for q, quarter in enumerate(quarters):
        chosen = quarter_of.to(samples.image.device)[samples.image] == q
        if not bool(chosen.any()):
            continue
        taken = samples.where(chosen)
        quarter.insert_(values, weights, geometry.coords, geometry.band, replace(taken, mass=taken.mass.float()))


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


def _record(poses: PoseTable, found: _Found) -> None:
    """Write the modes that were found into the table."""
    index, new = found.index, found.poses
    modes = min(new.gain.shape[1], poses.weight.shape[1])
    weight = new.weight[:, :modes].float().cpu()
    poses.weight[index] = 0.0
    poses.weight[index, :modes] = weight
    poses.rotations[index, :modes] = new.rotations[:, :modes].float().cpu()
    poses.shifts[index, :modes] = new.shifts[:, :modes].float().cpu()
    poses.gain[index] = new.gain[:, 0].float().cpu()
    covariance = new.covariance().cpu()
    variance = torch.diagonal(covariance, dim1=1, dim2=2)
    poses.angle_sd[index] = torch.rad2deg(variance[:, :3].mean(dim=1).sqrt()).float()
    poses.shift_sd[index] = variance[:, 3:].mean(dim=1).sqrt().float()
    poses.present[index] = found.present.float().cpu()


def next_state(state: State, outcome: Expectation, model: ImagingModel, table: ParticleTable) -> State:
    """The state with what the expectation step learnt about the images of the table. References are the regulariser's
    part."""
    known = outcome.poses.known  # those of the images that were used
    images = np.bincount(table.optics_index[known.numpy()], minlength=len(table.optics)).tolist()
    tally, scale, spread = outcome.tally, state.scale, 0.0
    if model.update_scale:
        contrast = contrast_of(tally, state.scale)
        scale, spread = updated_scale(state, tally, contrast), contrast.spread
    return replace(
        state,
        iteration=state.iteration + 1,
        sigma2=updated_noise(state, tally, noise_sources(table.optics, images)),
        scale=scale,
        contrast_spread=spread,
        shift_sigma=updated_shift_sigma(outcome.poses, table.pixel_size),
        poses=outcome.poses,
        share=float(outcome.poses.present[known].double().mean()),
        prior=updated_prior(state.prior, outcome.tally.moves),
    )
