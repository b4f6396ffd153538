"""Gold-standard refinement: read this first. Preflight, then a loop of few lines around one step of em."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halfmap import __version__, kernels
from halfmap.errors import InputError
from halfmap.geometry.rotations import view_directions
from halfmap.geometry.symmetry import symmetry_group
from halfmap.maps.filters import lowpass
from halfmap.maps.masks import solvent_mask, spherical_mask
from halfmap.particles.source import ParticleSource
from halfmap.particles.table import ParticleTable
from halfmap.regularisation.protocol import HalfSets, Regulariser, Solution
from halfmap.regularisation.registry import regulariser_named
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import Progress
from halfmap.settings import RefineSettings, command_line, to_toml
from halfmap.settings.regularisers import regulariser_options
from halfmap.state import PoseTable, State
from halfmap.validation.fsc import corrected_fsc
from halfmap.workflows import em, health
from halfmap.workflows.grey_scale import on_grey_scale
from halfmap.workflows.outputs import Record, RunFolder
from halfmap.workflows.preflight import Inspected, inspect_images, read_particles, read_reference
from halfmap.workflows.records import Step, progressed, record, what_crosses
from halfmap.workflows.schedule import Plan, Progressed, Schedule

MODES = 3  # pose modes kept of each particle
Report = Callable[..., Any]


@dataclass(frozen=True)
class Problem:
    """What stays the same during a refinement."""

    settings: RefineSettings
    source: ParticleSource
    model: em.ImagingModel
    schedule: Schedule
    regulariser: Regulariser
    user_mask: Tensor | None

    @property
    def grid(self) -> tuple[int, float]:
        """Box and pixel size of the reference."""
        return self.model.box, self.model.pixel_size


def refine(settings: RefineSettings, report: Report | None = None) -> State:
    """Run ``halfmap refine``; results are written into settings.out after every iteration.

    report: called with the fields of a report snapshot after each iteration. Raises InputError for what a user can
    mend, before anything is written.
    """
    started = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    kernels.set_threads(settings.threads)
    torch.set_num_threads(kernels.thread_count())
    with Progress() as progress:
        problem, state, notes, inspected = _prepare(settings, progress)
        settings.out.mkdir(parents=True, exist_ok=True)
        with RunLog(settings.out / "log.txt", progress) as log:
            folder = RunFolder(settings.out, problem.model.pixel_size, settings.keep_iterations)
            folder.write_text("settings.toml", to_toml(settings))
            log.begin(__version__, command_line(settings))
            _tell_rejected(inspected, folder, log)
            for note in notes:
                log.notice(note)
            state = _iterate(problem, state, folder, (log, progress), report, started)
            log.finish()
    return state


def _prepare(settings: RefineSettings, progress: Progress) -> tuple[Problem, State, list[str], Inspected]:
    """Everything that can go wrong because of input goes wrong here."""
    device = _device(settings.device)
    symmetry = symmetry_group(settings.symmetry)
    table = read_particles(
        settings.particles, settings.data_dir,
        resplit=settings.resplit, split_by=settings.split_by, seed=settings.seed,
    )  # fmt: skip
    start, box, pixel_size = read_reference(settings.map, table, settings.diameter)
    user_mask, notes = None, [start.note] if start.note else []
    if settings.mask is not None:
        mask, *_ = read_reference(settings.mask, table, settings.diameter, "mask")
        user_mask = mask.map.clamp(0, 1).to(device)
        notes += [mask.note] if mask.note else []
    regulariser = _regulariser(settings, table, notes)
    if settings.search in ("local", "fixed") and table.rotations is None:
        raise InputError(f"{settings.particles}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi), which --search "
                         f"{settings.search} starts from; use --search auto")
    progress.start_iteration(0, "reading images", len(table), None)
    inspected = inspect_images(table, settings.diameter, settings.batch, progress.advance)
    source = inspected.source
    table = source.table
    groups = torch.arange(len(table)) if settings.scale == "particle" else _scale_groups(table)
    model = em.ImagingModel(
        box, pixel_size, symmetry.to(device), groups, settings.padding, settings.scale != "none"
    )
    schedule = Schedule(
        box, pixel_size, settings.diameter, symmetry, settings.ini_high, _finest_shell(settings, box, pixel_size),
        settings.search, settings.local_from, settings.offset_range, settings.angular_step, MODES,
        settings.max_iterations, settings.posterior,
    )  # fmt: skip
    problem = Problem(settings, source, model, schedule, regulariser, user_mask)
    state = _initial_state(problem, start.map.to(device), inspected.power)
    plan = schedule.next([], state.shift_sigma)
    assert plan is not None
    state, factor = on_grey_scale(settings.map, state, source, model, plan)
    notes.append(f"starting map brought to the grey scale of the images (factor {factor:.4g})")
    return problem, state, notes, inspected


def _regulariser(settings: RefineSettings, table: ParticleTable, notes: list[str]) -> Regulariser:
    """The chosen method; where a mask is among its options, the file's content takes the path's place."""
    options = regulariser_options(settings)
    if options.get("mask") is not None:
        mask, *_ = read_reference(options["mask"], table, settings.diameter, f"{settings.regulariser} mask")
        options["mask"] = mask.map.clamp(0, 1)
        notes += [mask.note] if mask.note else []
    return regulariser_named(settings.regulariser, **options)


def _scale_groups(table: ParticleTable) -> Tensor:
    """Scale group [b] of each particle: that of the table, but images of different optics never share one."""
    pairs = np.stack([table.optics_index, table.group])
    return torch.from_numpy(np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU that this torch can use; take --device cpu")
    return torch.device(name)


def _finest_shell(settings: RefineSettings, box: int, pixel_size: float) -> int:
    finest = (box + 1) // 2 - 1
    if settings.max_resolution is not None:
        finest = min(finest, int(box * pixel_size / settings.max_resolution))
    return max(4, finest)


def _initial_state(problem: Problem, start: Tensor, power: tuple[Tensor, ...]) -> State:
    """The starting map, low-passed and in a soft sphere, for both half sets; the noise is the images' own power."""
    settings, (box, pixel_size) = problem.settings, problem.grid
    table = problem.source.table
    edge = min(5.0, box / 8)
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


