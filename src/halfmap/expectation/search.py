"""Three ways to find poses: exhaustive grid, Gauss-Newton from known poses, or none.

Global: every rotation of a grid and every shift are scored at low resolution by matrix products; the best distinct
candidates are polished by Levenberg-Marquardt, first at the grid's resolution; those still in the running are polished
at the full band. Local: the modes of the last iteration are polished. Fixed: given poses are only evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, merge_modes, nearest_copies
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.score import (
    PER_SLICE,
    SliceGrid,
    best_points,
    grid_rotation,
    profile_scale,
    shift_phases,
)
from halfmap.imaging.forward import BandImages, ImagingGeometry
from halfmap.imaging.optics import Frame
from halfmap.kernels.poses import Polished, PolishOptions, PosePrior, Starts
from halfmap.runtime.device import sent

GRID_POINTS_CONSIDERED = 256  # best grid points of an image among which distinct candidates are looked for
GRID_LOSS = 0.1  # of its log-likelihood that a pose may lose by lying between grid points
LEAST_GAIN = 0.005  # nats; a step that promises less, 0.1 sd long at most, is the last
BELOW_ALL = -1e6  # nats; a start that gives way to any known mode
LARGEST_STEP = math.radians(15.0)  # of one Levenberg-Marquardt step


@dataclass(frozen=True)
class Sampling:
    """What to search. Shells are those of the reference, angles are in radians.

    search: global, local or fixed. limit: highest shell scored. drop: how many nats below the best, about, a mode is
    given up. modes: modes kept. steps: Levenberg-Marquardt steps at the full band, at most. merge_angle: modes nearer
    than this are one. symmetry: operators [o, 3, 3] of the point group, modulo which poses are the same. mates
    [m, 3, 3], the identity first: a local search also starts from R g of each best pose R, for every g of them.

    For a global search: grid [r, 3, 3], with in-plane angles in [0, 180); shifts [t, 2], in pixels of the reference;
    grid_limit: highest shell of the exhaustive part; grid_step: its angular step; centred: whether shifts are searched
    about the known ones; candidates: most distinct grid points polished.
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
    steps: int = 8
    merge_angle: float = math.radians(2.0)
    symmetry: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64)[None])
    mates: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64)[None])


@dataclass(frozen=True)
class Reference:
    """A half volume [z, y, x] to compare with, and its padding factor."""

    volume: Tensor
    padding: int


@dataclass(frozen=True)
class ScaleFit:
    """<image, reference> and <reference, reference>, whitened, of each image [b].

    The reference's scale is the ratio of their sums.
    """

    cross: Tensor
    norm: Tensor


@dataclass(frozen=True)
class _Grid:
    """A grid as images of one frame see it.

    count: coefficients that are scored. slices: of the reference. shifts [t, 2]: in pixels of the images. phases
    [t, k]: that undo the shifts.
    """

    frame: Frame
    count: int
    slices: SliceGrid
    shifts: Tensor
    phases: Tensor


