"""One iteration of soft EM: every image over a whole grid of orientations and shifts, and two new half maps.

The images are in two halves, and each is compared with the map of the *other*. A map that holds an image explains
that image better than it should, and with few images and a sharp posterior this feeds itself: first guesses stay. The
other half's map holds none of the image's noise. So the evidence is that of images which the map has not seen, and the
FSC of the two maps says how far to trust them. The halves share one frame because each is aligned to the other; they
are no gold standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from halfmap import kernels
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
SHARP = 0.4  # tempering from which on posteriors hold few orientations
EDGE = 10.0  # A, of the sphere around the particle
LEAST_FSC, MOST_FSC = 0.05, 0.999  # a shell that does not agree yet must be able to begin


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
    in angstrom: how far, how fine, and the sd of their prior. null: whether an image may hold no particle.
    """

    limit: int
    order: int
    tempering: float
    reach: float
    step: float
    spread: float
    null: bool = False


@dataclass(frozen=True)
class SoftTask:
    """What stays the same: halves [h] of the images, each frame by frame; the grid of the maps; the particle's diameter
    in angstrom; operators [o, 3, 3] of its point group."""

    halves: tuple[Sequence[WhitenedImages], ...]
    grid: Grid
    diameter: float
    group: Tensor

    def energy(self, limit: int) -> float:
        """Mean power of the signal of an image up to a shell, in units of the noise (`WhitenedImages.energy`)."""
        return float(torch.cat([held.energy(limit) for images in self.halves for held in images]).mean())

    @property
    def sphere(self) -> Tensor:
        """The soft sphere [z, y, x] that maps are kept in."""
        edge = max(2.0, EDGE / self.grid.pixel_size)
        radius = min(self.diameter / (2 * self.grid.pixel_size), self.grid.box / 2 - edge)
        return spherical_mask(self.grid.box, radius, edge).to(self.group.device)


@dataclass(frozen=True)
class SlicesSeen:
    """What an iteration put into the slices of one frame: sums at rotations [r, 3, 3]."""

    images: WhitenedImages
    rotations: Tensor
    sums: GridSums


@dataclass(frozen=True)
class ImagePoses:
    """Best poses of images [b], sorted by the number of their particle (index).

    rotations [b, 3, 3]; shifts [b, 2] in angstrom; weight, present: of the best grid point, and of a particle at all;
    evidence: log, in nats, against the map of the other half; half: their half.
    """

    index: Tensor
    rotations: Tensor
    shifts: Tensor
    weight: Tensor
    present: Tensor
    evidence: Tensor
    half: Tensor

    @staticmethod
    def sorted(parts: Sequence[ImagePoses]) -> ImagePoses:
        """All images of several parts."""
        order = torch.cat([part.index for part in parts]).argsort()
        return ImagePoses(**{f.name: torch.cat([getattr(part, f.name) for part in parts])[order]
                             for f in fields(ImagePoses)})


@dataclass(frozen=True)
class SoftStep:
    """What an iteration leaves.

    maps [h]: regularised, within the sphere, what the other half is compared with next; joined: the map of all images.
    curve [s]: FSC of the raw maps within the sphere. gain: mean log evidence of an image, in nats. share: of the images
    that hold a particle. seen: the slices of the first half, frame by frame.
    """

    maps: tuple[Tensor, ...]
    joined: Tensor
    curve: Tensor
    gain: float
    share: float
    poses: ImagePoses
    seen: list[SlicesSeen]


def soft_step(
    task: SoftTask, maps: Sequence[Tensor], search: SoftSearch, share: float, generator: torch.Generator
) -> SoftStep:
    """Compare each half of the images with the map [z, y, x] of the other, and make both maps anew.

    share: of the images that hold a particle, so far. generator: turns the grid, where the group leaves it free.
    """
    turn = random_rotations(1, generator)[0] if len(task.group) == 1 else None
    rotations = orientation_grid(search.order, task.group.cpu(), perturbation=turn).to(task.group.device)
    softness = Softness(search.tempering, share if search.null else None, search.tempering > SHARP)
    statistics, poses, seen = list[Backprojection](), list[ImagePoses](), list[SlicesSeen]()
    for half, images in enumerate(task.halves):
        sums = Backprojection.zeros(task.grid.box, PADDING, search.limit, maps[half].new_zeros(()))
        volume = half_volume(maps[1 - half], PADDING, search.limit)
        for held in images:
            few = held.to_shell(search.limit)
            soft, slices = _assigned(few, volume, rotations, search, softness)
            _insert(sums, slices)
            poses.append(_poses_of(few, soft, rotations, search, half))
            if half == 0:
                seen.append(slices)
        statistics.append(sums.finished_(task.group))
    made = solved(task, statistics)
    together = ImagePoses.sorted(poses)
    return SoftStep(made.maps, made.joined, made.curve, float(together.evidence.mean()),
                    float(together.present.mean()), together, seen)