def _tell_rejected(inspected: Inspected, folder: RunFolder, log: RunLog) -> None:
    if inspected.rejected is None:
        return
    from halfmap.particles.star import write_star

    rejected = inspected.rejected
    write_star(folder.path / "rejected.star", rejected)
    names = ", ".join(
        f"{rejected.image_index[i] + 1}@{rejected.stacks[rejected.stack_index[i]].name}"
        for i in range(min(5, len(rejected)))
    )
    more = "" if len(rejected) <= 5 else f" and {len(rejected) - 5} more"
    log.warning(
        f"{len(rejected)} images hold NaN, Inf or a constant background and were set aside in rejected.star: "
        f"{names}{more}"
    )


def _iterate(
    problem: Problem, state: State, folder: RunFolder, tell: tuple[RunLog, Progress], report: Report | None,
    started: str,
) -> State:
    """The loop: plan, step, record."""
    log, progress = tell
    settings, table = problem.settings, problem.source.table
    history: list[Progressed] = []
    records: list[Record] = []
    while (plan := problem.schedule.next(history, state.shift_sigma)) is not None:
        band = problem.model.box * problem.model.pixel_size / plan.sampling.limit
        reached = history[-1].resolution if history else None
        progress.start_iteration(state.iteration + 1, plan.stage, len(table), reached, band)
        step, solution = em_step(problem, state, plan, progress.advance)
        state, halves = step.after, step.halves
        history.append(progressed(step))
        start = settings.ini_high
        poor = problem.schedule.poor_start(history)
        newly_poor = poor and not problem.schedule.poor_start(history[:-1])
        for finding in health.findings(
            history, halves.curves, start, problem.schedule.shell(start), problem.grid, newly_poor
        ):
            log.warning(finding)
        if plan.stage == "burn-in" and poor:
            state = _shared_start(problem, state, solution)
        crosses = what_crosses(problem.regulariser.crosses, start, poor, settings.join_halves)
        seen = record(step, history[-1], [group.name for group in table.optics], crosses)
        seen["warnings"] = log.take_warnings()
        records.append(seen)
        finished = plan.stage == "final"
        folder.write_maps(halves, solution, state)
        folder.write_particles(table, state)
        folder.write_fsc(halves)
        folder.write_records(records)
        if report is not None:
            report(
                records=records, map=solution.joined.cpu().numpy(), half1=halves.raw[0].cpu().numpy(),
                half2=halves.raw[1].cpu().numpy(), mask=state.mask.cpu().numpy(),
                reference=solution.maps[0].cpu().numpy(),
                theta=solution.arrays["theta"].cpu().numpy() if "theta" in solution.arrays else None,
                directions=view_directions(state.poses.rotations[:, 0].double()).numpy(),
                finished=finished, started=started,
            )  # fmt: skip
        progress.finish_iteration(seen)
        log.line(f"iteration {state.iteration} {plan.stage}: {seen['resolution_A']:.2f} A")
    return state