class GlobalSearch:
    """The exhaustive search of one reference, for images of all optics groups.

    Slices depend on where the coefficients of an image lie in the reference, and on nothing else of its optics. One set
    of them is kept: it serves one optics group after the other, as long as boxes, pixel sizes and magnifications are
    equal. room: bytes that they may take (None: no limit); slices that would take more are made anew, block by block,
    for every batch, and the results are the same bits.
    """

    def __init__(self, reference: Reference, sampling: Sampling, room: int | None = None) -> None:
        assert sampling.grid is not None and sampling.shifts is not None
        self.reference, self.sampling, self.room = reference, sampling, room
        self.rotations, self.shifts = (sent(t, reference.volume.device) for t in (sampling.grid, sampling.shifts))
        self._last: _Grid | None = None

    def _grid(self, geometry: ImagingGeometry) -> _Grid:
        """The grid of these images, which takes the place of the last one if that was of another frame."""
        frame, k, last = geometry.optics.frame, geometry.count(self.sampling.grid_limit), self._last
        if last is not None and (last.frame, last.count) == (frame, k):
            return last
        last = self._last = None  # its slices go before others are made
        hold = self.room is None or PER_SLICE * len(self.rotations) * k <= self.room
        slices = SliceGrid(self.reference.volume, geometry.coords[:k], self.reference.padding, self.rotations, hold)
        shifts = self.shifts * geometry.pixels
        phases = shift_phases(geometry.band.kxy[:k], shifts, geometry.band.box)
        self._last = _Grid(frame, k, slices, shifts, phases)
        return self._last

    def candidates(
        self, images: BandImages, prior: ShiftPrior, centre: Tensor | None = None, wanted: Tensor | None = None
    ) -> Starts:
        """Distinct grid points worth polishing.

        centre [b, 2]: where the shifts of each image are searched, in pixels. Without it they are searched about zero
        and weighed by the prior. wanted bool [b]: the images whose are wanted (None: all).
        """
        s, grid = self.sampling, self._grid(images.geometry)
        y, c = images.whitened(s.grid_limit)
        rows = None if wanted is None else torch.nonzero(wanted)[:, 0]
        if rows is not None:
            y, c, centre = y[rows], c[rows], None if centre is None else centre[rows]
        log_prior = prior.log_density(grid.shifts)
        if centre is not None:
            band = images.geometry.band
            y = y * shift_phases(band.kxy[: y.shape[1]], centre, band.box)
            log_prior = torch.zeros_like(log_prior)
        found = best_points(y, c, grid.slices, grid.phases, log_prior, GRID_POINTS_CONSIDERED)
        best, rotations = found.score, grid_rotation(self.rotations, found.index.flatten())
        # Strong images lose more than ``drop`` nats from the true pose to the nearest grid point: allow for both.
        below = (best - best[:, :1]) * s.drop / (s.drop + GRID_LOSS * best[:, :1].clamp_min(0))
        order = torch.arange(len(rotations), device=y.device).view_as(found.index)
        chosen = kernels.distinct_peaks(
            below, order, rotations, s.symmetry, 1.5 * s.grid_step, s.candidates, s.drop
        )
        image, column = torch.nonzero(chosen >= 0, as_tuple=True)
        point = chosen[image, column]
        shifts = grid.shifts[found.shift[image, point].long()]
        shifts = shifts if centre is None else shifts + centre[image]
        return Starts(image if rows is None else rows[image], rotations[order[image, point]], shifts)

    def grey_scale(self, images: BandImages) -> ScaleFit:
        """What tells the maximum-likelihood scale of the reference against the images."""
        grid = self._grid(images.geometry)
        y, c = images.whitened(self.sampling.grid_limit)
        return ScaleFit(*profile_scale(y, c, grid.slices.blocks(), grid.phases))


def polish(
    reference: Reference, images: BandImages, starts: Starts, prior: ShiftPrior, limit: int, steps: int,
    drop: float = math.inf, about: PosePrior | None = None,
) -> Polished:  # fmt: skip
    """Levenberg-Marquardt of starts at shells up to ``limit`` of the reference, with at most ``steps`` steps.

    Two steps show which starts are out of the running, ``drop`` nats below the best of their image; only the others are
    worth more. about: a prior about given poses of the images.
    """
    geometry = images.geometry
    k = geometry.count(limit)
    y, c = images.whitened(limit)
    options = PolishOptions(geometry.band.box, steps, prior.precision, LEAST_GAIN, LARGEST_STEP, drop)
    fixed = (reference.volume, geometry.coords[:k] * reference.padding, geometry.band.kxy[:k], y, c)
    if about is None or len(about.mates) == 1:
        return kernels.refine_poses(*fixed, starts, options, about)
    nearest = about.nearest_mate(starts.image, starts.rotations)
    parts, members = [], [torch.nonzero(nearest == mate)[:, 0] for mate in range(len(about.mates))]
    for mate, some in enumerate(members):
        few = Starts(starts.image[some], starts.rotations[some], starts.shifts[some])
        parts.append(kernels.refine_poses(*fixed, few, options, about.about_mate(mate)))
    back = torch.cat(members).argsort()
    return Polished(*(torch.cat([getattr(part, f.name) for part in parts])[back] for f in fields(Polished)))


