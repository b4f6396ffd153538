"""Three ways to find poses: exhaustive grid, Gauss-Newton from known poses, or none.

Global: every rotation of a grid and every shift are scored at low resolution by matrix products; the best distinct
candidates are polished by Levenberg-Marquardt, first at the grid's resolution, then, those still in the running, at the
full band. Local: the modes of the last iteration are polished. Fixed: given poses are only evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, merge_modes
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.score import ReferenceSlices, profile_scale, score_grid, shift_phases
from halfmap.imaging.forward import BandImages

GRID_POINTS_CONSIDERED = 256  # best grid points of an image among which distinct candidates are looked for
GRID_LOSS = 0.1  # of its log-likelihood that a pose may lose by lying between grid points


@dataclass(frozen=True)
class Sampling:
    """What to search: shells are those of the reference, shifts are in pixels, angles in radians.

    search: global, local or fixed; limit: highest shell scored; for a global search grid [r, 3, 3] (in-plane angles in
    [0, 180)), shifts [t, 2], grid_limit: highest shell of the exhaustive part, grid_step: its angular step,
    centred: whether the shifts are searched about the known ones, candidates: most distinct grid points polished; drop:
    nats below the best at which a mode is given up (about); modes: modes kept; steps: Levenberg-Marquardt steps at the
    full band.
    """

    search: str
    limit: int
    grid_limit: int = 0
    grid_step: float = 0.0
    grid: Tensor | None = None
    shifts: Tensor | None = None
    centred: bool = False
    candidates: int = 12
    drop: float = 14.0
    modes: int = 3
    steps: int = 6
    merge_angle: float = math.radians(2.0)


@dataclass(frozen=True)
class Reference:
    """A half volume [z, y, x] to compare with, and its padding factor."""

    volume: Tensor
    padding: int


class GlobalSearch:
    """Slices of one reference for one imaging geometry, made once and shared by all batches of a half set."""

    def __init__(self, reference: Reference, images: BandImages, sampling: Sampling) -> None:
        assert sampling.grid is not None and sampling.shifts is not None
        geometry = images.geometry
        self.sampling = sampling
        k = geometry.count(sampling.grid_limit)
        device = reference.volume.device
        self.slices = ReferenceSlices.build(
            reference.volume, geometry.coords[:k], reference.padding, sampling.grid.to(device)
        )
        self.phases = shift_phases(geometry.band.kxy[:k], sampling.shifts.to(device), geometry.band.box)

    def candidates(
        self, images: BandImages, prior: ShiftPrior, centre: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct grid points worth polishing: (image[j], rotations[j, 3, 3], shifts[j, 2]).

        centre [b, 2]: where each image's shifts are searched (none: about zero, with the prior's weights).
        """
        s = self.sampling
        assert s.shifts is not None
        y, c = images.whitened(s.grid_limit)
        shifts = s.shifts.to(y.device)
        log_prior = prior.log_density(shifts)
        if centre is not None:
            band = images.geometry.band
            y = y * shift_phases(band.kxy[: y.shape[1]], centre, band.box)
            log_prior = torch.zeros_like(log_prior)
        score, shift = score_grid(y, c, self.slices, self.phases, log_prior)
        best, order = score.topk(min(GRID_POINTS_CONSIDERED, score.shape[1]), dim=1)
        rotations = self.slices.rotation(torch.arange(score.shape[1], device=y.device))
        # Strong images lose more than ``drop`` nats from the true pose to the nearest grid point: allow for both.
        below = (best - best[:, :1]) * s.drop / (s.drop + GRID_LOSS * best[:, :1].clamp_min(0))
        chosen = kernels.distinct_peaks(below, order, rotations, 1.5 * s.grid_step, s.candidates, s.drop)
        image, column = torch.nonzero(chosen >= 0, as_tuple=True)
        index = order[image, chosen[image, column]]
        found = shifts[shift[image, index].long()]
        return image, rotations[index], found if centre is None else found + centre[image]

    def grey_scale(self, images: BandImages) -> tuple[float, float]:
        """Sums (cross, norm) whose ratio is the maximum-likelihood scale of the reference against the images."""
        y, c = images.whitened(self.sampling.grid_limit)
        cross, norm = profile_scale(y, c, self.slices, self.phases)
        return float(cross.sum()), float(norm.sum())