def _shifts(held: WhitenedImages, search: SoftSearch) -> Tensor:
    """The shifts [t, 2] that are tried, in pixels of the images."""
    pixel_size = held.geometry.optics.pixel_size
    return shift_grid(search.reach / pixel_size, search.step / pixel_size).to(held.y.device)


def _assigned(
    held: WhitenedImages, volume: Tensor, rotations: Tensor, search: SoftSearch, softness: Softness
) -> tuple[SoftPoses, SlicesSeen]:
    """Soft poses of images on the grid of rotations [r, 3, 3], and the sums on its slices. volume: half volume."""
    k, geometry = held.y.shape[1], held.geometry
    slices = ReferenceSlices.build(volume, geometry.coords[:k], PADDING, rotations)
    shifts = _shifts(held, search)
    phases = shift_phases(geometry.band.kxy[:k], shifts, geometry.band.box)
    log_prior = -0.5 * (shifts * geometry.optics.pixel_size / search.spread).square().sum(dim=1)
    sums = GridSums.zeros(len(rotations), k, volume.device)
    return assign_(held.y, held.c, slices, phases, log_prior, sums, softness), SlicesSeen(held, rotations, sums)


def _poses_of(
    held: WhitenedImages, soft: SoftPoses, rotations: Tensor, search: SoftSearch, half: int
) -> ImagePoses:
    shifts = _shifts(held, search)[soft.shift] * held.geometry.optics.pixel_size
    rotation = grid_rotation(rotations, soft.index)
    return ImagePoses(held.index, rotation.cpu(), shifts.cpu(), soft.weight.cpu(), soft.present.cpu(),
                      soft.log_evidence.cpu(), torch.full_like(held.index, half))


def _insert(statistics: Backprojection, slices: SlicesSeen) -> None:
    """Add the sums on slices to those of a map."""
    sums, count = slices.sums, len(slices.rotations)
    values = torch.complex(sums.real, sums.imag)
    everything = torch.arange(count, device=values.device)
    nowhere, whole = slices.rotations.new_zeros(count, 2), torch.ones_like(sums.real[:, 0])
    samples = Samples(everything, slices.rotations, nowhere, whole)
    _add(statistics, values, sums.weight, slices.images, samples)


def _add(statistics: Backprojection, values: Tensor, weights: Tensor, held: WhitenedImages, samples: Samples) -> None:
    k, geometry = values.shape[1], held.geometry
    kernels.insert_slices_(statistics.sums, values, weights, geometry.coords[:k] * PADDING, geometry.band.kxy[:k],
                           geometry.band.box, samples, statistics.kernel)


@dataclass(frozen=True)
class SolvedMaps:
    """Maps [h] of both halves and of all images, regularised, within the sphere; FSC [s] of the raw half maps."""

    maps: tuple[Tensor, ...]
    joined: Tensor
    curve: Tensor


def solved(task: SoftTask, statistics: Sequence[Backprojection]) -> SolvedMaps:
    """Wiener-filtered maps from the finished statistics [h] of both halves."""
    sphere = task.sphere
    curve = fsc(*(reconstruct(one) * sphere for one in statistics))
    trusted = curve[: statistics[0].limit + 1].clamp(LEAST_FSC, MOST_FSC)
    maps = tuple(reconstruct(one, wiener_ridge(one, trusted, joined=False)) * sphere for one in statistics)
    both = replace(statistics[0], sums=statistics[0].sums + statistics[1].sums)
    return SolvedMaps(maps, reconstruct(both, wiener_ridge(both, trusted, joined=True)) * sphere, curve)


def random_map(task: SoftTask, limit: int, generator: torch.Generator) -> Tensor:
    """The map [z, y, x] of all images at random orientations, up to a shell."""
    device = task.group.device
    statistics = Backprojection.zeros(task.grid.box, PADDING, limit, torch.zeros((), device=device))
    for images in task.halves:
        for held in images:
            few, count = held.to_shell(limit), len(held)
            rotations = random_rotations(count, generator).to(device)
            samples = Samples(torch.arange(count, device=device), rotations, rotations.new_zeros(count, 2),
                              torch.ones(count, device=device))
            _add(statistics, few.c * few.y, few.c.square(), few, samples)
    finished = statistics.finished_(task.group)
    return reconstruct(finished, finished.shell_weight()) * task.sphere
