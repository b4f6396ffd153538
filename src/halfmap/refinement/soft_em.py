"""One iteration of soft EM: every image over a whole grid of orientations and shifts, and two new half maps.

The images are in two halves, and each is compared with the map of the *other*. A map that holds an image explains
that image better than it should, and with few images and a sharp posterior this feeds itself: first guesses stay. The
other half's map holds none of the image's noise. So the evidence is that of images which the map has not seen, and the
FSC of the two maps says how far to trust them.

The halves take turns: the second is compared with the map that the first has just made. Compared with what was there
before, the maps would be two chains, first - second - first and second - first - second, that never meet: their frames
and hands may drift apart, and the FSC of maps in different frames filters them away. The halves share one frame because
each is aligned to the other; they are no gold standard.

An image may hold no particle from the first iteration on. If it had to hold one, images of noise would go where the
projections of the map have least power; there they dilute the views, which lose more power by it, and the map that
comes of it is wrong and the same in every start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import mixture_evidence
from halfmap.expectation.score import ReferenceSlices, grid_rotation, shift_phases
from halfmap.expectation.soft import GridSums, Softness, SoftPoses, assign_
from halfmap.fourier.transform import half_volume
from halfmap.geometry.orientation_grid import orientation_grid
from halfmap.geometry.rotations import random_rotations
from halfmap.geometry.shift_grid import shift_grid
from halfmap.imaging.forward import ImagingGeometry
from halfmap.kernels.poses import Samples
from halfmap.maps.grid import Grid
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.held_images import HeldSet
from halfmap.regularisation.wiener import wiener_ridge
from halfmap.validation.fsc import fsc

PADDING = 2
LEAST_SHARE = 0.01  # of a class, so that it may come back
SHARP = 0.4  # tempering from which on posteriors hold few orientations
EDGE = 10.0  # A, of the sphere around the particle
LEAST_FSC, MOST_FSC = 0.05, 0.999  # a shell that does not agree yet must be able to begin
WITH_SIGNAL = 0.5  # of the mean energy of images, from which on one counts as an image with signal


@dataclass(frozen=True)
class WhitenedImages:
    """Images of one frame over the standard deviation of their noise.

    index int64 [b]: their particles. geometry: of the band, which is the same for all. y, c [b, k]: data and contrast
    (`score.score_grid`). mask_power: mean square of the circular mask, which is what noise has left in y.
    """

    index: Tensor
    geometry: ImagingGeometry
    y: Tensor
    c: Tensor
    mask_power: float

    @staticmethod
    def every(held: HeldSet) -> list[WhitenedImages]:
        """All images of a set, under the noise around their particles, frame by frame."""
        made = []
        for frame in held.frames:
            white = frame.whitened(torch.arange(len(frame)), held.noise, 1.0, frame.values.shape[1])
            made.append(WhitenedImages(frame.index, frame.geometry, white.y, white.c, frame.mask_power))
        return made

    def __len__(self) -> int:
        return len(self.index)

    def where(self, chosen: Tensor) -> WhitenedImages:
        """Those that ``chosen`` [b] marks."""
        return replace(self, index=self.index[chosen], y=self.y[chosen], c=self.c[chosen])

    def to_shell(self, limit: int) -> WhitenedImages:
        """The same up to a shell of the reference; no copy."""
        k = self.geometry.count(limit)
        return replace(self, y=self.y[:, :k], c=self.c[:, :k])

    def energy(self, limit: int) -> Tensor:
        """Power of the signal up to a shell, in units of the noise, summed over coefficients [b].

        It is what the log-likelihood of an image gains by the right model at the right pose, in expectation.
        """
        y = self.to_shell(limit).y
        return (y.real.square() + y.imag.square() - self.mask_power).double().sum(dim=1)


@dataclass(frozen=True)
class SoftSearch:
    """What an iteration searches.

    limit: highest shell. order: of the orientation grid. tempering: of log-likelihoods. reach, step, spread: of shifts,
    in angstrom: how far, how fine, and the sd of their prior.
    """

    limit: int
    order: int
    tempering: float
    reach: float
    step: float
    spread: float


@dataclass(frozen=True)
class SoftTask:
    """What stays the same: halves [h] of the images, each frame by frame; the grid of the maps; the particle's diameter
    in angstrom; operators [o, 3, 3] of its point group."""

    halves: tuple[Sequence[WhitenedImages], ...]
    grid: Grid
    diameter: float
    group: Tensor

    def energy(self, limit: int) -> float:
        """Mean power of the signal of an image up to a shell, in units of the noise (`WhitenedImages.energy`). Images
        of much less than the mean, which may hold no particle, are not counted."""
        each = torch.cat([held.energy(limit) for images in self.halves for held in images])
        return float(each[each >= min(WITH_SIGNAL * float(each.mean()), float(each.max()))].mean())

    @property
    def sphere(self) -> Tensor:
        """The soft sphere [z, y, x] that maps are kept in."""
        edge = max(2.0, EDGE / self.grid.pixel_size)
        radius = min(self.diameter / (2 * self.grid.pixel_size), self.grid.box / 2 - edge)
        return spherical_mask(self.grid.box, radius, edge).to(self.group.device)


@dataclass(frozen=True)
class SlicesSeen:
    """What an iteration put into the slices of one frame: sums at rotations [r, 3, 3], class after class [k r]."""

    images: WhitenedImages
    rotations: Tensor
    sums: GridSums

    def of_class(self, number: int) -> GridSums:
        """The sums of one class; no copy."""
        own = slice(number * len(self.rotations), (number + 1) * len(self.rotations))
        return GridSums(*(getattr(self.sums, f.name)[own] for f in fields(GridSums)))

    def in_order(self, order: Sequence[int]) -> SlicesSeen:
        """The same with the classes in another order."""
        parts = [self.of_class(number) for number in order]
        sums = GridSums(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(GridSums)))
        return replace(self, sums=sums)


@dataclass(frozen=True)
class ImagePoses:
    """Best poses of images [b], sorted by the number of their particle (index).

    rotations [b, 3, 3]; shifts [b, 2] in angstrom; class_of int64: the class of that pose; weight, present: of the best
    grid point, and of a particle at all; evidence: log, in nats, against the maps of the other half.
    """

    index: Tensor
    rotations: Tensor
    shifts: Tensor
    class_of: Tensor
    weight: Tensor
    present: Tensor
    evidence: Tensor

    @staticmethod
    def sorted(parts: Sequence[ImagePoses]) -> ImagePoses:
        """All images of several parts."""
        order = torch.cat([part.index for part in parts]).argsort()
        return ImagePoses(**{f.name: torch.cat([getattr(part, f.name) for part in parts])[order]
                             for f in fields(ImagePoses)})


@dataclass(frozen=True)
class SoftMaps:
    """The maps of a class: of both halves [h], which the other half is compared with next, and of all images (joined);
    regularised, within the sphere. curve [s]: FSC of the raw half maps. share: of the particles."""

    maps: tuple[Tensor, ...]
    joined: Tensor
    curve: Tensor
    share: float = 1.0


@dataclass(frozen=True)
class SoftStep:
    """What an iteration leaves.

    classes [k]: their maps. gain: mean log evidence of an image, of a particle or none, in nats. share: of the images
    that hold a particle. seen: the slices of the first half, frame by frame.
    """

    classes: tuple[SoftMaps, ...]
    gain: float
    share: float
    poses: ImagePoses
    seen: list[SlicesSeen]

    @property
    def largest(self) -> SoftMaps:
        """The class with most images."""
        return max(self.classes, key=lambda one: one.share)


def soft_step(
    task: SoftTask, classes: Sequence[SoftMaps], search: SoftSearch, share: float, generator: torch.Generator
) -> SoftStep:
    """Compare each half of the images with the maps of the other, one half after the other, and make all maps anew.

    share: of the images that hold a particle, so far. generator: turns the grid, where the group leaves it free.
    """
    turn = random_rotations(1, generator)[0] if len(task.group) == 1 else None
    rotations = orientation_grid(search.order, task.group.cpu(), perturbation=turn).to(task.group.device)
    softness = Softness(search.tempering, share, search.tempering > SHARP)
    log_share = torch.tensor([max(one.share, LEAST_SHARE) for one in classes]).log().to(task.group.device)
    finished: list[list[Backprojection]] = []
    poses, seen, mass = list[ImagePoses](), list[SlicesSeen](), torch.zeros(len(classes), dtype=torch.float64)
    others = [one.maps[1] for one in classes]
    for half, images in enumerate(task.halves):
        volumes = [half_volume(other, PADDING, search.limit) for other in others]
        made = [Backprojection.zeros(task.grid.box, PADDING, search.limit, other.new_zeros(())) for other in others]
        for held in images:
            few = held.to_shell(search.limit)
            soft, slices = _assigned(few, volumes, rotations, search, softness, log_share)
            for number, sums in enumerate(made):
                _insert(sums, slices, number)
            mass += slices.sums.mass.view(len(classes), -1).sum(dim=1).cpu()
            poses.append(_poses_of(few, soft, rotations, search, len(classes)))
            if half == 0:
                seen.append(slices)
        finished.append([sums.finished_(task.group) for sums in made])
        if half == 0:
            others = [_filtered(task, sums, other) for sums, other in zip(finished[0], others, strict=True)]
    shares = (mass / mass.sum().clamp_min(1e-12)).tolist()
    together = ImagePoses.sorted(poses)
    return SoftStep(tuple(_solved(task, both, part) for *both, part in zip(*finished, shares, strict=True)),
                    float(mixture_evidence(together.evidence, share).mean()), float(together.present.mean()), together,
                    seen)


def _shifts(held: WhitenedImages, search: SoftSearch) -> Tensor:
    """The shifts [t, 2] that are tried, in pixels of the images."""
    pixel_size = held.geometry.optics.pixel_size
    return shift_grid(search.reach / pixel_size, search.step / pixel_size).to(held.y.device)


def _assigned(
    held: WhitenedImages, volumes: Sequence[Tensor], rotations: Tensor, search: SoftSearch, softness: Softness,
    log_share: Tensor,
) -> tuple[SoftPoses, SlicesSeen]:  # fmt: skip
    """Soft poses of images on the grid of rotations [r, 3, 3] of every class, and the sums on its slices. volumes [k]:
    half volumes."""
    k, geometry = held.y.shape[1], held.geometry
    parts = [ReferenceSlices.build(volume, geometry.coords[:k], PADDING, rotations) for volume in volumes]
    slices = parts[0] if len(parts) == 1 else ReferenceSlices(
        *(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(ReferenceSlices)))
    shifts = _shifts(held, search)
    phases = shift_phases(geometry.band.kxy[:k], shifts, geometry.band.box)
    log_prior = -0.5 * (shifts * geometry.optics.pixel_size / search.spread).square().sum(dim=1)
    sums = GridSums.zeros(len(slices), k, volumes[0].device)
    found = assign_(held.y, held.c, slices, phases, log_prior, sums, softness,
                    log_share.repeat_interleave(len(rotations)))
    return found, SlicesSeen(held, rotations, sums)


def _poses_of(
    held: WhitenedImages, soft: SoftPoses, rotations: Tensor, search: SoftSearch, classes: int
) -> ImagePoses:
    count = len(rotations)
    place, turned = soft.index % (classes * count), soft.index >= classes * count
    rotation = grid_rotation(rotations, place % count + turned * count)
    shifts = _shifts(held, search)[soft.shift] * held.geometry.optics.pixel_size
    return ImagePoses(held.index, rotation.cpu(), shifts.cpu(), (place // count).cpu(), soft.weight.cpu(),
                      soft.present.cpu(), soft.log_evidence.cpu())


def _insert(statistics: Backprojection, slices: SlicesSeen, number: int) -> None:
    """Add the sums on the slices of a class to those of its map."""
    sums, count = slices.of_class(number), len(slices.rotations)
    values = torch.complex(sums.real, sums.imag)
    everything = torch.arange(count, device=values.device)
    nowhere, whole = slices.rotations.new_zeros(count, 2), torch.ones_like(sums.real[:, 0])
    samples = Samples(everything, slices.rotations, nowhere, whole)
    _add(statistics, values, sums.weight, slices.images, samples)


def _add(statistics: Backprojection, values: Tensor, weights: Tensor, held: WhitenedImages, samples: Samples) -> None:
    k, geometry = values.shape[1], held.geometry
    kernels.insert_slices_(statistics.sums, values, weights, geometry.coords[:k] * PADDING, geometry.band.kxy[:k],
                           geometry.band.box, samples, statistics.kernel)


def _filtered(task: SoftTask, statistics: Backprojection, other: Tensor) -> Tensor:
    """The Wiener-filtered map of finished statistics, trusted as far as it agrees with the other half's map."""
    sphere = task.sphere
    curve = fsc(reconstruct(statistics) * sphere, other)
    return reconstruct(statistics, wiener_ridge(statistics, _trusted(curve, statistics), joined=False)) * sphere