def polish(
    reference: Reference,
    images: BandImages,
    starts: tuple[Tensor, Tensor, Tensor],
    prior: ShiftPrior,
    limit: int,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt of starts (image[j], rotations[j], shifts[j]) at shells up to ``limit``; see refine_poses."""
    geometry = images.geometry
    k = geometry.count(limit)
    y, c = images.whitened(limit)
    band = (geometry.coords[:k] * reference.padding, geometry.band.kxy[:k])
    options = (geometry.band.box, steps, prior.precision, 1e-3, math.radians(15.0))
    return kernels.refine_poses(reference.volume, band, y, c, starts, options)


def dense(image: Tensor, results: tuple[Tensor, Tensor, Tensor, Tensor], count: int) -> Poses:
    """Arrange flat results, sorted by image[j], as modes [b, c] of ``count`` images."""
    rotations, shifts, gain, precision = results
    per_image = torch.bincount(image, minlength=count)
    first = torch.cumsum(per_image, 0) - per_image
    column = torch.arange(len(image), device=image.device) - first[image]
    width = max(1, int(per_image.max())) if len(image) else 1
    eye = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    poses = Poses(
        eye.expand(count, width, 3, 3).clone(),
        shifts.new_zeros((count, width, 2)),
        gain.new_full((count, width), -torch.inf),
        precision.new_zeros((count, width, 5, 5)),
    )
    poses.rotations[image, column] = rotations
    poses.shifts[image, column] = shifts
    poses.gain[image, column] = gain
    poses.precision[image, column] = precision
    return poses


def flat(poses: Poses) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (image[j], rotations[j], shifts[j]) of the modes present, sorted by image."""
    image, mode = torch.nonzero(~torch.isinf(poses.gain), as_tuple=True)
    return image, poses.rotations[image, mode], poses.shifts[image, mode]


def find_poses(
    reference: Reference,
    images: BandImages,
    sampling: Sampling,
    prior: ShiftPrior,
    known: Poses | None = None,
    grid: GlobalSearch | None = None,
) -> Poses:
    """Modes of the pose posterior of a batch, by the search that ``sampling`` names.

    known: modes of the last iteration (starts of a local search, extra starts of a global one); grid: for global.
    """
    count = len(images.scored)
    if sampling.search == "fixed":
        assert known is not None
        starts = (torch.arange(count, device=known.gain.device), known.rotations[:, 0], known.shifts[:, 0])
        return dense(starts[0], polish(reference, images, starts, prior, sampling.limit, 0), count)
    if sampling.search == "global":
        assert grid is not None
        centre = known.shifts[:, 0] if known is not None and sampling.centred else None
        starts = grid.candidates(images, prior, centre)
        if known is not None:
            starts = _joined(starts, flat(known))
        rough_limit = min(sampling.limit, sampling.grid_limit)
        rough = dense(starts[0], polish(reference, images, starts, prior, rough_limit, 3), count)
        rough = merge_modes(rough, sampling.grid_step * 0.35, sampling.drop, max(4, sampling.candidates // 2))
        starts = flat(rough)
    else:
        assert known is not None
        starts = flat(known)
    half = dense(starts[0], polish(reference, images, starts, prior, sampling.limit, 2), count)
    half = merge_modes(half, sampling.merge_angle, sampling.drop, sampling.modes + 1)
    starts = flat(half)
    poses = dense(starts[0], polish(reference, images, starts, prior, sampling.limit, sampling.steps), count)
    return merge_modes(poses, sampling.merge_angle, sampling.drop, sampling.modes)


def _joined(a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Two lists of starts as one, sorted by image."""
    image = torch.cat([a[0], b[0]])
    order = image.argsort(stable=True)
    return image[order], torch.cat([a[1], b[1]])[order], torch.cat([a[2], b[2]])[order]
