"""What stays the same during a refinement, and the state it starts from: made from settings and files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.filters import lowpass
from halfmap.maps.masks import SPHERE_EDGE, solvent_mask, spherical_mask
from halfmap.particles.source import ParticleSource
from halfmap.particles.table import ParticleTable
from halfmap.refinement import em
from halfmap.refinement.disk_space import check_disk
from halfmap.refinement.grey_scale import on_grey_scale
from halfmap.refinement.memory_plan import MemoryPlan, checked, demand_of, needs_of, planned
from halfmap.refinement.preflight import Inspected, inspect_images, read_particles, read_reference
from halfmap.refinement.schedule import Schedule
from halfmap.refinement.state import PoseTable, State
from halfmap.regularisation.protocol import Regulariser
from halfmap.regularisation.registry import regulariser_named
from halfmap.runtime.distributed import ALONE, Ranks
from halfmap.runtime.memory import GIGABYTE, allowance
from halfmap.runtime.progress import Progress
from halfmap.runtime.scratch import Scratch
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularisers import regulariser_options

MODES = 3  # pose modes kept of each particle


@dataclass(frozen=True)
class Problem:
    """What stays the same during a refinement, the processes that share the work, and how they hold it in memory, in
    words."""

    settings: RefineSettings
    source: ParticleSource
    model: em.ImagingModel
    schedule: Schedule
    regulariser: Regulariser
    user_mask: Tensor | None
    ranks: Ranks = ALONE
    memory: str = ""

    @property
    def grid(self) -> tuple[int, float]:
        """Box and pixel size of the reference."""
        return self.model.box, self.model.pixel_size

    @property
    def device(self) -> torch.device:
        """Where the maps are."""
        return self.model.symmetry.device

    def sphere(self, like: Tensor) -> Tensor:
        """A soft sphere [z, y, x] of the particle's diameter, where and as ``like`` is."""
        box, pixel_size = self.grid
        radius = min(self.settings.diameter / (2 * pixel_size), box / 2 - SPHERE_EDGE)
        return spherical_mask(box, radius, SPHERE_EDGE).to(like)

    def mask(self, half1: Tensor, half2: Tensor) -> Tensor:
        """The user's mask, or one drawn around the average of both half maps: it is the same for both."""
        if self.user_mask is not None:
            return self.user_mask
        return solvent_mask((half1 + half2) / 2, self.model.pixel_size, self.settings.diameter).to(half1)


def prepared(
    settings: RefineSettings, progress: Progress, ranks: Ranks = ALONE
) -> tuple[Problem, State, list[str], Inspected]:
    """The problem, the first state, notes for the user, and what was found in the images.

    Everything that can go wrong because of input goes wrong here, with an InputError.
    """
    device = device_named(settings.device)
    symmetry, notes = symmetry_group(settings.symmetry), list[str]()
    table = read_particles(
        settings.particles, settings.data_dir, settings.passthrough, settings.strip_prefix,
        resplit=settings.resplit, split_by=settings.split_by, seed=settings.seed,
    )  # fmt: skip
    start, box, pixel_size = read_reference(settings.map, table, settings.diameter)
    notes += [start.note] if start.note else []
    user_mask, regulariser = _masks_and_method(settings, table, notes)
    settings, memory = within_limits(settings, table, _schedule(settings, (box, pixel_size), symmetry), device,
                                     ranks.on_machine)
    if device.type == "cpu":
        checked(memory)
    notes += [memory.sentence(), *check_disk(settings, table, memory)]
    if settings.search in ("local", "fixed") and table.rotations is None:
        raise InputError(f"{settings.particles}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi), which --search "
                         f"{settings.search} starts from; use --search auto")
    progress.start_iteration(0, "reading images", len(table), None)
    inspected = inspect_images(
        table, settings.diameter, settings.batch, lambda n: progress.advance(n * ranks.world), ranks
    )
    notes += inspected.notes
    problem = _posed(settings, inspected.source, (box, pixel_size), (user_mask, regulariser), (device, symmetry))
    problem = replace(problem, ranks=ranks, memory=memory.words())
    state = _initial_state(problem, start.map.to(device), inspected.power)
    plan = problem.schedule.next([], state.shift_sigma)
    assert plan is not None
    state, factor = on_grey_scale(settings.map, state, problem.source, problem.model, plan, ranks)
    notes.append(f"starting map brought to the grey scale of the images (factor {factor:.4g})")
    return problem, state, notes, inspected


