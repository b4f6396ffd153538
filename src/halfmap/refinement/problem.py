"""What stays the same during a refinement, and the state that it starts from.

Settings end here: they are read once, and the rooms below take the small descriptions made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.input_checks import check_particles
from halfmap.errors import InputError
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.filters import lowpass
from halfmap.maps.grid import Grid
from halfmap.particles.ctf_states import chosen_state, state_sentences
from halfmap.particles.given_optics import GivenOptics
from halfmap.particles.half_sets import Division, SplitBy
from halfmap.particles.source import ParticleSource
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable
from halfmap.refinement.checkpoints import Origin
from halfmap.refinement.curvature import ewald_sign, thick_particle
from halfmap.refinement.disk_space import check_disk
from halfmap.refinement.grey_scale import on_grey_scale
from halfmap.refinement.imaging_model import ImagingModel
from halfmap.refinement.input_prior import FOCUSED, MOST_SHIFT, MOST_TURN, InputPrior, centre_of_mass, share_held
from halfmap.refinement.masking import Masking
from halfmap.refinement.memory_limits import MemoryLimits, SolveMethod, plan_memory
from halfmap.refinement.memory_plan import MemoryPlan, checked
from halfmap.refinement.method import Method, method_of
from halfmap.refinement.preflight import (
    Inspected,
    ParticleInput,
    Reference,
    inspect_images,
    read_particles,
    read_reference,
)
from halfmap.refinement.process_layout import Outlook
from halfmap.refinement.quarter_sets import random_part
from halfmap.refinement.refined_optics import RefinedOptics
from halfmap.refinement.relaxed_symmetry import alike_at_start, mates_of
from halfmap.refinement.schedule import Schedule, subsets_of
from halfmap.refinement.start import Placed, Wanted, placed
from halfmap.refinement.state import PoseTable, State
from halfmap.regularisation.protocol import Regulariser
from halfmap.runtime.device import computed_on, device_named
from halfmap.runtime.distributed import ALONE, Ranks
from halfmap.runtime.progress import Progress
from halfmap.runtime.scratch import Scratch, on_host
from halfmap.settings.commands import RunSettings
from halfmap.settings.ctf_refine import fit_names
from halfmap.settings.refine import RefineSettings
from halfmap.settings.regularisers import as_one_name, need_of, option_files, regulariser_named, regulariser_options
from halfmap.validation.mask_share import diameter_verdict, share_verdict

MODES = 3  # pose modes kept of each particle
MOST_MODES = 12  # of them where symmetry is relaxed, so that mates which cannot be told apart all stay


@dataclass(frozen=True)
class Problem:
    """What stays the same during a refinement.

    source: the particles. model: how their images become coefficients. schedule: what is searched, when to stop.
    masking: where references are kept. regulariser, joined: how half maps become references, and the resolution in A up
    to which they are joined before, if at all. keeps_quarters: whether the regulariser needs the sums of quarter sets.
    memory, limits: the plan, and the limits from which it is made again. seed: of everything random. ranks: the
    processes that share the work. optics: names of the values that are fitted to the optics, if any.
    """

    source: ParticleSource
    model: ImagingModel
    schedule: Schedule
    masking: Masking
    regulariser: Regulariser
    joined: float | None
    keeps_quarters: bool
    memory: MemoryPlan
    limits: MemoryLimits
    seed: int
    ranks: Ranks = ALONE
    optics: tuple[str, ...] = ()

    def with_optics(self, optics: RefinedOptics | None) -> Problem:
        """The problem whose particles have these optics; None: those that they have."""
        table = self.source.table
        if optics is None or (optics.defocus is table.defocus and optics.groups is table.optics):
            return self
        return replace(self, source=optics.of(self.source))

    @property
    def grid(self) -> Grid:
        """The grid of the maps."""
        return self.model.grid

    def chosen(self, images: int | None, half: int, members: Tensor) -> Tensor:
        """Those of the ``members`` [m] of a half set that are used when ``images`` of both are (None: all)."""
        share = 1.0 if images is None else images / len(self.source.table)
        return random_part(members, share, self.source.pieces, self.seed * 2 + half)

    @property
    def device(self) -> torch.device:
        """Where the maps are."""
        return self.model.symmetry.device


def outlook(settings: RefineSettings, classes: int = 1) -> Outlook:
    """What decides how many processes a machine gives to a refinement on the CPU: its tables and headers are read.

    Raises InputError as `prepared` does for these.
    """
    table = read_particles(particle_input(settings)).table
    grid = read_reference(settings.starting_map, table, settings.diameter).grid
    schedule = _schedule_of(settings, grid, symmetry_group(settings.symmetry))
    limits = MemoryLimits(settings.max_memory, settings.sums, settings.batch)
    source, cpu = ParticleSource(table, settings.diameter, settings.batch), torch.device("cpu")
    return Outlook(len(table), lambda n: plan_memory(limits, source, schedule, _solve_of(settings, classes), cpu, n))


@dataclass(frozen=True)
class Prepared:
    """A refinement that can begin: problem, first state, what was found in the images, and notes for the user."""

    problem: Problem
    state: State
    inspected: Inspected
    notes: list[str] = field(default_factory=list)


def prepared(
    settings: RefineSettings, progress: Progress, ranks: Ranks = ALONE, files: StackFiles | None = None,
    classes: int = 1,
) -> Prepared:  # fmt: skip
    """Read and check everything. Whatever can go wrong because of input goes wrong here, with an InputError. files:
    holds the image stacks that are open. classes: for which there is to be memory."""
    files = files or StackFiles()
    device = device_named(settings.device, settings.deterministic)
    symmetry = symmetry_group(settings.symmetry)
    read = read_particles(particle_input(settings), files)
    table = read.table
    start = read_reference(settings.starting_map, table, settings.diameter)
    method = _method_of(settings, table)
    at_start = _start_of(settings, start, symmetry, method)
    source = ParticleSource(table, settings.diameter, settings.batch, files, device)
    limits = MemoryLimits(settings.max_memory, settings.sums, settings.batch)
    problem = _described(settings, source, start.grid, symmetry.to(device), method, limits, ranks, classes)
    if device.type == "cpu":
        checked(problem.memory, processes=ranks.on_machine)
    kept = settings.max_iterations if settings.keep_iterations else 0
    notes = [note for note in (start.note, *method.notes, *state_sentences(table)) if note]
    if settings.relax_symmetry is not None:
        notes.append(f"local searches try the {len(problem.schedule.mates)} poses that {settings.relax_symmetry} makes "
                     "of each particle's best one, and the images decide")
    notes += [*computed_on(device), problem.memory.sentence(),
              *check_disk(problem.memory, table, settings.out, settings.scratch, kept)]
    if settings.search in ("local", "fixed") and table.rotations is None:
        raise InputError(f"{settings.particles}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi), which --search "
                         f"{settings.search} starts from; use --search auto")
    if problem.optics:
        check_particles("--ctf-refine", problem.optics, table)
    progress.start_iteration(0, "reading images", len(table), None)
    inspected = inspect_images(problem.source, lambda n: progress.advance(n * ranks.world), ranks, read.drawn)
    found = [*read.findings, *at_start.findings, *inspected.findings, *thick_particle(problem.model, source)]
    if settings.relax_symmetry is not None and settings.join_halves is None:
        used, mates = replace(start, map=at_start.map), problem.schedule.mates
        found += alike_at_start(settings.starting_map, used, mates, settings.ini_high)
    inspected = replace(inspected, findings=found)
    problem = _with_particles(problem, inspected.source, settings)
    state = _initial_state(settings, problem, at_start.map.to(device), inspected.power)
    state, about_prior = _with_prior(settings, problem, state, at_start.map.to(device))
    notes += about_prior
    plan = problem.schedule.next([], state.shift_sigma)
    assert plan is not None
    state, factor = on_grey_scale(settings.starting_map, state, problem.source, problem.model, plan, ranks)
    notes.append(f"starting map brought to the grey scale of the images (factor {factor:.4g})")
    return Prepared(problem, state, inspected, notes)


def prepared_again(
    settings: RefineSettings, origin: Origin, state: State, device: torch.device, ranks: Ranks, files: StackFiles,
    classes: int = 1,
) -> Problem:  # fmt: skip
    """The same problem for a run that goes on from ``state``. No image is looked at.

    Particles are those that the run was begun with, in the half sets that they were in. Memory is planned anew for
    where the run goes on; raises InputError where there is too little.
    """
    table = read_particles(particle_input(settings), files).table
    table = replace(table.select(np.isin(table.rows, origin.rows)), half=state.poses.half.numpy())
    method, symmetry = _method_of(settings, table), symmetry_group(settings.symmetry)
    # Where there is no memory for sums any longer, they go to disk, also if they were asked for in memory.
    sums = "auto" if origin.limits.sums == "memory" else origin.limits.sums
    limits = replace(origin.limits, gigabytes=settings.max_memory, sums=sums)
    source = ParticleSource(table, settings.diameter, limits.batch, files, device)
    problem = _described(settings, source, origin.grid, symmetry.to(device), method, limits, ranks, classes)
    if device.type == "cpu":
        checked(problem.memory, begun=True, processes=ranks.on_machine)
    return problem


def particle_input(settings: RefineSettings) -> ParticleInput:
    """The particle file that the settings name, and how its half sets are drawn."""
    return ParticleInput(
        settings.particles, settings.data_dir, settings.passthrough, settings.strip_prefix, settings.resplit,
        Division(cast(SplitBy, settings.split_by), settings.seed),
        GivenOptics(settings.optics, settings.invert_contrast),
        chosen_state(settings.phase_flipped, settings.ctf_premultiplied),
    )  # fmt: skip


def files_read(settings: RunSettings) -> list[Path]:
    """The files that the settings name and a run that goes on reads again: not the map, whose place the state takes."""
    named = [getattr(settings, f.name) for f in fields(settings) if f.name != "map"]
    return [path for path in named if isinstance(path, Path) and path.is_file()]


def _method_of(settings: RefineSettings, table: ParticleTable) -> Method:
    named = as_one_name(settings)
    make = partial(regulariser_named, named.regulariser)
    return method_of(
        named.regulariser, make, regulariser_options(named), settings.mask, table, settings.diameter
    )


def _start_of(settings: RefineSettings, read: Reference, symmetry: Tensor, method: Method) -> Placed:
    """The starting map where it is used, and what is to be said of it, of the mask and of the diameter."""
    searched, masked = settings.search in ("auto", "global"), method.mask is not None or method.part is not None
    wanted = Wanted(
        settings.diameter, settings.ini_high, settings.symmetry, symmetry, searched, masked, settings.align_start
    )
    start = placed(settings.starting_map.name, read.map, read.grid.pixel_size, wanted)
    found = start.findings + diameter_verdict(start.density, settings.diameter, not searched)
    if method.mask is not None:
        found += share_verdict(start.density, method.mask, f"--mask {settings.mask}", not searched)
    if method.part is not None:
        options = option_files(settings, settings.regulariser)
        named = next(f"--{name.replace('_', '-')} {path}" for name, path in options.items() if name.endswith("_mask"))
        found += share_verdict(start.density, method.part, named, partial=True)
    return replace(start, findings=found)


def _schedule_of(settings: RefineSettings, grid: Grid, symmetry: Tensor) -> Schedule:
    mates = mates_of(settings.relax_symmetry, settings.symmetry)
    return Schedule(
        grid.box, grid.pixel_size, settings.diameter, symmetry, settings.ini_high, _finest_shell(settings, grid),
        settings.search, settings.local_from, settings.offset_range, settings.angular_step,
        max(MODES, min(MOST_MODES, len(mates))), settings.max_iterations, settings.posterior, mates,
        optics_from=None if settings.ctf_refine is None else settings.ctf_refine_from,
    )  # fmt: skip


def _solve_of(settings: RefineSettings, classes: int) -> SolveMethod:
    return SolveMethod(
        settings.regulariser, need_of(settings), settings.padding, settings.join_halves is not None,
        mask_anywhere=settings.mask is not None and settings.flatten_solvent, classes=classes, ewald=settings.ewald,
    )  # fmt: skip


def _described(
    settings: RefineSettings, source: ParticleSource, grid: Grid, symmetry: Tensor, method: Method,
    limits: MemoryLimits, ranks: Ranks, classes: int,
) -> Problem:  # fmt: skip
    """The problem, with a memory plan that may not fit. symmetry: operators [o, 3, 3], where maps shall be."""
    device = symmetry.device
    schedule = _schedule_of(settings, grid, symmetry.cpu())
    memory = plan_memory(limits, source, schedule, _solve_of(settings, classes), device, ranks.on_machine)
    limits = limits.under(memory)
    place = {"disk": Scratch(settings.scratch or settings.out / "checkpoint").keep, "host": on_host}.get(limits.sums)
    model = ImagingModel(
        grid.box, grid.pixel_size, symmetry, torch.empty(0), settings.padding, settings.scale != "none",
        settings.insertion, place, settings.null_hypothesis, memory.slices_room,
        ewald_sign(settings.ewald, source.table, grid),
    )  # fmt: skip
    masking = Masking(grid, settings.diameter, method.mask, settings.flatten_solvent).to(device)
    problem = Problem(
        source, model, schedule, masking, method.regulariser, settings.join_halves,
        need_of(settings).quarters, memory, limits, settings.seed, ranks,
        () if settings.ctf_refine is None else fit_names("--ctf-refine", settings.ctf_refine),
    )  # fmt: skip
    return _with_particles(problem, replace(source, batch=limits.batch), settings)


def _with_particles(problem: Problem, source: ParticleSource, settings: RefineSettings) -> Problem:
    """The problem for these particles: what shares their contrast, and how many of them go first."""
    groups = torch.arange(len(source.table)) if settings.scale == "particle" else _scale_groups(source.table)
    searched = problem.schedule.search in ("auto", "global")
    subsets = subsets_of(len(source.table), settings.begin_with) if searched else ()
    return replace(problem, source=source, schedule=replace(problem.schedule, subsets=subsets),
                   model=replace(problem.model, scale_group=groups))


def _scale_groups(table: ParticleTable) -> Tensor:
    """Scale group [b] of each particle: that of the table, but images of different optics never share one."""
    pairs = np.stack([table.optics_index, table.group])
    return torch.from_numpy(np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1))


def _finest_shell(settings: RefineSettings, grid: Grid) -> int:
    finest = (grid.box + 1) // 2 - 1
    if settings.max_resolution is not None:
        finest = min(finest, int(grid.length / settings.max_resolution))
    return max(4, finest)


def _initial_state(settings: RefineSettings, problem: Problem, start: Tensor, power: tuple[Tensor, ...]) -> State:
    """The starting map, low-passed and masked, for both half sets. The noise is the images' own power [g][s]."""
    table, masking, pixel_size = problem.source.table, problem.masking, problem.grid.pixel_size
    mask = masking.first_mask(start)
    reference = lowpass(start, pixel_size, settings.ini_high) * masking.first_window(mask)
    assert table.half is not None
    poses = PoseTable.empty(torch.from_numpy(table.half), problem.schedule.modes)
    if settings.search in ("local", "fixed") and table.rotations is not None:
        poses.rotations[:, 0] = table.rotations.float()
        poses.shifts[:, 0] = (-table.origins / table.pixel_size[:, None]).float()
        poses.weight[:, 0] = 1.0
    scale = torch.ones(int(problem.model.scale_group.max()) + 1, dtype=torch.float64)
    return State(0, (reference, reference), power, scale, 5.0 * pixel_size, poses, mask)


def _with_prior(
    settings: RefineSettings, problem: Problem, state: State, start: Tensor
) -> tuple[State, list[str]]:
    """The state of a local search with its prior about the given poses, if it has one, and what to tell of it.

    Widths that the settings name stay. Without them there is a prior where references are kept within a mask that
    holds a part of the particle only.
    """
    masking, note = problem.masking, ""
    turn, shift, limit = settings.prior_rotation, settings.prior_shift, settings.prior_limit
    estimated = turn is None and shift is None
    if settings.search != "local":
        return state, []
    if estimated:
        if masking.given is None or not masking.flatten:
            return state, []
        share = share_held(masking.given, start, problem.grid.pixel_size, masking.diameter)
        if share >= FOCUSED:
            return state, []
        turn, shift = MOST_TURN, MOST_SHIFT
        note = f"{settings.mask}: holds {100 * share:.0f} % of the starting map's density, so "
    prior = InputPrior(turn, shift, limit, centre_of_mass(masking.given, problem.grid), estimated)
    return replace(state, prior=prior), [note + prior.sentence()]
