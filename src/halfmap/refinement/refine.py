"""Gold-standard refinement: read this first. Preflight, then a loop of few lines around one step of em."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfmap import __version__
from halfmap.geometry.rotations import view_directions
from halfmap.maps.filters import lowpass
from halfmap.particles.table import ParticleTable
from halfmap.reconstruction.statistics import in_memory, sums_put
from halfmap.refinement import em, health
from halfmap.refinement.checkpoints import Checkpoints, Course, Origin
from halfmap.refinement.input_files import Inputs
from halfmap.refinement.memory_plan import WITHOUT_QUARTERS
from halfmap.refinement.outputs import RunFolder
from halfmap.refinement.preflight import Inspected
from halfmap.refinement.problem import Problem, device_named, prepared
from halfmap.refinement.records import Step, progressed, record, what_crosses
from halfmap.refinement.schedule import Plan
from halfmap.refinement.shared_work import (
    assist,
    expected,
    handed_out,
    how_to_go_on,
    seed_of,
    share_cores,
    tell_processes,
    under_way,
    united,
)
from halfmap.refinement.state import State
from halfmap.regularisation.protocol import HalfSets, Solution
from halfmap.runtime.distributed import joined
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import Progress
from halfmap.runtime.stopwatch import Cost, Stopwatch
from halfmap.settings.commands import command_line, to_toml
from halfmap.settings.refine import RefineSettings
from halfmap.validation.fsc import corrected_fsc

Report = Callable[..., Any]


def refine(settings: RefineSettings, report: Report | None = None) -> State:
    """Run ``halfmap refine``; results are written into settings.out after every iteration.

    report: called with the fields of a report snapshot after each iteration. Raises InputError for what a user can
    mend, before anything is written.
    """
    started = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    gpu = device_named(settings.device).type == "cuda"
    with joined(gpu, partial(how_to_go_on, settings.out)) as ranks, Progress() as progress:
        share_cores(settings.threads, ranks)
        problem, state, notes, inspected = prepared(settings, progress, ranks)
        checkpoints = Checkpoints(settings.out, settings.checkpoint_minutes, process=(ranks.rank, ranks.world))
        if not ranks.first:
            with checkpoints.resumable():
                return assist(problem, state, checkpoints)
        table = problem.source.table
        origin = Origin(problem.settings, started, Path.cwd(), problem.device.type, table.rows, problem.grid,
                        Inputs.of(settings, table))
        with checkpoints.held(), RunLog(settings.out / "log.txt", progress) as log:
            folder = RunFolder(settings.out, problem.model.pixel_size, settings.keep_iterations)
            log.begin(__version__, command_line(settings))
            _tell_rejected(inspected, folder, log)
            for leak in inspected.leaks:
                log.warning(leak)
            for note in notes:
                log.notice(note)
            course = Course(origin, state, warnings=list(log.warnings))
            del state  # its maps would lie in memory to the end
            checkpoints.save(course)
            folder.write_text("settings.toml", to_toml(settings))
            with checkpoints.resumable():
                iterate(problem, course, (folder, checkpoints), (log, progress), report)
    return course.state


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
        f"{len(rejected)} images {_why(rejected)} and were set aside in rejected.star: {names}{more}"
    )


def _why(rejected: ParticleTable) -> str:
    """What is wrong with particles that were set aside, in words."""
    reasons = set(rejected.columns["halfmapRejected"])
    said = ["hold NaN, Inf or a constant background"] if reasons & {"NaN", "constant"} else []
    return " or ".join(said + (["are outliers of their stack"] if "outlier" in reasons else []))


def iterate(
    problem: Problem, course: Course, files: tuple[RunFolder, Checkpoints], tell: tuple[RunLog, Progress],
    report: Report | None,
) -> None:
    """The loop: plan, step, record, keep. From where ``course`` stands, which it moves on, to the end."""
    (folder, checkpoints), (log, progress) = files, tell
    tell_processes(problem, log)
    while (plan := problem.schedule.next(course.history, course.state.shift_sigma)) is not None:
        step, solution = em_step(problem, course.state, plan, _followed(problem, course, plan, checkpoints, tell))
        course.state = step.after
        course.history.append(progressed(step))
        poor = _judge(problem, course, step, log)
        if plan.stage == "burn-in" and poor:
            course.state = _shared_start(problem, course.state, solution)
        course.state, _ = handed_out(problem, course.state, course.history[-1])
        crosses = what_crosses(
            problem.regulariser.crosses, problem.settings.ini_high, poor, problem.settings.join_halves
        )
        groups = [group.name for group in problem.source.table.optics]
        course.records.append(record(step, course.history[-1], groups, crosses) | {
            "regulariser": solution.chosen, "warnings": log.take_warnings()})
        _write(folder, problem, course, (step.halves, solution))
        if report is not None:
            report(**_seen(course, step, solution), memory=problem.memory)
        progress.finish_iteration(course.records[-1])
        log.line(f"iteration {course.state.iteration} {plan.stage}: {course.history[-1].resolution:.2f} A")
        course.warnings = []
        if plan.stage != "final":
            checkpoints.save(course)
        del step, solution  # their maps are not needed while the next ones are made
    log.finish()
    checkpoints.remove()


def _followed(
    problem: Problem, course: Course, plan: Plan, checkpoints: Checkpoints, tell: tuple[RunLog, Progress]
) -> em.Following:
    """What follows the next expectation step: the progress bar, and a checkpoint that may hold the first part of it."""
    log, progress = tell
    iteration, under, others = course.state.iteration, under_way(problem, course.state), problem.ranks.world
    begun, fault = checkpoints.begun(under, problem.model.place)
    total = len(problem.source.table)
    done = min(total, begun.images * others) if begun is not None else 0  # all processes are about as far
    if fault:
        log.notice(f"iteration {iteration + 1} starts anew: {fault}")
    elif begun is not None:
        log.notice(f"iteration {iteration + 1} goes on after {done} of {total} particles")
    reached = course.history[-1].resolution if course.history else None
    band = problem.model.box * problem.model.pixel_size / plan.sampling.limit
    progress.start_iteration(iteration + 1, plan.stage, total, reached, band, done)

    def keep(so_far: em.Expectation) -> None:
        fault = checkpoints.keep(under, so_far)
        if fault:
            log.notice(f"if this run is stopped now, iteration {iteration + 1} starts anew: {fault}")

    return em.Following(begun, lambda n: progress.advance(n * others), keep)


def _judge(problem: Problem, course: Course, step: Step, log: RunLog) -> bool:
    """Warn of what looks wrong after an iteration; whether the images contradict the start."""
    start, schedule, history = problem.settings.ini_high, problem.schedule, course.history
    poor = schedule.poor_start(history)
    newly_poor = poor and not schedule.poor_start(history[:-1])
    for finding in health.findings(
        history, step.halves.curves, start, schedule.shell(start), problem.grid, newly_poor
    ):
        log.warning(finding)
    return poor


def _write(folder: RunFolder, problem: Problem, course: Course, made: tuple[HalfSets, Solution]) -> None:
    """The results of an iteration, each file whole or not at all."""
    halves, solution = made
    folder.write_maps(halves, solution, course.state)
    folder.write_particles(problem.source.table, course.state)
    folder.write_fsc(halves)
    folder.write_records(course.records)


def _seen(course: Course, step: Step, solution: Solution) -> dict[str, Any]:
    """The fields of a report snapshot."""
    halves, state = step.halves, course.state
    return {
        "records": course.records, "map": solution.joined.cpu().numpy(), "half1": halves.raw[0].cpu().numpy(),
        "half2": halves.raw[1].cpu().numpy(), "mask": state.mask.cpu().numpy(),
        "reference": solution.maps[0].cpu().numpy(),
        "theta": solution.arrays["theta"].cpu().numpy() if "theta" in solution.arrays else None,
        "directions": view_directions(state.poses.rotations[:, 0].double()).numpy(),
        "finished": step.plan.stage == "final", "started": course.origin.started,
    }  # fmt: skip


def em_step(problem: Problem, state: State, plan: Plan, following: em.Following) -> tuple[Step, Solution]:
    """One iteration: expectation, statistics, FSC and mask, regularisation."""
    cost = Cost(following.begun.cost if following.begun is not None else (0.0, 0.0))
    settings, model = problem.settings, problem.model
    seed = seed_of(problem, state)
    mine = expected(problem, state, plan, following)
    watch = Stopwatch(mine.tally.seconds)
    outcome = united(problem, mine)
    others_cpu = outcome.cost[1] - mine.cost[1]
    if problem.ranks.world > 1:
        watch.lap("gather")
    masks: list[Tensor] = []

    def curves(half1: Tensor, half2: Tensor) -> Any:
        masks.append(problem.mask(half1, half2))
        generator = torch.Generator(device=half1.device).manual_seed(seed)
        radius = 0.5 * settings.diameter / model.pixel_size
        return corrected_fsc(half1, half2, masks[0], generator, sphere_radius=min(radius, model.box / 2 - 1))

    with sums_put(model.place or in_memory):
        halves = HalfSets.build(outcome.statistics, model.symmetry, model.pixel_size, curves)
        if settings.regulariser in WITHOUT_QUARTERS:
            halves, outcome = replace(halves, sums=()), replace(outcome, statistics=())
        window = masks[0] if settings.flatten_solvent else problem.sphere(masks[0])
        shared = replace(halves, window=window)
        if settings.join_halves is not None:
            shared = shared.joined_below(problem.schedule.shell(settings.join_halves))
        solution = problem.regulariser.solve(shared, masks[0], state.memory)
    halves = replace(halves, halves=(), sums=())  # a step is kept while the next is made, sums would be twice there
    new = em.next_state(state, outcome, model, problem.source.table.pixel_size)
    new = replace(new, references=tuple(m * window for m in solution.maps), mask=masks[0], memory=solution.memory)
    watch.lap("solve")
    wall, cpu = cost.so_far()
    seconds = {**outcome.tally.seconds, "total": wall}
    return Step(plan, state, new, halves, problem.source.table.pixel_size, seconds, cpu + others_cpu), solution


def _shared_start(problem: Problem, state: State, solution: Solution) -> State:
    """An improved starting map for both half sets: that of all images, low-passed at the starting resolution."""
    window = state.mask if problem.settings.flatten_solvent else problem.sphere(state.mask)
    shared = lowpass(solution.joined * window, problem.model.pixel_size, problem.settings.ini_high)
    return replace(state, references=(shared, shared))
