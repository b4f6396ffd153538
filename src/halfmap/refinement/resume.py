"""Going on with a refinement that was stopped: everything comes from its checkpoint, the images from their files."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import chdir, nullcontext, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.kernels.threads import available_cores
from halfmap.options import to_command
from halfmap.particles.stack_files import StackFiles
from halfmap.refinement.checkpoints import Checkpoints, Course, Origin
from halfmap.refinement.classify import CLASSIFICATION
from halfmap.refinement.outputs import RunFolder
from halfmap.refinement.problem import Problem
from halfmap.refinement.process_layout import Layout, laid_out
from halfmap.refinement.refine import REFINEMENT, Kind, Outputs, Report
from halfmap.refinement.shared_work import assist, how_to_go_on, share_cores
from halfmap.refinement.state import State
from halfmap.runtime.checkpoint import library_versions
from halfmap.runtime.device import device_named
from halfmap.runtime.distributed import joined, shared_out, world
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import Progress
from halfmap.settings.checks import stopped
from halfmap.settings.classify import ClassifySettings
from halfmap.settings.commands import RunSettings, to_toml
from halfmap.settings.resume import ResumeSettings


def resume(wanted: ResumeSettings, reports: Callable[[RunSettings], Report] | None = None) -> State:
    """Run ``halfmap resume`` to the end of the run. On a CPU the result is that of a run never stopped.

    reports: gives the report of a refinement with these settings (see `Outputs`). Raises InputError, and writes
    nothing but its name into the lock, for a folder without a checkpoint, for a checkpoint that is damaged or of
    another version, and for input that has changed since.
    """
    checkpoints = Checkpoints(wanted.run, 1.0, device_named("auto"))
    if not checkpoints.exist:
        other = next((folder for folder in (wanted.run, wanted.run / "start") if stopped(folder)), None)
        if other is not None:
            raise InputError(f"{other}: holds a `halfmap start` or `halfmap classes2d` that was stopped; the command "
                             "that began it goes on when it is given again")
        raise InputError(f"{wanted.run}: holds no checkpoint to go on from; refine anew with `halfmap refine`")
    # The checkpoint is read twice: tensors go to a GPU only once the processes have shared them out.
    begun = Checkpoints(wanted.run, 1.0).load()[0].origin
    gpu = device_named("auto").type == "cuda" and begun.device == "cuda"
    layout = _layout(wanted, begun, gpu)
    advice = partial(how_to_go_on, wanted.run)
    assistant = to_command(replace(wanted, processes=None, threads=layout.threads), "halfmap resume")
    with (
        shared_out(layout.processes, shlex.split(assistant)[1:], advice),
        joined(gpu, advice) as ranks,
        checkpoints.held("halfmap resume") if ranks.first else nullcontext(),
        Progress() as progress,
        StackFiles() as files,
    ):
        course, libraries = checkpoints.load()
        ranks.wait()  # all begin with the same
        origin = course.origin
        kind, settings = _kind(origin), replace(origin.settings, out=wanted.run, **_given(wanted))
        checkpoints.interval = 60 * settings.checkpoint_minutes
        checkpoints.rank, checkpoints.world = ranks.rank, ranks.world
        share_cores(layout.threads, ranks)
        with _in(origin.working_folder):
            origin.inputs.check_files()
            device = _device(settings, origin.device)
            problem = kind.prepared_again(settings, origin, course.state, device, ranks, files)
            origin.inputs.check_particles(problem.source.table)
            if not ranks.first:
                with checkpoints.resumable():
                    return assist(problem, course.state, checkpoints, course.history)
            checkpoints.clean()
            folder = RunFolder(settings.out, problem.model.pixel_size, settings.keep_iterations)
            if not (settings.out / "settings.toml").exists():
                folder.write_text("settings.toml", to_toml(origin.settings))
            with RunLog(settings.out / "log.txt", progress) as log:
                log.begin(__version__, f"halfmap resume {wanted.run}")
                log.notice(f"{wanted.run}: goes on after iteration {course.state.iteration}")
                log.notice(problem.memory.sentence())
                if layout.why:
                    log.notice(layout.why)
                for note in _differences(libraries) + _planned_otherwise(course, problem, checkpoints):
                    log.notice(note)
                report = reports(origin.settings) if reports is not None else None
                with checkpoints.resumable():
                    kind.iterate(problem, course, Outputs(folder, checkpoints, log, progress, report))
    return course.state


def _kind(begun: Origin) -> Kind:
    """What kind of run was begun."""
    return CLASSIFICATION if isinstance(begun.settings, ClassifySettings) else REFINEMENT


def _layout(wanted: ResumeSettings, begun: Origin, gpu: bool) -> Layout:
    """As many processes as the run began with, if there are threads for them, unless another number is wanted."""
    settings = replace(begun.settings, out=wanted.run, **_given(wanted))
    processes = wanted.processes
    if processes is None:
        most = settings.threads or available_cores()
        processes = 0 if gpu or world() > 1 else min(begun.processes, most)
    with _in(begun.working_folder):
        return laid_out(processes, settings.threads, gpu, partial(_kind(begun).outlook, settings))


def _given(wanted: ResumeSettings) -> dict[str, Any]:
    """The settings that are chosen for the rest of the run, by name."""
    chosen = {f.name: getattr(wanted, f.name) for f in fields(wanted) if f.name != "run"}
    return {name: value for name, value in chosen.items() if value is not None}


def _planned_otherwise(course: Course, problem: Problem, checkpoints: Checkpoints) -> list[str]:
    """Notes where memory asks for other batches, or another place of the sums, than so far. That is kept from now on.

    Sums then add up in another order, so an iteration under way starts anew.
    """
    before, now = course.origin.limits, problem.limits
    changed = [words for words, other in ((f"{now.batch} images at once", now.batch != before.batch),
                                          ("sums on disk", now.sums == "disk" != before.sums),
                                          ("sums in the machine's memory", now.sums == "host" != before.sums)) if other]
    if not changed:
        return []
    again = f"; iteration {course.state.iteration + 1} starts anew" if checkpoints.within_iteration else ""
    course.origin = replace(course.origin, limits=replace(before, batch=now.batch, sums=now.sums))
    checkpoints.save(course)
    return [f"from here on {', '.join(changed)}, as memory is short: the same up to rounding, not to the bit{again}"]


def _in(folder: Path) -> chdir[Path] | nullcontext[None]:
    """Work in the folder that the run was begun in, if it is still there, so that relative paths mean the same."""
    return chdir(folder) if folder.is_dir() else nullcontext()


def _device(settings: RunSettings, name: str) -> torch.device:
    """The device that the run was begun on. Another one would give another result."""
    with suppress(InputError):
        return device_named(name, settings.deterministic)
    raise InputError("the run was begun on a GPU, and there is none that this torch can use; resume it where there is "
                     "one")


def _differences(libraries: dict[str, str]) -> list[str]:
    """A note where libraries are not those that the run was begun with."""
    now = library_versions()
    other = [f"{name} {libraries.get(name, 'unknown')} before, {now[name]} now"
             for name in now if libraries.get(name) != now[name]]
    return [f"not to the bit what it would have been: {', '.join(other)}"] if other else []
