"""Two-dimensional classification: soft EM of class means over in-plane angles, shifts and classes.

The model is that of a refinement with a class mean in place of a projection (Scheres et al. 2005, J. Mol. Biol. 348,
139): both steps are the matrix products of halfmap.expectation.soft. Early log-likelihoods are tempered, so that the
first differences between classes do not decide everything, and detail grows with what the means hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from halfmap.expectation.in_plane import in_plane_rotations, turned_slices
from halfmap.expectation.posterior import SHARE_LEAST
from halfmap.expectation.score import ReferenceSlices, grid_rotation, shift_phases
from halfmap.expectation.soft import GridSums, Softness, SoftPoses, assign_
from halfmap.reconstruction.class_means import Plane, insert_
from halfmap.refinement.averaging_images import SharedImages
from halfmap.refinement.averaging_means import EMPTY, evened, made_means
from halfmap.refinement.averaging_schedule import ClassPlan, ClassSchedule, earned_frequency
from halfmap.refinement.averaging_state import (
    AveragingCourse,
    Classes2d,
    ClassMeans,
    ClassPoses,
    ClassRecord,
    ClassState,
)
from halfmap.refinement.averaging_sums import AveragingSums
from halfmap.refinement.held_images import HeldImages, Whitened
from halfmap.refinement.shared_work import gather_rows_, hand_back_cores, take_cores

FOUND = tuple(f.name for f in fields(ClassPoses) if f.name != "half")  # what is found for an image
BATCH = 512  # images worked on at once
LIKELIER = 3.0  # nats of evidence, from which on an image is likelier than noise by far
CLOSED = -69.0  # log prior of a class that holds nothing


@dataclass(frozen=True)
class _After:
    """What an iteration leaves: the state, how many classes were seeded anew, and by what their means moved [c, 2]
    (A)."""

    state: ClassState
    seeded: int
    by: Tensor

    def for_others(self) -> _After:
        """As processes need it that make no means."""
        means = self.state.means
        none = means.transforms[:0]
        return replace(self, state=replace(self.state, means=replace(means, transforms=none, correlation=none.real)))


class Averaging:
    """Finds classes. frames: all images, or in one of several processes its share of them; power [g, s]: mean power of
    images of each optics group; order int64 [b]: in which images join the subsets; shared: of several processes.

    Every process runs the same loop. Sums come together in the first, which makes the means and hands them out, and
    alone knows the poses of all images.
    """

    def __init__(self, frames: list[HeldImages], schedule: ClassSchedule, power: Tensor, order: Tensor,
                 device: torch.device, seed: int, shared: SharedImages | None = None) -> None:  # fmt: skip
        self.frames, self.schedule, self.device = frames, schedule, device
        self.shared = shared or SharedImages.alone(len(order))
        self.generator = torch.Generator().manual_seed(seed)
        self.rank = torch.empty_like(order)
        self.rank[order] = torch.arange(len(order))
        self.poses = ClassPoses.empty(len(order), self.rank % 2)
        self.power = power
        held = torch.tensor([float(len(frame)) for frame in frames])
        self.shared.ranks.add_([held])
        self.largest = int(held.argmax())  # frame, of most images

    def run(self, advance: Callable[[ClassPlan], Callable[[int], None]] = lambda plan: lambda n: None,
            told: Callable[[AveragingCourse], None] = lambda course: None,
            course: AveragingCourse | None = None) -> Classes2d | None:  # fmt: skip
        """Iterate. In the first process: told is called after each iteration, before the next one changes what it is
        given, and may go on from a course. The others get nothing. advance: called with a plan, gives what counts its
        images."""
        course = self.shared.ranks.told(course)
        if course is None:
            state, records, earned = self._first(), list[ClassRecord](), None
        else:
            self.poses, state, records = course.poses, course.state, [*course.records]
            earned = earned_frequency(state.means.resolution, state.means.share)
        for iteration in range(len(records) + 1, self.schedule.iterations + 1):
            began = time.perf_counter()
            plan = self.schedule.plan(iteration, earned)
            after = self._united(self._expectation(state, plan, advance(plan)), plan, state)
            state, means = after.state, after.state.means
            earned = earned_frequency(means.resolution, means.share)
            used = int((means.share > EMPTY / len(means.share)).sum())
            records.append(ClassRecord(
                iteration, plan.images, self.schedule.grid.length / plan.limit, plan.tempering, 2 * plan.angles,
                len(plan.shifts), used, after.seeded, 1 / earned, state.present, time.perf_counter() - began))
            if self.shared.ranks.first:
                told(AveragingCourse(state, self.poses, records))
        return self._sorted(state.means, records) if self.shared.ranks.first else None

    def _united(self, sums: AveragingSums, plan: ClassPlan, before: ClassState) -> _After:
        """What follows from the sums of all processes. The first one makes it of them, with all cores, and gets the
        poses that the others found."""
        ranks, poses, after = self.shared.ranks, self.poses, None
        ranks.add_(sums.counted)
        used = [rows[self.rank[rows] < plan.images] for rows in self.shared.rows]
        gather_rows_([getattr(poses, name) for name in FOUND], used, ranks)
        if ranks.first:
            take_cores(ranks)
            made = made_means(sums, plan, self.schedule)
            noise = torch.where(sums.count > 0, sums.noise / sums.count.clamp_min(1), before.sigma2)
            share = float(sums.present) / plan.images if plan.null else before.present
            prior = evened(before.log_prior, made.means.share) if plan.seeds else before.log_prior
            after = _After(ClassState(made.means, noise, self._scale(before, sums), share, prior), made.seeded, made.by)
            hand_back_cores(ranks)
        handed_out = ranks.told(after.for_others() if after is not None and ranks.world > 1 else None)
        after = after or handed_out
        assert after is not None  # the first process has made it, and the others were told
        self._follow(after.by)
        return after

    def _first(self) -> ClassState:
        """Means of random classes of images as they lie, to the coarsest limit."""
        plan = self.schedule.plan(1, None)
        plane, classes = Plane(self.schedule.grid.box, plan.limit), self.schedule.classes
        none = torch.zeros(classes, dtype=torch.float64)
        nothing = ClassState(ClassMeans.nothing(plane, classes), self.power, (1.0,) * len(self.frames), 0.7, none)
        sums = AveragingSums.zeros(classes, plane, self.power, len(self.frames))
        chosen = torch.randint(classes, (len(self.rank),), generator=self.generator)
        for frame in self.frames:
            count = frame.geometry.count(plan.limit)
            for half, some in self._halves(frame, plan.images):
                white = frame.whitened(some, self.power, 1.0, count)
                of = chosen[frame.index[some]]
                numerator = torch.zeros(classes, count, dtype=torch.complex64).index_add_(0, of, white.c * white.y)
                weight = torch.zeros(classes, count).index_add_(0, of, white.c.square())
                coords = frame.geometry.coords[:count]
                insert_(sums.planes[half], numerator[:, None], weight[:, None], coords, in_plane_rotations(1))
                sums.mass.add_(torch.bincount(of, minlength=classes))
        return self._united(sums, replace(plan, null=False, seeds=False), nothing).state

    def _halves(self, frame: HeldImages, images: int) -> Iterator[tuple[int, Tensor]]:
        """Places in a frame of the images of a subset, half by half, in batches."""
        rank = self.rank[frame.index]
        for half in range(2):
            places = torch.nonzero((rank < images) & (rank % 2 == half))[:, 0]
            for first in range(0, len(places), BATCH):
                yield half, places[first : first + BATCH]

    def _expectation(self, state: ClassState, plan: ClassPlan, advance: Callable[[int], None]) -> AveragingSums:
        classes, device = self.schedule.classes, self.device
        plane = Plane(self.schedule.grid.box, plan.limit)
        sums = AveragingSums.zeros(classes, plane, state.sigma2, len(self.frames))
        log_share = torch.where(state.means.share > 0, state.log_prior, CLOSED)
        log_share = log_share.repeat_interleave(plan.angles).float().to(device)
        rotations = in_plane_rotations(plan.angles)
        for f, frame in enumerate(self.frames):
            count = frame.geometry.count(plan.limit)
            coords = frame.geometry.coords[:count]
            slices = turned_slices(state.means.images.to(device), self.schedule.grid.box, coords.to(device), rotations)
            held = [GridSums.zeros(len(slices), count, device) for _ in range(2)]
            for half, some in self._halves(frame, plan.images):
                white = frame.whitened(some, state.sigma2, state.scale[f], count)
                white = Whitened(white.y.to(device), white.c.to(device))
                self._place(frame, some, white, slices, log_share, plan)
                self._assign(f, some, white, slices, log_share, held[half], plan, state, sums)
                advance(len(some))
            for half in range(2):
                real, imag, weight = (getattr(held[half], name).view(classes, plan.angles, count).cpu()
                                      for name in ("real", "imag", "weight"))
                insert_(sums.planes[half], torch.complex(real, imag), weight, coords, rotations)
                sums.mass.add_(held[half].mass.view(classes, plan.angles).sum(dim=1).cpu())
        return sums

    def _phases(self, frame: HeldImages, shifts: Tensor, count: int) -> Tensor:
        """Phases [t, k] that undo shifts [t, 2] in A."""
        optics = frame.geometry.optics
        return shift_phases(frame.geometry.band.kxy[:count], shifts / optics.pixel_size, optics.box).to(self.device)

    def _place(self, frame: HeldImages, some: Tensor, white: Whitened, slices: ReferenceSlices, log_share: Tensor,
               plan: ClassPlan) -> None:  # fmt: skip
        """Find the places of images that were never searched for, at coarse detail."""
        rows = frame.index[some]
        new = torch.nonzero(~self.poses.placed[rows])[:, 0]
        if plan.everywhere or not len(new):
            return
        count = frame.geometry.count(self.schedule.placing)
        shifts = self.schedule.all_shifts(0.25 * self.schedule.grid.length / self.schedule.placing)
        phases = self._phases(frame, shifts, count)
        coarse = ReferenceSlices(slices.rotations, *(one[:, :count].contiguous() for one in
                                                     (slices.real, slices.imag, slices.power)))
        found = assign_(white.y[new, :count], white.c[new, :count], coarse, phases, phases.real.new_zeros(len(phases)),
                        GridSums.zeros(len(slices), count, self.device), Softness(plan.tempering), log_share)
        self.poses.shift[rows[new]] = shifts[found.shift.cpu()]
        self.poses.placed[rows[new]] = True

    def _assign(self, f: int, some: Tensor, white: Whitened, slices: ReferenceSlices, log_share: Tensor,
                held: GridSums, plan: ClassPlan, state: ClassState, sums: AveragingSums) -> None:  # fmt: skip
        """Posterior, sums and best points of some images of a frame."""
        frame = self.frames[f]
        poses, rows, k = self.poses, frame.index[some], white.y.shape[1]
        if plan.everywhere:
            poses.shift[rows] = 0.0
        else:
            white = replace(white, y=white.y * self._phases(frame, poses.shift[rows], k))
        phases = self._phases(frame, plan.shifts, k)
        softness = Softness(plan.tempering, _local_share(state.present, plan.area) if plan.null else None)
        found = assign_(white.y, white.c, slices, phases, phases.real.new_zeros(len(phases)), held, softness, log_share)
        self._residuals(f, some, white, slices, phases, found, state.sigma2, sums)
        sums.present.add_(float(found.present.sum()))
        index, shift = found.index.cpu(), found.shift.cpu()
        number = poses.number[rows] = (index % len(slices)) // plan.angles
        sums.likely.index_add_(0, number, (found.log_evidence > LIKELIER).double().cpu())
        sums.images.add_(torch.bincount(number, minlength=len(sums.images)))
        poses.rotation[rows] = grid_rotation(slices.rotations.double().cpu(), index)
        at = poses.shift[rows] + plan.shifts[shift]
        poses.shift[rows] = at * (self.schedule.range / at.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1.0)
        poses.placed[rows] = True
        poses.weight[rows], poses.score[rows] = found.weight.float().cpu(), found.score.float().cpu()
        poses.present[rows] = found.present.float().cpu()

    def _residuals(self, f: int, some: Tensor, white: Whitened, slices: ReferenceSlices, phases: Tensor,
                   found: SoftPoses, sigma2: Tensor, sums: AveragingSums) -> None:  # fmt: skip
        """Noise and contrast at the best points. An image without a particle is noise as a whole."""
        count, frame = len(slices), self.frames[f]
        slot = found.index % count
        sign = torch.where(found.index >= count, -1.0, 1.0).to(slices.real)[:, None]
        model = white.c * torch.complex(slices.real[slot], sign * slices.imag[slot])
        data = white.y * phases[found.shift]
        present = found.present[:, None].to(model.real)
        cross = (data * model.conj()).real * present
        norm = (model.real.square() + model.imag.square()) * present
        sums.cross[f] += float(cross.sum())
        sums.norm[f] += float(norm.sum())
        power = (data.real.square() + data.imag.square() - 2 * cross + norm).cpu().double()
        shell = frame.geometry.band.shell[: white.y.shape[1]]
        groups = frame.groups[some]
        for group in groups.unique().tolist():
            member = groups == group
            of = torch.zeros(sigma2.shape[1], dtype=torch.float64)
            of.index_add_(0, shell, power[member].sum(dim=0))
            number = torch.zeros_like(of).index_add_(0, shell, torch.ones(len(shell), dtype=torch.float64))
            sums.noise[group] += of * sigma2[group] / frame.mask_power
            sums.count[group] += number * int(member.sum())

    def _scale(self, state: ClassState, sums: AveragingSums) -> tuple[float, ...]:
        """Contrast of each frame relative to the one with most images."""
        fitted = [s * c / max(n, 1e-12) if c > 0 else s
                  for s, c, n in zip(state.scale, sums.cross.tolist(), sums.norm.tolist(), strict=True)]
        return tuple(one / fitted[self.largest] for one in fitted)

    def _follow(self, by: Tensor) -> None:
        """Move images with their means, which were moved ``by`` [c, 2] (A): m'(x) = m(x - by), so t' = t - R by."""
        poses = self.poses
        known = poses.number >= 0
        plane = poses.rotation[known][:, :2, :2]
        poses.shift[known] -= (plane @ by[poses.number[known]][..., None])[..., 0]

    def _sorted(self, means: ClassMeans, records: list[ClassRecord]) -> Classes2d:
        """Classes in order of their share, largest first."""
        order = torch.argsort(means.share, descending=True, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        poses = replace(self.poses, number=place[self.poses.number])
        means = ClassMeans(means.plane, means.transforms[order], means.images[order], means.share[order],
                           tuple(means.resolution[c] for c in order.tolist()), means.correlation[order])
        return Classes2d(means, poses, records)


def _local_share(share: float, area: float) -> float:
    """The share that makes evidence over part of the shifts allowed, ``area`` of them, count as over all: the prior of
    these is flat, and what lies outside a posterior's reach adds nothing."""
    odds = area * share / max(1 - share, SHARE_LEAST)
    return odds / (1 + odds)
