"""Random subsets of a finished run's particles, reconstructed at the poses of the run in one pass over the images.

Sums of the M-step add up. So a chain of nested subsets grows in one Backprojection per half set, and is looked at on
its way. Chains that share no particle are added up two by two at their ends. However many subsets there are, every
image is read and back-projected once.

A subset keeps poses that were found with all particles, which are better than those it could find by itself. This
measures the data, not the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.expectation.posterior import Poses, posterior_samples
from halfmap.fourier.transform import coarser_box, resample_volume
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import Geometries
from halfmap.kernels.poses import Samples
from halfmap.maps.grid import Grid
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.curvature import SIGNS
from halfmap.refinement.imaging_model import ImagingModel, band_batch
from halfmap.refinement.outputs import Record, read_records
from halfmap.refinement.preflight import ParticleInput, read_particles
from halfmap.refinement.state import PoseTable, State
from halfmap.settings.refine import from_toml
from halfmap.validation.fsc import GOLD_STANDARD, crossing_shell
from halfmap.validation.reslog import drawn
from halfmap.workflows.half_map_pair import HalfMaps, read_half_maps

SPREADS = ("halfmapAngleSd", "halfmapShiftSd")  # of the best pose: degrees and A
REACH, MARGIN = 1.15, 4  # shells back-projected: beyond the last one that the run's own half maps agree on

Sums = tuple[Backprojection, ...]  # of the half sets [h]


@dataclass(frozen=True)
class FixedRun:
    """A finished run, ready to be reconstructed from any of its particles.

    own: its half maps. limit: highest shell back-projected. mask [z, y, x]: what all subsets are measured within, on
    the grid of their half maps, which is no finer than that shell needs. spreads [b, 2]: standard deviations of
    rotation (radians) and shift (pixels) with which the best pose enters the map; None enters it as a point. power: of
    the particle's projections.
    """

    folder: Path
    regulariser: str
    own: HalfMaps
    mask: Tensor
    source: ParticleSource
    model: ImagingModel
    state: State
    spreads: Tensor | None
    limit: int
    power: ProjectedPower

    @property
    def grid(self) -> Grid:
        """The grid of the subsets' half maps."""
        box = self.mask.shape[-1]
        return Grid(box, self.own.pixel_size * self.own.box / box)


@dataclass(frozen=True)
class Subset:
    """One random subset and its plain half maps [z, y, x].

    level: how often all particles were halved; draw: which of the draws of that level; count: its particles.
    """

    level: int
    draw: int
    count: int
    half1: Tensor
    half2: Tensor


def finished_records(run: Path) -> list[Record]:
    """The records of a finished run. Raises InputError where one is damaged, or the run has not finished."""
    records = read_records(run / "iterations.jsonl")
    if not records or records[-1].get("search") != "final":
        raise InputError(f"{run}: the refinement has not finished; wait for it, or run it again")
    return records


def read_fixed_run(folder: Path, mask: Path | None) -> FixedRun:
    """Read what a run left. mask: to measure within, instead of the run's own.

    Raises InputError where a file is missing or damaged, the run has not finished, or images are not where they were.
    """
    settings = from_toml(folder / "settings.toml")
    records = finished_records(folder)
    mask = mask or folder / "mask.mrc"
    own = read_half_maps(folder / "half1_unfil.mrc", folder / "half2_unfil.mrc", mask, settings.diameter)
    star = folder / "particles.star"
    files = StackFiles()
    table = read_particles(ParticleInput(star, settings.data_dir), files).table
    if table.rotations is None:
        raise InputError(f"{star}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); give a finished run")
    # The spectra that weighted the run's last sums are those that the iteration before left.
    spectra = records[max(len(records) - 2, 0)].get("sigma2")
    if not isinstance(spectra, list) or len(spectra) != len(table.optics):
        raise InputError(f"{folder / 'iterations.jsonl'}: no noise spectrum for each optics group of {star}; run again")
    poses = PoseTable.empty(torch.from_numpy(table.half), 1)
    poses.rotations[:, 0] = table.rotations.float()
    poses.shifts[:, 0] = (-table.origins / table.pixel_size[:, None]).float()
    one = torch.ones(1, dtype=torch.float64)  # contrast: groups differ little, and their mean is the map's
    noise = tuple(torch.tensor(s, dtype=torch.float64) for s in spectra)
    state = State(0, (own.half1, own.half2), noise, one, 1.0, poses, own.mask)
    model = ImagingModel(own.box, own.pixel_size, symmetry_group(settings.symmetry),
                         torch.zeros(len(table), dtype=torch.int64), settings.padding, False, settings.insertion,
                         ewald=_sign(settings.ewald, records))
    wide = settings.posterior == "sigma" and settings.search != "fixed"
    limit = _limit(own)
    small = resample_volume(own.mask, coarser_box(own.box, 2 * limit + 4)).clamp(0, 1)
    source = ParticleSource(table, settings.diameter, settings.batch, files)
    return FixedRun(folder, settings.regulariser, own, small, source, model, state, _spreads(table) if wide else None,
                    limit, ProjectedPower.of(own.half1 * own.mask, own.pixel_size))