def _modes_of(starts: Starts, polished: Polished, count: int) -> Poses:
    """Polished starts as modes [b, c] of ``count`` images."""
    image = starts.image
    per_image = torch.bincount(image, minlength=count)
    first = torch.cumsum(per_image, 0) - per_image
    column = torch.arange(len(image), device=image.device) - first[image]
    width = max(1, int(per_image.max())) if len(image) else 1
    eye = torch.eye(3, dtype=polished.rotations.dtype, device=polished.rotations.device)
    poses = Poses(
        eye.expand(count, width, 3, 3).clone(),
        polished.shifts.new_zeros((count, width, 2)),
        polished.gain.new_full((count, width), -torch.inf),
        polished.precision.new_zeros((count, width, 5, 5)),
    )
    poses.rotations[image, column] = polished.rotations
    poses.shifts[image, column] = polished.shifts
    poses.gain[image, column] = polished.gain
    poses.precision[image, column] = polished.precision
    return poses


def _starts_of(poses: Poses) -> Starts:
    """The modes that are there, as starts."""
    image, mode = torch.nonzero(~torch.isinf(poses.gain), as_tuple=True)
    return Starts(image, poses.rotations[image, mode], poses.shifts[image, mode])


def _with_mates(known: Poses, sampling: Sampling) -> Poses:
    """Known modes, and the mates of the best one that lie near none of them."""
    if len(sampling.mates) == 1:
        return known
    rotations = known.rotations[:, :1] @ sampling.mates[1:].to(known.rotations)
    count, new = rotations.shape[:2]
    joined = Poses(
        torch.cat([known.rotations, rotations], dim=1),
        torch.cat([known.shifts, known.shifts[:, :1].expand(count, new, 2)], dim=1),
        torch.cat([known.gain, known.gain.new_full((count, new), BELOW_ALL)], dim=1),
        torch.cat([known.precision, known.precision.new_zeros((count, new, 5, 5))], dim=1),
    )
    return merge_modes(joined, sampling.symmetry, sampling.merge_angle, math.inf, joined.gain.shape[1])


def find_poses(
    reference: Reference,
    images: BandImages,
    sampling: Sampling,
    prior: ShiftPrior,
    known: Poses | None = None,
    grid: GlobalSearch | None = None,
    about: PosePrior | None = None,
    everywhere: Tensor | None = None,
) -> Poses:
    """Modes of the pose posterior of a batch, by the search that ``sampling`` names.

    known: modes of the last iteration. A local search starts from them, a global one adds them to its own starts.
    grid: needed by a global search. about: a prior about given poses, for a local search. everywhere bool [b]: which
    images a global search looks for on its grid (None: all); the others it looks for as a local one does.
    """
    count = len(images.scored)

    def polished(starts: Starts, limit: int, steps: int) -> Poses:
        return _modes_of(starts, polish(reference, images, starts, prior, limit, steps, sampling.drop, about), count)

    if sampling.search == "fixed":
        assert known is not None
        every = torch.arange(count, device=known.gain.device)
        return polished(Starts(every, known.rotations[:, 0], known.shifts[:, 0]), sampling.limit, 0)
    if sampling.search == "global":
        assert grid is not None
        centre = known.shifts[:, 0] if known is not None and sampling.centred else None
        starts = grid.candidates(images, prior, centre, everywhere)
        old = None if known is None else _starts_of(known)
        if old is not None:
            starts = starts.joined(old if everywhere is None else old.of(everywhere))
        rough = polished(starts, min(sampling.limit, sampling.grid_limit), 3)
        most = max(4, sampling.candidates // 2)
        rough = merge_modes(rough, sampling.symmetry, sampling.grid_step * 0.35, sampling.drop, most)
        starts = _starts_of(rough)
        if old is not None and everywhere is not None:
            starts = starts.joined(old.of(~everywhere))
    else:
        assert known is not None
        starts = _starts_of(_with_mates(known, sampling))
    poses = polished(starts, sampling.limit, sampling.steps)
    poses = merge_modes(poses, sampling.symmetry, sampling.merge_angle, sampling.drop, sampling.modes)
    if known is None or about is not None:  # of a pose's mates, the prior means the one that it is about
        return poses
    return nearest_copies(poses, known.rotations[:, 0], sampling.symmetry)
