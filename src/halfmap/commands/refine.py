"""``halfmap refine``, and the commands that go with it: ``resume``, ``demo`` and ``report``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from halfmap.commands.citing import citing
from halfmap.commands.classify import class_reports
from halfmap.commands.done import Done
from halfmap.commands.page import page_writer
from halfmap.commands.start import start
from halfmap.errors import InputError
from halfmap.options import table
from halfmap.runtime import distributed
from halfmap.runtime.terminal import say
from halfmap.settings.commands import RunSettings, command_line
from halfmap.settings.demo import DemoSettings, ReportSettings
from halfmap.settings.particle_files import ParticleFileOptions
from halfmap.settings.particle_sets import check_refinement
from halfmap.settings.refine import RefineSettings, validated
from halfmap.settings.resume import ResumeSettings, finished, validated_resume
from halfmap.settings.start import StartSettings


def refine(settings: RefineSettings) -> Done:
    """Refine, from a map that is found first where none is given, and write the page now and then."""
    checked = _with_map(validated(settings))
    from halfmap.refinement.refine import refine as run

    run(checked, report=_reports(checked, checked.out))
    say(f"Finished: {checked.out / 'report.html'}")
    return Done(checked.out)


def _with_map(settings: RefineSettings) -> RefineSettings:
    """The settings with a map: the one given, or one found from the images, in the folder start of the results.

    Raises InputError where none is found.
    """
    if settings.map is not None:
        return settings
    out = settings.out / "start"
    if distributed.world() > 1:
        raise InputError("refine without --map: under torchrun finding one is a command of its own; run halfmap start "
                         "first and give its map.mrc with --map, or start without torchrun")
    found = start(StartSettings(
        settings.particles, settings.diameter, out, None if settings.symmetry == "C1" else settings.symmetry,
        threads=settings.threads, processes=min(settings.processes, StartSettings.starts),
        device=settings.device, deterministic=settings.deterministic, seed=settings.seed,
        **{f.name: getattr(settings, f.name) for f in fields(ParticleFileOptions)}))
    if not found.succeeded:
        raise InputError(f"{out}: no starting map was found, and report.html there says why; give one with --map")
    return replace(settings, map=out / "map.mrc")


def _reports(settings: RefineSettings, out: Path) -> Callable[..., Path]:
    """Return the function that writes the report of a refinement with these settings into a folder."""
    from halfmap.report.pages.refine import write_report
    from halfmap.report.pages.snapshot import Snapshot

    return page_writer(write_report, Snapshot, out, settings=table(settings), symmetry=settings.symmetry,
                       command=command_line(settings), citing=citing())


def _reports_of(settings: RunSettings, out: Path) -> Callable[..., Path]:
    """The same for whatever kind of run."""
    return _reports(settings, out) if isinstance(settings, RefineSettings) else class_reports(settings, out)


def resume(settings: ResumeSettings) -> Done:
    """Go on with a run to its end; one that is finished stays as it is."""
    checked = validated_resume(settings)
    if finished(checked.run):
        say(f"{checked.run}: is finished; there is nothing to resume")
        return Done(checked.run)
    from halfmap.refinement.resume import resume as run

    run(checked, reports=lambda chosen: _reports_of(chosen, checked.run))
    say(f"Finished: {checked.run / 'report.html'}")
    return Done(checked.run)


def demo(settings: DemoSettings) -> Done:
    """Simulate and refine."""
    from halfmap.workflows.demo import demo as run

    run(settings.out, settings.quick, refine)
    return Done(settings.out)


def report(settings: ReportSettings) -> Done:
    """Write the page of a run anew."""
    check_refinement(settings.run, classes_too=True)
    from halfmap.report.pages.run_folder import report_from_run

    say(report_from_run(settings.run, citing()))
    return Done(settings.run)
