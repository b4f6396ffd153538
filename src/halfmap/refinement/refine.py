"""Gold-standard refinement. Read this file first, from the top: the loop, one iteration of it, then the wiring.

An iteration is planned (schedule.py), run (`em_step`), recorded (records.py, health.py), and kept (outputs.py,
checkpoints.py). Its expectation step is em.py, its maximisation step the regulariser. What stays the same is the
`Problem`, what one iteration hands to the next is the `State`, and a `Course` is the run so far.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.geometry.rotations import view_directions
from halfmap.maps.filters import lowpass
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.star import write_star
from halfmap.reconstruction.statistics import in_memory, sums_put
from halfmap.refinement import em
from halfmap.refinement.checkpoints import Checkpoints, Course, Origin
from halfmap.refinement.curvature import with_sign
from halfmap.refinement.half_maps import built
from halfmap.refinement.input_files import Inputs
from halfmap.refinement.outputs import Record, RunFolder
from halfmap.refinement.problem import Prepared, Problem, files_read, outlook, prepared, prepared_again
from halfmap.refinement.process_layout import Outlook, laid_out
from halfmap.refinement.records import Step, progressed, record, what_crosses
from halfmap.refinement.schedule import Plan
from halfmap.refinement.shared_work import (
    assist,
    before_step,
    expected,
    handed_out,
    how_to_go_on,
    seed_of,
    share_cores,
    step_after,
    tell_processes,
    united,
)
from halfmap.refinement.state import State
from halfmap.refinement.told import findings_in, summed_up, tell
from halfmap.refinement.verdict import verdict
from halfmap.runtime.device import device_named
from halfmap.runtime.distributed import joined, shared_out
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import Progress
from halfmap.runtime.stopwatch import NOTHING, CostMeter, NowAndThen, Stopwatch
from halfmap.settings.commands import RunSettings, command_line, to_toml
from halfmap.settings.refine import RefineSettings

Report = Callable[..., Any]
REPORTING = 0.1  # share of the time for pages before the last one


@dataclass(frozen=True)
class Outputs:
    """Where a run writes and what it tells: its folder, its checkpoints, the log, the progress bar, and the report,
    which is called with the fields of a report snapshot: after the first iteration, the last one, and as many of the
    others as take ``REPORTING`` of the time."""

    folder: RunFolder
    checkpoints: Checkpoints
    log: RunLog
    progress: Progress
    report: Report | None = None
    reporting: NowAndThen = field(default_factory=lambda: NowAndThen(REPORTING))


@dataclass(frozen=True)
class Kind:
    """A kind of run: the command that begins it, and what differs from kind to kind.

    outlook, prepared, prepared_again: as in problem.py, from the settings of this kind; iterate: runs it to its end.
    """

    command: str
    outlook: Callable[[Any], Outlook]
    prepared: Callable[..., Prepared]
    prepared_again: Callable[..., Problem]
    iterate: Callable[[Any, Course, Outputs], None]


def iterate(problem: Problem, course: Course, outputs: Outputs) -> None:
    """Refine to the end: plan, step, record, keep. ``course`` is moved on from where it stands."""
    log = outputs.log
    tell_processes(problem, log)
    with outputs.folder.behind.ended():
        while (plan := problem.schedule.next(course.history, course.state.shift_sigma)) is not None:
            course.state = _before_step(problem, course, plan, outputs)
            problem = problem.with_optics(course.state.optics)
            step = em_step(problem, course.state, plan, following(problem, course, plan, outputs))
            course.state = step.after
            course.history.append(progressed(step))
            poor = problem.schedule.poor_start(course.history)
            if plan.stage == "burn-in" and poor:
                course.state = _shared_start(problem, step)
            course.state, _ = handed_out(problem, course.state, course.history[-1])
            course.records.append(_record(problem, course, step, poor))
            _write(problem, course, step, outputs)
            if plan.stage != "final":
                outputs.checkpoints.save(course)
            del step  # its maps are not needed while the next ones are made
    log.notice(f"finished with {summed_up(course.records)}")
    log.finish()
    outputs.checkpoints.remove()


def em_step(problem: Problem, state: State, plan: Plan, following: em.Following) -> Step:
    """One iteration: poses and sums, half maps, FSC and mask, and the references that the regulariser makes of them."""
    meter = CostMeter(following.begun.cost if following.begun is not None else NOTHING)
    mine = expected(problem, state, plan, following)
    own_cpu, watch = mine.cost.cpu, Stopwatch(mine.tally.seconds)
    outcome = united(problem, plan, mine)
    del mine, following  # they hold the sums of quarter sets, which are to go before the solve
    if problem.ranks.world > 1:
        watch.lap("gather")
    with sums_put(problem.model.place or in_memory, problem.model.bench):
        made = built(problem, outcome.statistics, seed_of(problem, state))
        halves, mask = made.halves, made.mask
        if not problem.keeps_quarters:
            outcome = replace(outcome, statistics=())
        del made  # it holds the sums
        window = problem.masking.window(mask)
        shared = replace(halves, window=window)
        if problem.joined is not None:
            shared = shared.joined_below(problem.schedule.shell(problem.joined))
        solution = problem.regulariser.solve(shared, mask, state.memory)
    halves = replace(halves, halves=(), sums=())  # a step is kept while the next is made: sums would be there twice
    pixel_size = problem.source.table.pixel_size
    after = em.next_state(state, outcome, problem.model, problem.source.table)
    references = tuple(m * window for m in solution.maps)
    after = replace(after, references=references, mask=mask, memory=solution.memory)
    watch.lap("solve")
    cost = meter.so_far()
    seconds = {**outcome.tally.seconds, "total": cost.wall}
    signs = outcome.tally.signs
    return Step(plan, state, after, halves, solution, pixel_size, signs, seconds,
                cost.cpu + outcome.cost.cpu - own_cpu)


def _before_step(problem: Problem, course: Course, plan: Plan, outputs: Outputs) -> State:
    """The state with what is asked of the images before the iteration, and told what was found of the optics."""
    iteration = course.state.iteration + 1
    if plan.optics is None:
        return before_step(problem, course.state, plan)
    outputs.progress.start_iteration(iteration, "optics", len(problem.source.table), course.history[-1].resolution,
                                     problem.grid.length / plan.optics.last)
    state = before_step(problem, course.state, plan, outputs.progress.advance)
    assert state.optics is not None
    for one in state.optics.found:
        outputs.log.line(f"optics before iteration {iteration}, {one['name']}: {one['verdict']}")
    return state


def _shared_start(problem: Problem, step: Step) -> State:
    """An improved starting map for both half sets: that of all images, low-passed at the starting resolution."""
    window = problem.masking.window(step.after.mask)
    shared = lowpass(step.solution.joined * window, problem.model.pixel_size, problem.schedule.start)
    return replace(step.after, references=(shared, shared))


def _record(problem: Problem, course: Course, step: Step, poor: bool) -> Record:
    """The iteration in full, with all that is found by then: in the input, and in its own results."""
    prior = step.before.prior
    held = prior is not None and prior.estimated
    crosses = what_crosses(problem.regulariser.crosses, problem.schedule.start, poor, problem.joined, held,
                           problem.optics)
    groups = [group.name for group in problem.source.table.optics]
    found = course.findings + verdict(problem, course.history, step, poor)
    return record(step, course.history[-1], groups, crosses) | {
        "regulariser": step.solution.chosen, "ewald": with_sign(problem.model, step.after).ewald,
        "findings": [asdict(one) for one in found]}


def _write(problem: Problem, course: Course, step: Step, outputs: Outputs) -> None:
    """Write and tell the results of an iteration, each file whole or not at all."""
    folder, state = outputs.folder, course.state
    folder.write_maps(step.halves, step.solution, state)
    particles = folder.write_particles(problem.source.table, state, problem.model.scale_group)
    folder.write_fsc(step.halves)
    folder.write_records(course.records)
    if outputs.report is not None:
        report, memory = outputs.report, problem.memory.words()
        outputs.reporting(lambda: report(**_seen(course, step), particles=particles, memory=memory),
                          certainly=step.plan.stage == "final")
    outputs.progress.finish_iteration(course.records[-1])
    before = findings_in(course.records[-2]) if len(course.records) > 1 else course.findings
    tell(before, findings_in(course.records[-1]), outputs.log)
    some = "" if step.plan.images is None else f" ({step.plan.images} images)"
    outputs.log.line(f"iteration {state.iteration} {step.plan.stage}{some}: {course.history[-1].resolution:.2f} A")


def _seen(course: Course, step: Step) -> dict[str, Any]:
    """The fields of a report snapshot."""
    halves, solution, state = step.halves, step.solution, course.state
    return {
        "records": course.records, "map": solution.joined.cpu().numpy(), "half1": halves.raw[0].cpu().numpy(),
        "half2": halves.raw[1].cpu().numpy(), "mask": state.mask.cpu().numpy(),
        "reference": solution.maps[0].cpu().numpy(),
        "theta": solution.arrays["theta"].cpu().numpy() if "theta" in solution.arrays else None,
        "directions": view_directions(state.poses.rotations[state.poses.known, 0].double()).numpy(),
        "finished": step.plan.stage == "final", "started": course.origin.started,
    }  # fmt: skip


def following(problem: Problem, course: Course, plan: Plan, outputs: Outputs) -> em.Following:
    """What follows the next expectation step: the progress bar, and a checkpoint that may hold its first part."""
    log, progress, checkpoints = outputs.log, outputs.progress, outputs.checkpoints
    iteration, identity, others = course.state.iteration, step_after(problem, course.state), problem.ranks.world
    begun, fault = checkpoints.begun(identity, problem.model.place)
    total = plan.images or len(problem.source.table)
    done = min(total, begun.images * others) if begun is not None else 0  # all processes are about as far
    if fault:
        log.notice(f"iteration {iteration + 1} starts anew: {fault}")
    elif begun is not None:
        log.notice(f"iteration {iteration + 1} goes on after {done} of {total} particles")
    reached = course.history[-1].resolution if course.history else None
    progress.start_iteration(
        iteration + 1, plan.stage, total, reached, problem.grid.length / plan.sampling.limit, done
    )

    def keep(so_far: em.Expectation) -> None:
        fault = checkpoints.keep(identity, so_far)
        if fault:
            log.notice(f"if this run is stopped now, iteration {iteration + 1} starts anew: {fault}")

    return em.Following(begun, lambda n: progress.advance(n * others), keep)


def refine(settings: RefineSettings, report: Report | None = None) -> State:
    """Run ``halfmap refine``. Results are written into settings.out after every iteration, its page now and then.

    report: see `Outputs`. Raises InputError for what a user can mend, before anything is written.
    """
    return run_of(REFINEMENT, settings, report)


def run_of(kind: Kind, settings: RunSettings, report: Report | None = None) -> State:
    """Run what a command asks for, alone or in several processes, as `refine` does."""
    started = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    gpu = device_named(settings.device, settings.deterministic).type == "cuda"
    layout = laid_out(settings.processes, settings.threads, gpu, partial(kind.outlook, settings))
    advice = partial(how_to_go_on, settings.out)
    assistant = command_line(replace(settings, processes=0, threads=layout.threads))
    with (
        shared_out(layout.processes, shlex.split(assistant)[1:], advice),
        joined(gpu, advice) as ranks,
        Progress() as progress,
        StackFiles() as files,
    ):
        share_cores(layout.threads, ranks)
        ready = kind.prepared(settings, progress, ranks, files)
        problem, state = ready.problem, ready.state
        checkpoints = Checkpoints(settings.out, settings.checkpoint_minutes, rank=ranks.rank, world=ranks.world)
        if not ranks.first:
            with checkpoints.resumable():
                return assist(problem, state, checkpoints)
        table = problem.source.table
        origin = Origin(settings, problem.limits, started, Path.cwd(), problem.device.type, table.rows, problem.grid,
                        Inputs.of(files_read(settings), table, files),
                        layout.processes if ranks.world == layout.processes else 0)
        with checkpoints.held(kind.command), RunLog(settings.out / "log.txt", progress) as log:
            folder = RunFolder(settings.out, problem.model.pixel_size, settings.keep_iterations)
            log.begin(__version__, command_line(settings))
            if ready.inspected.rejected is not None:
                write_star(folder.path / "rejected.star", ready.inspected.rejected)
            tell([], ready.inspected.findings, log)
            for note in [*ready.notes, *filter(None, [layout.why])]:
                log.notice(note)
            course = Course(origin, state, findings=ready.inspected.findings)
            del state, ready  # their maps would lie in memory to the end
            checkpoints.save(course)
            folder.write_text("settings.toml", to_toml(settings))
            with checkpoints.resumable():
                kind.iterate(problem, course, Outputs(folder, checkpoints, log, progress, report))
    return course.state


REFINEMENT = Kind("halfmap refine", outlook, prepared, prepared_again, iterate)
