"""How a classification begins: a refinement of one map is prepared from the same images, and gets its classes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.density import density_of
from halfmap.maps.filters import lowpass
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.table import ParticleTable
from halfmap.refinement.checkpoints import Origin
from halfmap.refinement.class_schedule import ClassSchedule
from halfmap.refinement.classes import ClassProblem
from halfmap.refinement.grey_scale import on_grey_scale
from halfmap.refinement.half_search import HALVES
from halfmap.refinement.outputs import PROBABILITY
from halfmap.refinement.preflight import read_particles, read_reference
from halfmap.refinement.problem import Prepared, Problem, outlook, particle_input, prepared, prepared_again
from halfmap.refinement.process_layout import Outlook
from halfmap.refinement.state import PoseTable, State
from halfmap.runtime.distributed import ALONE, Ranks
from halfmap.runtime.progress import Progress
from halfmap.settings.classify import ClassifySettings
from halfmap.settings.refine import RefineSettings
from halfmap.validation.mask_share import share_verdict

IMAGES_OF_CLASS = 25  # on average; with fewer a class is noise


def class_outlook(settings: ClassifySettings) -> Outlook:
    """As `outlook`, of a classification."""
    return outlook(_refinement(settings, None), settings.classes)


def prepared_classes(
    settings: ClassifySettings, progress: Progress, ranks: Ranks = ALONE, files: StackFiles | None = None
) -> Prepared:
    """Read and check everything. Raises InputError as `prepared`, and for too few images, or a mask that is
    elsewhere."""
    files = files or StackFiles()
    one = _refinement(settings, files)
    begun = prepared(one, progress, ranks, files, settings.classes)
    table = begun.problem.source.table
    if len(table) < IMAGES_OF_CLASS * settings.classes:
        raise InputError(f"--classes {settings.classes}: {len(table)} images are fewer than {IMAGES_OF_CLASS} a class, "
                         "which would be noise; give fewer classes or more images")
    problem = _with_classes(begun.problem, settings, one)
    state = begun.state
    if problem.focus is not None:
        density = density_of(state.references[0].cpu(), problem.grid.pixel_size)
        missed = share_verdict(density, problem.focus.cpu(), f"--mask {settings.mask}", partial=True)
        if missed:
            raise InputError(missed[0].text)
    maps, notes = [state.references[0]], [*begun.notes]
    for path in settings.map[1:]:
        other, factor = _started(path, table, settings, problem, state, ranks)
        maps.append(other)
        notes.append(f"{path.name} brought to the grey scale of the images (factor {factor:.4g})")
    maps = maps * settings.classes if len(maps) == 1 else maps
    poses = _with_room(state.poses, problem.schedule.modes * settings.classes)
    if one.search == "fixed" and PROBABILITY in table.columns:
        known = torch.from_numpy(table.numbers(PROBABILITY)).float()
        if not bool(((known >= 0) & (known <= 1)).all()):
            raise InputError(f"{table.source}: {PROBABILITY} holds what is no probability; correct it, or leave the "
                             "column out")
        poses = replace(poses, present=known)
        if settings.null_hypothesis:
            notes.append(f"{float(known.sum()):,.0f} of {len(table):,} images count, by their {PROBABILITY}: at given "
                         "poses it is not estimated anew")
    state = replace(
        state, references=tuple(maps) * HALVES, poses=poses,
        class_shares=torch.full((settings.classes,), 1 / settings.classes, dtype=torch.float64),
    )  # fmt: skip
    return replace(begun, problem=problem, state=state, notes=notes)


def prepared_classes_again(
    settings: ClassifySettings, origin: Origin, state: State, device: torch.device, ranks: Ranks, files: StackFiles
) -> ClassProblem:
    """The same problem for a run that goes on from ``state``, as `prepared_again`."""
    one = _refinement(settings, files)
    return _with_classes(prepared_again(one, origin, state, device, ranks, files, settings.classes), settings, one)


def _refinement(settings: ClassifySettings, files: StackFiles | None) -> RefineSettings:
    """The refinement that is prepared. Where poses are sought follows from the particle file if it is not chosen."""
    one = settings.refinement()
    if settings.search != "auto":
        return one
    table = read_particles(particle_input(one), files).table
    return replace(one, search="global" if table.rotations is None else "fixed")


def _with_classes(problem: Problem, settings: ClassifySettings, one: RefineSettings) -> ClassProblem:
    """The problem of a refinement with classes in it."""
    values = {f.name: getattr(problem, f.name) for f in fields(Problem)}
    focus = None
    if settings.mask is not None:
        read = read_reference(settings.mask, problem.source.table, one.diameter, "mask")
        focus = read.map.clamp(0, 1).to(problem.device)
    given = settings.given or settings.classes == 1
    shared = settings.regulariser == "shared"
    schedule = ClassSchedule.of(problem.schedule, given, settings.min_iterations, shared)
    return ClassProblem(**values | {"schedule": schedule}, classes=settings.classes, focus=focus)


def _started(
    path: Path, table: ParticleTable, settings: ClassifySettings, problem: ClassProblem, state: State, ranks: Ranks
) -> tuple[Tensor, float]:
    """The starting map of a further class, low-passed, masked and on the grey scale of the images; the factor that
    brought it there."""
    assert settings.diameter is not None
    read = read_reference(path, table, settings.diameter).map.to(problem.device)
    masking = problem.masking
    v = lowpass(read, problem.grid.pixel_size, settings.ini_high) * masking.first_window(masking.first_mask(read))
    plan = problem.schedule.next([], state.shift_sigma)
    assert plan is not None
    found, factor = on_grey_scale(path, replace(state, references=(v, v)), problem.source, problem.model, plan, ranks)
    return found.references[0], factor


def _with_room(poses: PoseTable, columns: int) -> PoseTable:
    """The table with room for so many modes."""
    wide = PoseTable.empty(poses.half, columns)
    for name in ("rotations", "shifts", "weight"):
        getattr(wide, name)[:, 0] = getattr(poses, name)[:, 0]
    return wide
