"""Two-dimensional classification: soft EM of class means over in-plane angles, shifts and classes.

The model is that of a refinement with a class mean in place of a projection (Scheres et al. 2005, J. Mol. Biol. 348,
139): both steps are the matrix products of halfmap.expectation.soft. Early log-likelihoods are tempered, so that the
first differences between classes do not decide everything, and detail grows with what the means hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.expectation.in_plane import in_plane_rotations, turned_slices
from halfmap.expectation.posterior import SHARE_LEAST
from halfmap.expectation.score import ReferenceSlices, grid_rotation, shift_phases
from halfmap.expectation.soft import GridSums, Softness, SoftPoses, assign_
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle
from halfmap.reconstruction.class_means import (
    Plane,
    PlaneSums,
    agreement,
    at_least_faint,
    centre_of_mass,
    divided,
    folded,
    images_of,
    insert_,
    moved,
)
from halfmap.refinement.averaging_schedule import ClassPlan, ClassSchedule, earned_frequency
from halfmap.refinement.averaging_state import (
    AveragingCourse,
    Classes2d,
    ClassMeans,
    ClassPoses,
    ClassRecord,
    ClassState,
)
from halfmap.refinement.held_images import HeldImages, Whitened
from halfmap.validation.fsc import GOLD_STANDARD

BATCH = 512  # images worked on at once
EDGE = 0.06  # of the box: width of the means' mask's edge
EMPTY = 0.1  # of the mean share of a class: below it a class is seeded anew
LIKELIER, FEW_LIKELY = 3.0, 0.1  # nats of evidence, and the share of a class's images below which it holds noise
CLOSED = -69.0  # log prior of a class that holds nothing
EVENED, MOST_EVENED = 0.5, 4.0  # of log shares, that the prior makes up for after an iteration; and in all, nats


@dataclass
class _Sums:
    """Sums of one iteration. planes: of each half; mass [c]; noise, count [g, s]: residual power and coefficients;
    cross, norm of each frame: of data and model; likely, images [c]: of the images whose best point is in a class, how
    many are likelier by far than noise alone, and their number; present: sum over images."""

    planes: list[PlaneSums]
    mass: Tensor
    noise: Tensor
    count: Tensor
    cross: list[float]
    norm: list[float]
    likely: Tensor
    images: Tensor
    present: float = 0.0


class Averaging:
    """Finds classes. frames: all images; power [g, s]: mean power of images of each optics group; order int64 [b]: in
    which images join the subsets.
    """

    def __init__(self, frames: list[HeldImages], schedule: ClassSchedule, power: Tensor, order: Tensor,
                 device: torch.device, seed: int) -> None:  # fmt: skip
        self.frames, self.schedule, self.device = frames, schedule, device
        self.generator = torch.Generator().manual_seed(seed)
        self.rank = torch.empty_like(order)
        self.rank[order] = torch.arange(len(order))
        self.poses = ClassPoses.empty(len(order), self.rank % 2)
        self.power = power

    def run(self, advance: Callable[[ClassPlan], Callable[[int], None]], told: Callable[[AveragingCourse], None],
            course: AveragingCourse | None = None) -> Classes2d:  # fmt: skip
        """Iterate. advance: called with a plan, gives what counts its images; told: called after each iteration, before
        the next one changes what it is given; course: to go on from."""
        if course is None:
            state, records, earned = self._first(), list[ClassRecord](), None
        else:
            self.poses, state, records = course.poses, course.state, [*course.records]
            earned = earned_frequency(state.means.resolution, state.means.share)
        for iteration in range(len(records) + 1, self.schedule.iterations + 1):
            began = time.perf_counter()
            plan = self.schedule.plan(iteration, earned)
            sums = self._expectation(state, plan, advance(plan))
            means, seeded = self._means(sums, plan)
            noise = torch.where(sums.count > 0, sums.noise / sums.count.clamp_min(1), state.sigma2)
            share = sums.present / plan.images if plan.null else state.present
            prior = _evened(state.log_prior, means.share) if plan.seeds else state.log_prior
            state = ClassState(means, noise, self._scale(state, sums), share, prior)
            earned = earned_frequency(means.resolution, means.share)
            used = int((means.share > EMPTY / len(means.share)).sum())
            records.append(ClassRecord(
                iteration, plan.images, self.schedule.grid.length / plan.limit, plan.tempering, 2 * plan.angles,
                len(plan.shifts), used, seeded, 1 / earned, share, time.perf_counter() - began))
            told(AveragingCourse(state, self.poses, records))
        return self._sorted(state.means, records)

    def _first(self) -> ClassState:
        """Means of random classes of images as they lie, to the coarsest limit."""
        plan = self.schedule.plan(1, None)
        plane, classes = Plane(self.schedule.grid.box, plan.limit), self.schedule.classes
        scale = (1.0,) * len(self.frames)
        planes = [PlaneSums.zeros(classes, plane) for _ in range(2)]
        mass = torch.zeros(classes, dtype=torch.float64)
        chosen = torch.randint(classes, (len(self.rank),), generator=self.generator)
        for f, frame in enumerate(self.frames):
            count = frame.geometry.count(plan.limit)
            for half, some in self._halves(frame, plan.images):
                white = frame.whitened(some, self.power, scale[f], count)
                of = chosen[frame.index[some]]
                numerator = torch.zeros(classes, count, dtype=torch.complex64).index_add_(0, of, white.c * white.y)
                weight = torch.zeros(classes, count).index_add_(0, of, white.c.square())
                coords = frame.geometry.coords[:count]
                insert_(planes[half], numerator[:, None], weight[:, None], coords, in_plane_rotations(1))
                mass += torch.bincount(of, minlength=classes)
        zero = torch.zeros_like(self.power)
        plain = replace(plan, null=False, seeds=False)
        means, _ = self._means(_Sums(planes, mass, zero, zero, [], [], torch.zeros_like(mass), mass), plain)
        return ClassState(means, self.power, scale, 0.7, torch.zeros(classes, dtype=torch.float64))

    def _halves(self, frame: HeldImages, images: int) -> Iterator[tuple[int, Tensor]]:
        """Places in a frame of the images of a subset, half by half, in batches."""
        rank = self.rank[frame.index]
        for half in range(2):
            places = torch.nonzero((rank < images) & (rank % 2 == half))[:, 0]
            for first in range(0, len(places), BATCH):
                yield half, places[first : first + BATCH]

    def _expectation(self, state: ClassState, plan: ClassPlan, advance: Callable[[int], None]) -> _Sums:
        classes, device = self.schedule.classes, self.device
        plane = Plane(self.schedule.grid.box, plan.limit)
        zero = torch.zeros_like(state.sigma2)
        none = torch.zeros(classes, dtype=torch.float64)
        sums = _Sums([PlaneSums.zeros(classes, plane) for _ in range(2)], none, zero, zero.clone(), [], [],
                     none.clone(), none.clone())
        log_share = torch.where(state.means.share > 0, state.log_prior, CLOSED)
        log_share = log_share.repeat_interleave(plan.angles).float().to(device)
        rotations = in_plane_rotations(plan.angles)
        for f, frame in enumerate(self.frames):
            count = frame.geometry.count(plan.limit)
            coords = frame.geometry.coords[:count]
            slices = turned_slices(state.means.images.to(device), self.schedule.grid.box, coords.to(device), rotations)
            held = [GridSums.zeros(len(slices), count, device) for _ in range(2)]
            sums.cross.append(0.0)
            sums.norm.append(0.0)
            for half, some in self._halves(frame, plan.images):
                white = frame.whitened(some, state.sigma2, state.scale[f], count)
                white = Whitened(white.y.to(device), white.c.to(device))
                self._place(frame, some, white, slices, log_share, plan)
                self._assign(frame, some, white, slices, log_share, held[half], plan, state, sums)
                advance(len(some))
            for half in range(2):
                real, imag, weight = (getattr(held[half], name).view(classes, plan.angles, count).cpu()
                                      for name in ("real", "imag", "weight"))
                insert_(sums.planes[half], torch.complex(real, imag), weight, coords, rotations)
                sums.mass += held[half].mass.view(classes, plan.angles).sum(dim=1).cpu()
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

    def _assign(self, frame: HeldImages, some: Tensor, white: Whitened, slices: ReferenceSlices, log_share: Tensor,
                held: GridSums, plan: ClassPlan, state: ClassState, sums: _Sums) -> None:  # fmt: skip
        """Posterior, sums and best points of some images of a frame."""
        poses, rows, k = self.poses, frame.index[some], white.y.shape[1]
        if plan.everywhere:
            poses.shift[rows] = 0.0
        else:
            white = replace(white, y=white.y * self._phases(frame, poses.shift[rows], k))
        phases = self._phases(frame, plan.shifts, k)
        softness = Softness(plan.tempering, _local_share(state.present, plan.area) if plan.null else None)
        found = assign_(white.y, white.c, slices, phases, phases.real.new_zeros(len(phases)), held, softness, log_share)
        self._residuals(frame, some, white, slices, phases, found, state.sigma2, sums)
        sums.present += float(found.present.sum())
        index, shift = found.index.cpu(), found.shift.cpu()
        number = poses.number[rows] = (index % len(slices)) // plan.angles
        sums.likely.index_add_(0, number, (found.log_evidence > LIKELIER).double().cpu())
        sums.images += torch.bincount(number, minlength=len(sums.images))
        poses.rotation[rows] = grid_rotation(slices.rotations.double().cpu(), index)
        at = poses.shift[rows] + plan.shifts[shift]
        poses.shift[rows] = at * (self.schedule.range / at.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1.0)
        poses.placed[rows] = True
        poses.weight[rows], poses.score[rows] = found.weight.float().cpu(), found.score.float().cpu()
        poses.present[rows] = found.present.float().cpu()

    def _residuals(self, frame: HeldImages, some: Tensor, white: Whitened, slices: ReferenceSlices, phases: Tensor,
                   found: SoftPoses, sigma2: Tensor, sums: _Sums) -> None:  # fmt: skip
        """Noise and contrast at the best points. An image without a particle is noise as a whole."""
        count, band = len(slices), frame.geometry.band
        slot = found.index % count
        sign = torch.where(found.index >= count, -1.0, 1.0).to(slices.real)[:, None]
        model = white.c * torch.complex(slices.real[slot], sign * slices.imag[slot])
        data = white.y * phases[found.shift]
        present = found.present[:, None].to(model.real)
        cross = (data * model.conj()).real * present
        norm = (model.real.square() + model.imag.square()) * present
        sums.cross[-1] += float(cross.sum())
        sums.norm[-1] += float(norm.sum())
        power = (data.real.square() + data.imag.square() - 2 * cross + norm).cpu().double()
        shell = band.shell[: white.y.shape[1]]
        groups = frame.groups[some]
        for group in groups.unique().tolist():
            member = groups == group
            of = torch.zeros(sigma2.shape[1], dtype=torch.float64)
            of.index_add_(0, shell, power[member].sum(dim=0))
            number = torch.zeros_like(of).index_add_(0, shell, torch.ones(len(shell), dtype=torch.float64))
            sums.noise[group] += of * sigma2[group] / frame.mask_power
            sums.count[group] += number * int(member.sum())

    def _scale(self, state: ClassState, sums: _Sums) -> tuple[float, ...]:
        """Contrast of each frame relative to the one with most images."""
        fitted = [s * c / max(n, 1e-12) if c > 0 else s
                  for s, c, n in zip(state.scale, sums.cross, sums.norm, strict=True)]
        largest = max(range(len(self.frames)), key=lambda f: len(self.frames[f]))
        return tuple(one / fitted[largest] for one in fitted)

    def _means(self, sums: _Sums, plan: ClassPlan) -> tuple[ClassMeans, int]:
        """The M-step: means from sums, centred, and how many classes were seeded anew."""
        plane, grid = Plane(self.schedule.grid.box, plan.limit), self.schedule.grid
        side = plane.side
        mask = mean_mask(grid, self.schedule.diameter, side)
        halves = [folded(one) for one in sums.planes]
        raw = torch.stack([images_of(divided(one, plane), plane, side) * mask for one in halves])
        seen = agreement(raw, plane)
        share = sums.mass / sums.mass.sum().clamp_min(1e-12)
        transforms = divided(halves[0] + halves[1], plane, at_least_faint(seen.signal, share))
        resolution = [_resolution(one, grid) for one in seen.correlation]
        share = _closed(share, sums, plan)
        resolution = [one if float(s) > 0 else grid.length for one, s in zip(resolution, share, strict=True)]
        seeded = 0
        if plan.seeds:
            seeded = _seed_(transforms, share, resolution, [divided(one, plane, at_least_faint(seen.signal, share))
                                                            for one in halves])
        images = images_of(transforms, plane, side) * mask
        by = -centre_of_mass(images) * grid.box  # pixels of the box
        by *= (0.05 * grid.box / by.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1.0)
        transforms = moved(transforms, plane, by)
        self._follow(by * grid.pixel_size)
        images = images_of(transforms, plane, side) * mask
        return ClassMeans(plane, transforms, images, share, tuple(resolution), seen.correlation), seeded

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


def mean_mask(grid: Grid, diameter: float, side: int) -> Tensor:
    """The soft circle [y, x] of the diameter (A) on ``side`` pixels over the grid's field."""
    pixel = grid.length / side
    return soft_circle(side, min(0.5 * diameter / pixel, side / 2 - 1.0), EDGE * side)


