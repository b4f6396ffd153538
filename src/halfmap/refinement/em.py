"""The expectation step: find the pose of every image, and add the image to its quarter set's sums.

It runs half set by half set against that half's own references: one in a refinement, one for each class in a
classification, where an image has a share in each of these sets. It leaves one Backprojection per quarter of a set, the
poses, and sums that give noise and contrast. The maximisation step sees nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, posterior_samples
from halfmap.kernels.poses import Samples
from halfmap.particles.source import ParticleSource
from halfmap.particles.table import ParticleTable
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.contrast import contrast_of, updated_scale
from halfmap.refinement.half_search import HALVES, Found, HalfSearch
from halfmap.refinement.imaging_model import ImagingModel
from halfmap.refinement.input_prior import updated_prior
from halfmap.refinement.quarter_sets import drawn, searched_everywhere, turns
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import Residuals, Tally, noise_sources, updated_noise, updated_shift_sigma
from halfmap.runtime.device import sent
from halfmap.runtime.stopwatch import NOTHING, Cost, CostMeter, Stopwatch

SHARE_USED = 1e-3  # smaller shares of an image in a class do not enter its map


@dataclass(frozen=True)
class Expectation:
    """What the expectation step leaves: statistics [set][q] that are not yet finished, new poses, and the tally.

    While the step runs it holds the same for the images so far: the sets of half sets that were begun, how many batches
    of the last half set are done, how many images of all, and what they cost.
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
    """Find the poses of all particles that were chosen against their half's references, and back-project them.

    Quarter sets are drawn anew from ``seed``. A step that goes on adds in the order of one that was never stopped.
    """
    so_far = following.begun or Expectation((), state.poses.clone(), Tally.zeros(state))
    meter = CostMeter(so_far.cost)
    poses, tally = so_far.poses, so_far.tally
    classes = len(state.references) // HALVES
    drawn_classes = None
    if plan.draws_classes:
        drawn_classes = torch.randint(classes, (len(poses),), generator=torch.Generator().manual_seed(seed))
    everywhere = searched_everywhere(state.poses.known, plan.looked_at, seed) if plan.looked_at < 1 else None
    for half in range(max(0, len(so_far.statistics) - 1) // classes, HALVES):
        members = following.chosen(half, torch.nonzero(poses.half == half)[:, 0])
        sets = drawn(members, half, seed, source.pieces)
        sets = replace(sets, members=following.share(members))
        if half * classes == len(so_far.statistics):
            so_far = replace(so_far, statistics=so_far.statistics + ((),) * classes, batches=0)
        search = HalfSearch(state, half, source, model, plan, poses, everywhere, drawn_classes)
        watch = Stopwatch(tally.seconds)
        for turn in turns(source, sets, model.place is not None, so_far.batches):
            so_far = _begun(so_far, classes, turn.quarters[-1] + 1, model, plan.insert_limit)
            watch.lap("insert")
            for batch in source.stream(turn.particles):
                for found in search.found(batch, watch):
                    _record(poses, found)
                    watch.lap("search")
                    _insert(so_far.statistics[-classes:], found, plan.posterior, sets.quarter_of[found.index])
                    watch.lap("insert")
                    _count(tally, found, search, model.scale_group[found.index])
                    if state.prior is not None and state.prior.estimated and found.about is not None:
                        pixel_size = found.images.geometry.optics.pixel_size
                        tally.moves.add_(found.mixture.poses[0], found.about, found.present, pixel_size)
                    watch.lap("search")
                so_far = replace(so_far, batches=so_far.batches + 1, images=so_far.images + len(batch),
                                 cost=meter.so_far())
                following.advance(len(batch))
                following.keep(so_far)
                watch.skip()
            so_far = _completed(so_far, classes, turn.quarters, model)
        del search  # and its references, before the next half set's are made
    return so_far


def _begun(so_far: Expectation, classes: int, count: int, model: ImagingModel, insert_limit: int) -> Expectation:
    """With empty statistics for those of the first ``count`` quarters of the last half set's sets that have none."""
    like = torch.zeros((), device=model.symmetry.device)

    def filled(quarters: tuple[Backprojection, ...]) -> tuple[Backprojection, ...]:
        new = [Backprojection.zeros(model.box, model.padding, insert_limit, like, model.kernel).with_core()
               for _ in range(count - len(quarters))]
        return (*quarters, *new)

    return _with_last(so_far, [filled(quarters) for quarters in so_far.statistics[-classes:]])


def _completed(so_far: Expectation, classes: int, quarters: tuple[int, ...], model: ImagingModel) -> Expectation:
    """With the statistics of these quarters of the last half set's sets complete, and where the model wants them."""
    sets = [list(made) for made in so_far.statistics[-classes:]]
    for made in sets:
        for q in quarters:
            made[q] = made[q].completed_()
            if model.place is not None:
                made[q] = replace(made[q], sums=model.place(made[q].sums))
    return _with_last(so_far, [tuple(made) for made in sets])


def _with_last(so_far: Expectation, sets: list[tuple[Backprojection, ...]]) -> Expectation:
    """With other statistics of the last half set's sets."""
    return replace(so_far, statistics=(*so_far.statistics[: -len(sets)], *sets))


def _insert(
    sets: tuple[tuple[Backprojection, ...], ...], found: Found, posterior: str, quarter_of: Tensor
) -> None:
    """Back-project samples of a batch's posterior, whose images lie in the quarter sets ``quarter_of`` [b], into the
    sets [k][q] of its half set."""
    geometry, classes = found.images.geometry, []
    for poses, share in zip(found.mixture.poses, found.mixture.share.unbind(1), strict=True):
        samples = posterior_samples(poses, posterior)
        own = share[samples.image]
        samples = replace(samples, mass=samples.mass * own * found.present[samples.image])
        classes.append(samples.where(own > SHARE_USED) if len(sets) > 1 else samples)
    for side in found.images.spread():
        for quarters, samples in zip(sets, classes, strict=True):
            for q, quarter in enumerate(quarters):
                taken = _of_quarter(samples, quarter_of, q)
                if taken is None:
                    continue
                quarter.insert_(side.values, side.weights, geometry.coords, geometry.band,
                                replace(taken, mass=taken.mass.float()), side.curvature)


def _of_quarter(samples: Samples, quarter_of: Tensor, q: int) -> Samples | None:
    """Those of the images of one quarter set; None if there are none.

    Where Triton's kernels run, which leave out what has no mass, the others stay with none: to count those that are
    left would be to wait for the device.
    """
    if not bool((quarter_of == q).any()):
        return None
    chosen = sent(quarter_of, samples.image.device)[samples.image] == q
    if kernels.compiled_by_triton(chosen.device):
        return replace(samples, mass=samples.mass * chosen)
    return samples.where(chosen)


def _count(tally: Tally, found: Found, search: HalfSearch, scale_group: Tensor) -> None:
    """Count a batch, whose images are in these scale groups [b], each at the best pose of its most likely class."""
    best, limit = found.mixture.best, search.sampling.limit
    for number, (reference, poses) in enumerate(zip(search.references, found.mixture.poses, strict=True)):
        if len(search.references) == 1:
            tally.add_(Residuals.of(found.images, poses, found.present, found.groups, reference, limit), scale_group)
            return
        rows = torch.nonzero(best == number)[:, 0]
        if not len(rows):
            continue
        few = Poses(poses.rotations[rows], poses.shifts[rows], poses.gain[rows], poses.precision[rows])
        here = rows.cpu()
        tally.add_(Residuals.of(found.images.some(rows), few, found.present[rows], found.groups[here], reference,
                                limit), scale_group[here])


def _record(poses: PoseTable, found: Found) -> None:
    """Write the modes that were found into the table."""
    index, modes = found.index, found.mixture.modes()
    new = modes.poses
    count = min(new.gain.shape[1], poses.weight.shape[1])
    poses.weight[index] = 0.0
    poses.weight[index, :count] = modes.weight[:, :count].float().cpu()
    poses.class_of[index, :count] = modes.class_of[:, :count].cpu()
    poses.rotations[index, :count] = new.rotations[:, :count].float().cpu()
    poses.shifts[index, :count] = new.shifts[:, :count].float().cpu()
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
        class_shares=_class_shares(outcome.poses, len(state.class_shares)),
    )


def _class_shares(poses: PoseTable, classes: int) -> Tensor:
    """Share [k] of each of so many classes among the particles that have a pose, each as far as it is one."""
    if classes == 1:
        return torch.ones(1, dtype=torch.float64)
    present = poses.present.double() * poses.known
    shares = (poses.class_shares(classes) * present[:, None]).sum(dim=0)
    return shares / shares.sum().clamp_min(1e-30)