def _trusted(curve: Tensor, statistics: Backprojection) -> Tensor:
    return curve[: statistics.limit + 1].clamp(LEAST_FSC, MOST_FSC)


def _solved(task: SoftTask, statistics: Sequence[Backprojection], share: float) -> SoftMaps:
    """Wiener-filtered maps from the finished statistics [h] of both halves."""
    sphere = task.sphere
    curve = fsc(*(reconstruct(one) * sphere for one in statistics))
    trusted = _trusted(curve, statistics[0])
    maps = tuple(reconstruct(one, wiener_ridge(one, trusted, joined=False)) * sphere for one in statistics)
    both = replace(statistics[0], sums=statistics[0].sums + statistics[1].sums)
    return SoftMaps(maps, reconstruct(both, wiener_ridge(both, trusted, joined=True)) * sphere, curve, share)


def random_maps(task: SoftTask, classes: int, limit: int, generator: torch.Generator) -> list[SoftMaps]:
    """Maps of random parts of the images at random orientations, up to a shell; the same for both halves."""
    return [_random_map(task, number, classes, limit, generator) for number in range(classes)]


def _random_map(task: SoftTask, number: int, classes: int, limit: int, generator: torch.Generator) -> SoftMaps:
    device = task.group.device
    statistics = Backprojection.zeros(task.grid.box, PADDING, limit, torch.zeros((), device=device))
    for images in task.halves:
        for held in images:
            few = held.to_shell(limit).where(torch.arange(len(held)) % classes == number)
            rotations, count = random_rotations(len(few), generator).to(device), len(few)
            samples = Samples(torch.arange(count, device=device), rotations, rotations.new_zeros(count, 2),
                              torch.ones(count, device=device))
            _add(statistics, few.c * few.y, few.c.square(), few, samples)
    finished = statistics.finished_(task.group)
    made = reconstruct(finished, finished.shell_weight()) * task.sphere
    return SoftMaps((made, made), made, torch.ones(task.grid.box // 2 + 1), 1 / classes)