def _sign(ewald: str, records: list[Record]) -> int:
    """The sign of the curvature that the run corrected in the end."""
    sign = SIGNS[ewald]
    return int(records[-1].get("ewald") or 0) if sign is None else sign


def _spreads(table: ParticleTable) -> Tensor | None:
    if any(name not in table.columns for name in SPREADS):
        return None
    angle, shift = (torch.from_numpy(np.asarray(table.columns[name], dtype=np.float64)) for name in SPREADS)
    return torch.stack([torch.deg2rad(angle), shift / table.pixel_size], dim=1)


def _limit(own: HalfMaps) -> int:
    """The highest shell worth back-projecting: no subset agrees on more than all particles do, up to luck."""
    finest = math.ceil(own.box / 2) - 1
    ends = [crossing_shell(curve, GOLD_STANDARD) for curve in (own.curves.unmasked, own.curves.corrected)]
    reach = max(float(finest) if end is None else REACH * end + MARGIN for end in ends)
    return min(finest, math.ceil(reach))


def random_orders(table: ParticleTable, seed: int) -> tuple[Tensor, ...]:
    """The particles of each half set [h] in a random order, from which subsets are cut (`drawn`)."""
    generator = torch.Generator().manual_seed(seed)
    halves = (torch.nonzero(torch.from_numpy(table.half == h))[:, 0] for h in (0, 1))
    return tuple(members[torch.randperm(len(members), generator=generator)] for members in halves)


def subsets(
    run: FixedRun, levels: int, draws: int, seed: int, advance: Callable[[int], None] = lambda n: None
) -> Iterator[Subset]:
    """Half maps of all subsets, the last of which holds all particles.

    All particles are halved 0 .. ``levels`` times, and each size is drawn ``draws`` times (a power of two, at most
    2^levels), as far as there are so many subsets that share no particle. advance: called with numbers of images done.
    """
    orders = random_orders(run.source.table, seed)
    top = draws.bit_length() - 1  # the level of a whole chain
    waiting: list[Sums] = []
    for draw in range(draws):
        sums: Sums = (empty_sums(run), empty_sums(run))
        done = [drawn(len(order), levels, draw, draws).start for order in orders]
        for level in range(levels, top - 1, -1):
            for h, order in enumerate(orders):
                stop = drawn(len(order), level, draw, draws).stop
                insert_(sums[h], run, order[done[h]:stop], advance)
                done[h] = stop
            yield _subset(run, sums, _count(orders, level, draw, draws), level, draw)
        level, node = top, draw
        while level and node % 2:
            before, level, node = waiting.pop(), level - 1, node // 2
            for own, other in zip(before, sums, strict=True):
                own.sums.add_(other.completed_().sums)
            sums = before
            yield _subset(run, sums, _count(orders, level, node, draws), level, node)
        waiting.append(sums)


def _count(orders: tuple[Tensor, ...], level: int, draw: int, draws: int) -> int:
    """How many particles a subset holds."""
    return sum(len(order[drawn(len(order), level, draw, draws)]) for order in orders)


def _subset(run: FixedRun, sums: Sums, count: int, level: int, draw: int) -> Subset:
    box = run.grid.box
    half1, half2 = (reconstruct(half.completed_().coarser(run.limit, box).finished(run.model.symmetry))
                    for half in sums)
    return Subset(level, draw, count, half1, half2)


def empty_sums(run: FixedRun) -> Backprojection:
    """Sums of no particle, for `insert_`."""
    model = run.model
    return Backprojection.zeros(model.box, model.padding, run.limit, torch.zeros(()), model.kernel).with_core()


def insert_(sums: Backprojection, run: FixedRun, members: Tensor, advance: Callable[[int], None]) -> None:
    """Back-project particles at their poses."""
    geometries = Geometries(run.model.box, run.model.pixel_size, run.limit, torch.device("cpu"))
    for images in run.source.stream(members):
        index = images.index
        centred = torch.zeros(len(index), 2, dtype=torch.int64)  # of the mask for scoring: nothing is scored
        batch = band_batch(run.state, run.source, run.model, geometries, images, centred, 0, run.power)
        samples, geometry = _samples(run, index), batch.geometry
        samples = replace(samples, mass=samples.mass.float())
        for side in batch.spread():
            sums.insert_(side.values, side.weights, geometry.coords, geometry.band, samples, side.curvature)
        advance(len(index))


def _samples(run: FixedRun, index: Tensor) -> Samples:
    """The poses at which a particle enters the map: its best pose, spread as widely as the run knew it."""
    rotations, shifts = run.state.poses.rotations[index].double(), run.state.poses.shifts[index].double()
    precision = torch.zeros(len(index), 1, 5, 5, dtype=torch.float64)
    if run.spreads is not None:
        axes = run.spreads[index][:, [0, 0, 0, 1, 1]].clamp_min(1e-6)
        precision[:, 0] = torch.diag_embed(axes**-2)
    poses = Poses(rotations, shifts, torch.zeros(len(index), 1, dtype=torch.float64), precision)
    return posterior_samples(poses, "best" if run.spreads is None else "sigma")