def within_limits(
    settings: RefineSettings, table: ParticleTable, schedule: Schedule, device: torch.device, processes: int = 1
) -> tuple[RefineSettings, MemoryPlan]:
    """The settings with what memory asks for, where sums lie and smaller batches, and the plan behind them.

    Settings that an earlier plan made stay as they are while they fit.
    """
    source = ParticleSource(table, settings.diameter, settings.batch)
    largest = max(range(len(table.optics)), key=lambda g: table.optics[g].box)
    usual = min(len(table), source.batch_size(largest))
    demand = demand_of(schedule, settings.padding, (table.optics[largest].box, usual), len(schedule.symmetry) > 1,
                       needs_of(settings.regulariser, settings.ss_parameters))
    demand = replace(demand, joined=settings.join_halves is not None)
    if settings.mask is not None and settings.flatten_solvent:
        demand = replace(demand, kept=0)  # a mask of the user's may be anywhere
    on_cpu = device.type == "cpu"
    memory = available_on(device, settings.max_memory, processes)
    plan = planned(demand, memory, settings.sums if on_cpu else "memory")
    return replace(settings, sums="disk" if plan.on_disk else settings.sums,
                   batch=settings.batch if plan.batch == usual else plan.batch), plan


def available_on(device: torch.device, limit: float | None, processes: int = 1) -> int:
    """Bytes of memory that this process may hold on the device, one of ``processes`` there; what it holds already is
    among them. limit: of the user for all of them, in GB."""
    if device.type == "cpu":
        return allowance(limit, processes)
    free = int(torch.cuda.mem_get_info(device)[0])
    return free if limit is None else min(free, int(limit * GIGABYTE))


def prepared_again(
    settings: RefineSettings, rows: np.ndarray, state: State, grid: tuple[int, float],
    where: tuple[torch.device, Ranks],
) -> Problem:
    """The same problem for a run that goes on from ``state``: its particles are the rows that it was begun with, in the
    half sets that they had, and no image is looked at. grid: box and pixel size of the maps.

    Memory is planned anew, for where the run goes on. Raises InputError where there is too little.
    """
    device, ranks = where
    table = read_particles(
        settings.particles, settings.data_dir, settings.passthrough, settings.strip_prefix,
        resplit=settings.resplit, split_by=settings.split_by, seed=settings.seed,
    )  # fmt: skip
    table = replace(table.select(np.isin(table.rows, rows)), half=state.poses.half.numpy())
    masks_and_method, symmetry = _masks_and_method(settings, table, []), symmetry_group(settings.symmetry)
    if settings.sums == "memory":  # it can no longer be asked for otherwise
        settings = replace(settings, sums="auto")
    settings, memory = within_limits(settings, table, _schedule(settings, grid, symmetry), device, ranks.on_machine)
    if device.type == "cpu":
        checked(memory, begun=True)
    source = ParticleSource(table, settings.diameter, settings.batch)
    problem = _posed(settings, source, grid, masks_and_method, (device, symmetry))
    return replace(problem, ranks=ranks, memory=memory.words())


