"""Classification of images by the map that explains them best: the loop, and how it is wired.

It is refinement with several references (refine.py): the expectation step, processes, checkpoints and folder are the
same. What is its own is in class_problem.py (how it begins), class_schedule.py (what is searched, and when it ends),
classes.py (one iteration) and class_records.py (what is said of it).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from halfmap.maps.mrc import write_map
from halfmap.particles.star import write_star
from halfmap.particles.table import ParticleTable
from halfmap.refinement.checkpoints import Course
from halfmap.refinement.class_problem import class_outlook, prepared_classes, prepared_classes_again
from halfmap.refinement.class_records import (
    by_share,
    class_differences,
    class_findings,
    class_progressed,
    class_record,
    classes_of,
    in_order,
)
from halfmap.refinement.classes import ClassProblem, ClassStep, class_step
from halfmap.refinement.outputs import Record
from halfmap.refinement.records import what_crosses
from halfmap.refinement.refine import Kind, Outputs, Report, following, run_of
from halfmap.refinement.shared_work import before_step, handed_out, tell_processes
from halfmap.refinement.state import State
from halfmap.refinement.told import findings_in, summed_up, tell
from halfmap.settings.classify import ClassifySettings
from halfmap.validation.fsc import write_fsc_xml

JOINED = "the references of every class, made of both half sets"


def classify(settings: ClassifySettings, report: Report | None = None) -> State:
    """Run ``halfmap classify``. Results are written into settings.out after every iteration, its page now and then.

    report: see `Outputs`. Raises InputError for what a user can mend, before anything is written.
    """
    return run_of(CLASSIFICATION, settings, report)


def _iterate(problem: ClassProblem, course: Course, outputs: Outputs) -> None:
    """Classify to the end: plan, step, record, keep. ``course`` is moved on from where it stands."""
    log = outputs.log
    tell_processes(problem, log)
    with outputs.folder.behind.ended():
        while (plan := problem.schedule.next(course.history, course.state.shift_sigma)) is not None:
            course.state = before_step(problem, course.state, plan)
            step = class_step(problem, course.state, plan, following(problem, course, plan, outputs))
            course.state = step.after
            course.history.append(class_progressed(step))
            course.state, _ = handed_out(problem, course.state, course.history[-1])
            course.records.append(_record(problem, course, step))
            _write(problem, course, step, outputs)
            if plan.stage != "final":
                outputs.checkpoints.save(course)
            del step
    for line in _summary(in_order(course.records[-1], by_share(course.state.class_shares))):
        log.notice(line)
    log.notice(f"finished with {summed_up(course.records)}")
    log.finish()
    outputs.checkpoints.remove()


CLASSIFICATION = Kind("halfmap classify", class_outlook, prepared_classes, prepared_classes_again, _iterate)


def _record(problem: ClassProblem, course: Course, step: ClassStep) -> Record:
    """The iteration in full, with all that is found by then."""
    own = JOINED if step.plan.joined else problem.regulariser.crosses
    if problem.focus is not None:
        own += ", the focus mask"
    crosses = what_crosses(f"{own}, which image was first in which class", problem.schedule.start, False, None)
    groups = [group.name for group in problem.source.table.optics]
    made = class_record(step, course.history[-1], groups, crosses)
    if step.plan.stage == "final":
        made["differences"] = class_differences(step, problem.model.pixel_size)
    found = course.findings + class_findings(step, made, problem.schedule.stands_still(course.history[:-1]))
    return made | {"regulariser": {}, "findings": [asdict(one) for one in found]}


def _write(problem: ClassProblem, course: Course, step: ClassStep, outputs: Outputs) -> None:
    """Write and tell the results of an iteration, classes in the order of their shares, each file whole or not at
    all."""
    folder, state, log = outputs.folder, course.state, outputs.log
    order, last = by_share(state.class_shares), step.plan.stage == "final"
    _write_maps(problem, step, order, outputs)
    columns = {"rlnClassNumber": classes_of(state.poses, order).numpy(),
               "rlnMaxValueProbDistribution": state.poses.class_shares(len(order)).amax(dim=1).numpy()}
    particles = folder.write_particles(problem.source.table, state, problem.model.scale_group, columns)
    if last:
        _write_members(particles, len(order), outputs)
    records = [in_order(one, order) for one in course.records]
    folder.write_records(records)
    if outputs.report is not None:
        report = outputs.report
        outputs.reporting(lambda: report(**_seen(course, step, order), particles=particles), certainly=last)
    outputs.progress.finish_iteration(records[-1])
    before = findings_in(course.records[-2]) if len(course.records) > 1 else course.findings
    tell(before, findings_in(course.records[-1]), log)
    shares = ", ".join(f"{100 * one['share']:.1f} %" for one in records[-1]["classes"])
    latest = course.history[-1]
    log.line(f"iteration {state.iteration} {step.plan.stage}: shares {shares}; {100 * latest.changed:.1f} % moved; "
             f"{latest.resolution:.2f} A")


def _write_maps(problem: ClassProblem, step: ClassStep, order: list[int], outputs: Outputs) -> None:
    """class001.mrc (regularised), class001_half1.mrc and class001_half2.mrc (raw, unmasked), class001_fsc.xml of every
    class that holds images, and mask.mrc."""
    path, pixel_size = outputs.folder.path, problem.model.pixel_size
    write_map(path / "mask.mrc", step.after.mask.cpu(), pixel_size)
    for number, k in enumerate(order, start=1):
        one, name = step.maps[k], f"class{number:03d}"
        if one is None:
            for old in path.glob(f"{name}*"):
                old.unlink()
            continue
        write_map(path / f"{name}.mrc", one.solution.joined.cpu(), pixel_size)
        for half, raw in enumerate(one.halves.raw, start=1):
            write_map(path / f"{name}_half{half}.mrc", raw.cpu(), pixel_size)
        write_fsc_xml(path / f"{name}_fsc.xml", one.halves.curves.corrected.cpu(), problem.model.box, pixel_size)


def _write_members(particles: ParticleTable, classes: int, outputs: Outputs) -> None:
    """class001.star and so on: the particles of each class that has any."""
    numbers = np.asarray(particles.columns["rlnClassNumber"])
    for number in range(1, classes + 1):
        rows = np.flatnonzero(numbers == number)
        if len(rows):
            write_star(outputs.folder.path / f"class{number:03d}.star", particles.select(rows))


def _seen(course: Course, step: ClassStep, order: list[int]) -> dict[str, Any]:
    """The fields of a classification's page: records and maps with the classes in this order."""
    maps = [step.maps[k] for k in order]
    return {
        "records": [in_order(one, order) for one in course.records],
        "maps": [None if one is None else one.solution.joined.cpu().numpy() for one in maps],
        "halves": [None if one is None else [raw.cpu().numpy() for raw in one.halves.raw] for one in maps],
        "mask": step.after.mask.cpu().numpy(), "finished": step.plan.stage == "final",
        "started": course.origin.started,
    }  # fmt: skip


def _summary(last: Record) -> list[str]:
    """The classes at the end, a line each."""
    lines = []
    for number, one in enumerate(last["classes"], start=1):
        reached = f"{one['resolution_A']:.2f} A" if "resolution_A" in one else "empty"
        stayed = last["moved_from_first"][number - 1][number - 1] if "moved_from_first" in last else one["images"]
        lines.append(f"class {number}: {100 * one['share']:.1f} %, {one['images']} images ({stayed} of them from the "
                     f"beginning), {reached}")
    return lines