def _evened(log_prior: Tensor, share: Tensor) -> Tensor:
    """The log prior [c] of classes moved against their shares [c].

    The mean of a large class has less noise than others, so that images fit it better for that alone: without this one
    class takes four fifths of real images of apoferritin. A few nats decide only where the images do not.
    """
    moved_by = EVENED * (share * len(share)).clamp_min(EMPTY).log()
    return (log_prior - moved_by).clamp(-MOST_EVENED, MOST_EVENED)


def _closed(share: Tensor, sums: _Sums, plan: ClassPlan) -> Tensor:
    """Shares [c], 0 for classes of whose images hardly any is likelier under their mean than as noise alone.

    Images of noise have a mean too, and a class of them would take the place of the hypothesis that they hold nothing.
    The expectation of the evidence is 1 under noise, so that it exceeds 20 in a twentieth of such images at most.
    """
    if not plan.null or plan.seeds:  # what is seeded anew may yet become something
        return share
    void = (sums.likely < FEW_LIKELY * sums.images) & (sums.images > 0)
    return share if bool(void.all()) else torch.where(void, 0.0, share)


def _local_share(share: float, area: float) -> float:
    """The share that makes evidence over part of the shifts allowed, ``area`` of them, count as over all: the prior of
    these is flat, and what lies outside a posterior's reach adds nothing."""
    odds = area * share / max(1 - share, SHARE_LEAST)
    return odds / (1 + odds)


def _resolution(correlation: Tensor, grid: Grid) -> float:
    """Where the correlation [s] of half means first falls below GOLD_STANDARD, in A, between two shells."""
    for s in range(2, len(correlation)):
        low, high = float(correlation[s]), float(correlation[s - 1])
        if low < GOLD_STANDARD:
            at = s - 1 + (high - GOLD_STANDARD) / (high - low) if high > GOLD_STANDARD else s - 1.0
            return grid.length / max(at, 1.0)
    return grid.length / (len(correlation) - 1)


def _seed_(transforms: Tensor, share: Tensor, resolution: list[float], halves: list[Tensor]) -> int:
    """Give empty classes a half mean of the largest ones, in place, which keep the other. Returns how many."""
    empty = torch.nonzero(share < EMPTY / len(share))[:, 0].tolist()
    large = torch.argsort(share, descending=True).tolist()[: len(empty)]
    count = 0
    for c, source in zip(empty, large, strict=True):
        if float(share[source]) < 1.5 / len(share):
            break
        transforms[source], transforms[c] = halves[0][source], halves[1][source]
        share[source] = share[c] = 0.5 * float(share[source])
        resolution[c] = resolution[source]
        count += 1
    return count