def device_named(name: str) -> torch.device:
    """The device of that name (auto: a GPU if there is one). Raises InputError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU that this torch can use; take --device cpu")
    return torch.device(name)


def _masks_and_method(
    settings: RefineSettings, table: ParticleTable, notes: list[str]
) -> tuple[Tensor | None, Regulariser]:
    """The user's mask, and the chosen method; where a mask is among its options, the file's content takes the path's
    place."""
    def read(path: Path, what: str) -> Tensor:
        mask, *_ = read_reference(path, table, settings.diameter, what)
        notes.extend([mask.note] if mask.note else [])
        return mask.map.clamp(0, 1)

    user_mask = None if settings.mask is None else read(settings.mask, "mask")
    options = regulariser_options(settings)
    if options.get("mask") is not None:
        options["mask"] = read(options["mask"], f"{settings.regulariser} mask")
    return user_mask, regulariser_named(settings.regulariser, **options)


def _posed(
    settings: RefineSettings, source: ParticleSource, grid: tuple[int, float],
    masks_and_method: tuple[Tensor | None, Regulariser], where: tuple[torch.device, Tensor],
) -> Problem:
    """The problem; where: the device and the point group's operators [o, 3, 3]."""
    (box, pixel_size), (user_mask, regulariser), (device, symmetry) = grid, masks_and_method, where
    groups = torch.arange(len(source.table)) if settings.scale == "particle" else _scale_groups(source.table)
    place = None
    if settings.sums == "disk" and device.type == "cpu":
        place = Scratch(settings.scratch or settings.out / "checkpoint").keep
    model = em.ImagingModel(
        box, pixel_size, symmetry.to(device), groups, settings.padding, settings.scale != "none", settings.insertion,
        place,
    )  # fmt: skip
    schedule = _schedule(settings, grid, symmetry)
    return Problem(settings, source, model, schedule, regulariser, None if user_mask is None else user_mask.to(device))


def _schedule(settings: RefineSettings, grid: tuple[int, float], symmetry: Tensor) -> Schedule:
    box, pixel_size = grid
    return Schedule(
        box, pixel_size, settings.diameter, symmetry, settings.ini_high, _finest_shell(settings, box, pixel_size),
        settings.search, settings.local_from, settings.offset_range, settings.angular_step, MODES,
        settings.max_iterations, settings.posterior,
    )  # fmt: skip


def _scale_groups(table: ParticleTable) -> Tensor:
    """Scale group [b] of each particle: that of the table, but images of different optics never share one."""
    pairs = np.stack([table.optics_index, table.group])
    return torch.from_numpy(np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1))


def _finest_shell(settings: RefineSettings, box: int, pixel_size: float) -> int:
    finest = (box + 1) // 2 - 1
    if settings.max_resolution is not None:
        finest = min(finest, int(box * pixel_size / settings.max_resolution))
    return max(4, finest)


def _initial_state(problem: Problem, start: Tensor, power: tuple[Tensor, ...]) -> State:
    """The starting map, low-passed and in a soft sphere, for both half sets; the noise is the images' own power."""
    settings, (box, pixel_size) = problem.settings, problem.grid
    table = problem.source.table
    edge = min(SPHERE_EDGE, box / 8)
    radius = min(settings.diameter / (2 * pixel_size), box / 2 - edge)
    sphere = spherical_mask(box, radius, edge).to(start)
    mask = problem.user_mask if problem.user_mask is not None else sphere
    reference = lowpass(start, pixel_size, settings.ini_high) * (mask if settings.flatten_solvent else sphere)
    assert table.half is not None
    poses = PoseTable.empty(torch.from_numpy(table.half), MODES)
    if settings.search in ("local", "fixed") and table.rotations is not None:
        poses.rotations[:, 0] = table.rotations.float()
        poses.shifts[:, 0] = (-table.origins / table.pixel_size[:, None]).float()
        poses.weight[:, 0] = 1.0
    scale = torch.ones(int(problem.model.scale_group.max()) + 1, dtype=torch.float64)
    return State(0, (reference, reference), power, scale, 5.0 * pixel_size, poses, mask)