def em_step(
    problem: Problem, state: State, plan: Plan, advance: Callable[[int], None] = lambda n: None
) -> tuple[Step, Solution]:
    """One iteration: expectation, statistics, FSC and mask, regularisation."""
    cpu, wall = time.process_time(), time.perf_counter()
    settings, model = problem.settings, problem.model
    seed = settings.seed * 100_003 + state.iteration
    outcome = em.expectation_step(
        state, problem.source, model, plan.sampling, (plan.insert_limit, plan.posterior), seed, advance
    )
    watch = em.Stopwatch(outcome.tally.seconds)
    masks: list[Tensor] = []

    def curves(half1: Tensor, half2: Tensor) -> Any:
        masks.append(_current_mask(problem, half1, half2))
        generator = torch.Generator(device=half1.device).manual_seed(seed)
        radius = 0.5 * settings.diameter / model.pixel_size
        return corrected_fsc(half1, half2, masks[0], generator, sphere_radius=min(radius, model.box / 2 - 1))

    halves = HalfSets.build(outcome.statistics, model.symmetry, model.pixel_size, curves)
    shared = halves
    if settings.join_halves is not None:
        shared = halves.joined_below(problem.schedule.shell(settings.join_halves))
    solution = problem.regulariser.solve(shared, masks[0], state.memory)
    window = masks[0] if settings.flatten_solvent else _sphere(problem, masks[0])
    new = em.next_state(state, outcome, model, problem.source.table.pixel_size)
    new = replace(new, references=tuple(m * window for m in solution.maps), mask=masks[0], memory=solution.memory)
    watch.lap("solve")
    seconds = {**outcome.tally.seconds, "total": time.perf_counter() - wall}
    return Step(plan, state, new, halves, problem.source.table.pixel_size, seconds, time.process_time() - cpu), solution


def _sphere(problem: Problem, like: Tensor) -> Tensor:
    box, pixel_size = problem.grid
    return spherical_mask(box, min(problem.settings.diameter / (2 * pixel_size), box / 2 - 5), 5.0).to(like)


def _current_mask(problem: Problem, half1: Tensor, half2: Tensor) -> Tensor:
    """The user's mask, or one drawn around the average of both half maps: it is the same for both."""
    if problem.user_mask is not None:
        return problem.user_mask
    return solvent_mask((half1 + half2) / 2, problem.model.pixel_size, problem.settings.diameter).to(half1)


def _shared_start(problem: Problem, state: State, solution: Solution) -> State:
    """An improved starting map for both half sets: that of all images, low-passed at the starting resolution."""
    window = state.mask if problem.settings.flatten_solvent else _sphere(problem, state.mask)
    shared = lowpass(solution.joined * window, problem.model.pixel_size, problem.settings.ini_high)
    return replace(state, references=(shared, shared))
