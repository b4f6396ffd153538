"""Going on with a refinement that was stopped: everything comes from its checkpoint, the images from their files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir, nullcontext, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.refinement.checkpoints import Checkpoints, Course
from halfmap.refinement.outputs import RunFolder
from halfmap.refinement.problem import Problem, device_named, prepared_again
from halfmap.refinement.refine import Report, iterate
from halfmap.refinement.shared_work import assist, how_to_go_on, share_cores
from halfmap.refinement.state import State
from halfmap.runtime.checkpoint import library_versions
from halfmap.runtime.distributed import joined
from halfmap.runtime.log import RunLog
from halfmap.runtime.progress import Progress
from halfmap.settings.commands import to_toml
from halfmap.settings.refine import RefineSettings
from halfmap.settings.resume import ResumeSettings


def resume(wanted: ResumeSettings, reports: Callable[[RefineSettings], Report] | None = None) -> State:
    """Run ``halfmap resume`` to the end of the refinement; on a CPU its result is that of a run never stopped.

    reports: gives the report of a refinement with these settings (see `refine`). Raises InputError for a folder without
    a checkpoint, a checkpoint of another version or damaged, and input that changed since; nothing is written then.
    """
    checkpoints = Checkpoints(wanted.run, 1.0, device_named("auto"))
    if not checkpoints.exist:
        raise InputError(f"{wanted.run}: holds no checkpoint to go on from; refine anew with `halfmap refine`")
    # read twice where there is a GPU: what lies on it waits until the processes have shared out the GPUs
    gpu = device_named("auto").type == "cuda" and Checkpoints(wanted.run, 1.0).load()[0].origin.device == "cuda"
    with (
        joined(gpu, partial(how_to_go_on, wanted.run)) as ranks,
        checkpoints.held() if ranks.first else nullcontext(),
        Progress() as progress,
    ):
        course, libraries = checkpoints.load()
        ranks.wait()  # all begin with the same
        origin = course.origin
        settings = replace(origin.settings, out=wanted.run, **_given(wanted))
        checkpoints.interval, checkpoints.process = 60 * settings.checkpoint_minutes, (ranks.rank, ranks.world)
        share_cores(settings.threads, ranks)
        with _in(origin.working_folder):
            origin.inputs.check_files()
            where = _device(origin.device), ranks
            problem = prepared_again(settings, origin.rows, course.state, origin.grid, where)
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
                log.notice(f"memory: {problem.memory}")
                for note in _differences(libraries) + _planned_otherwise(course, problem, checkpoints):
                    log.notice(note)
                log.warnings = list(course.warnings)
                report = reports(origin.settings) if reports is not None else None
                with checkpoints.resumable():
                    iterate(problem, course, (folder, checkpoints), (log, progress), report)
    return course.state


def _given(wanted: ResumeSettings) -> dict[str, Any]:
    """What is chosen for the rest of the run, by the names of its settings."""
    chosen = {f.name: getattr(wanted, f.name) for f in fields(wanted) if f.name != "run"}
    return {name: value for name, value in chosen.items() if value is not None}


def _planned_otherwise(course: Course, problem: Problem, checkpoints: Checkpoints) -> list[str]:
    """Notes where memory asks for other batches or another place of the sums than so far: that is kept from now on.

    Sums add in another order then, so those of an iteration under way cannot be gone on with.
    """
    before, now = course.origin.settings, problem.settings
    changed = [words for words, other in ((f"{now.batch} images at once", now.batch != before.batch),
                                          ("sums on disk", now.sums == "disk" != before.sums)) if other]
    if not changed:
        return []
    again = f"; iteration {course.state.iteration + 1} starts anew" if checkpoints.within_iteration else ""
    course.origin = replace(course.origin, settings=replace(before, batch=now.batch, sums=now.sums))
    checkpoints.save(course)
    return [f"from here on {', '.join(changed)}, as memory is short: the same up to rounding, not to the bit{again}"]


def _in(folder: Path) -> chdir[Path] | nullcontext[None]:
    """The folder that the run was begun in, where it is still there: relative paths mean and are written the same."""
    return chdir(folder) if folder.is_dir() else nullcontext()


def _device(name: str) -> torch.device:
    """The device that the run was begun on; another one would give another result."""
    with suppress(InputError):
        return device_named(name)
    raise InputError("the run was begun on a GPU, and there is none that this torch can use; resume it where there is "
                     "one")


def _differences(libraries: dict[str, str]) -> list[str]:
    """A note where libraries are not those that the run was begun with."""
    now = library_versions()
    other = [f"{name} {libraries.get(name, 'unknown')} before, {now[name]} now"
             for name in now if libraries.get(name) != now[name]]
    return [f"not to the bit what it would have been: {', '.join(other)}"] if other else []
