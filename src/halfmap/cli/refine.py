"""``halfmap refine``, and the commands that go with it: ``resume``, ``demo`` and ``report``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.classify import class_reports
from halfmap.cli.command import chosen, citing, given, note_broken_plugs, settings_file
from halfmap.cli.relion import RELION_ALWAYS, RELION_NOTES, Note
from halfmap.cli.start import found_by
from halfmap.errors import InputError
from halfmap.options import add_options, build, table
from halfmap.runtime import distributed
from halfmap.settings.commands import RunSettings, command_line
from halfmap.settings.particle_files import ParticleFileOptions
from halfmap.settings.particle_sets import check_refinement
from halfmap.settings.refine import RefineSettings, validated
from halfmap.settings.resume import ResumeSettings, finished, validated_resume
from halfmap.settings.start import StartSettings


def refine_options(parser: argparse.ArgumentParser) -> None:
    note_broken_plugs()
    settings_file(parser)
    add_options(parser, RefineSettings)
    parser.add_argument(*RELION_ALWAYS, action="store_true", dest="relion_always", help=argparse.SUPPRESS)
    for name, instead in RELION_NOTES.items():
        parser.add_argument(name, action=Note, nargs=instead.values, dest="relion_notes", default=argparse.SUPPRESS,
                            help=argparse.SUPPRESS)
    parser.usage = "halfmap refine particles.star --diameter A --out folder [--map map.mrc] [options]"
    parser.epilog = ("RELION's spellings (--i --ref --o --sym --particle_diameter --ini_high "
                     "--solvent_mask --flatten_solvent --low_resol_join_halves --pad --j --random_seed) are "
                     "accepted too; for its other refinement options a note says what is done instead. There is no "
                     "mpirun: --j is the number of threads of all --processes together.")


def run_refine(arguments: argparse.Namespace) -> None:
    _run(chosen(arguments, RefineSettings))


def _run(wanted: RefineSettings) -> None:
    """Run one refinement, and write its report."""
    settings = _with_map(validated(wanted))
    from halfmap.refinement.refine import refine

    refine(settings, report=_reports(settings, settings.out))
    print(f"Finished: {settings.out / 'report.html'}")


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
    found = found_by(StartSettings(
        settings.particles, settings.diameter, out, None if settings.symmetry == "C1" else settings.symmetry,
        threads=settings.threads, processes=min(settings.processes, StartSettings.starts),
        device=settings.device, deterministic=settings.deterministic, seed=settings.seed,
        **{f.name: getattr(settings, f.name) for f in fields(ParticleFileOptions)}))
    if not found:
        raise InputError(f"{out}: no starting map was found, and report.html there says why; give one with --map")
    return replace(settings, map=out / "map.mrc")


def _reports(settings: RefineSettings, out: Path) -> Callable[..., Path]:
    """Return the function that writes the report of a refinement with these settings into a folder."""
    from halfmap.report.pages.refine import write_report
    from halfmap.report.pages.snapshot import Snapshot

    told: dict[str, Any] = {
        "settings": table(settings), "symmetry": settings.symmetry, "version": __version__,
        "command": command_line(settings), "citing": citing(),
    }

    def report(**seen: Any) -> Path:
        """Write report.html. seen: fields of a Snapshot, a class that no workflow may import."""
        return write_report(out, Snapshot(**told, **seen))

    return report


def _reports_of(settings: RunSettings, out: Path) -> Callable[..., Path]:
    """The same for whatever kind of run."""
    return _reports(settings, out) if isinstance(settings, RefineSettings) else class_reports(settings, out)


def resume_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ResumeSettings)
    parser.usage = ("halfmap resume RUN [--threads N] [--processes N] [--data-dir folder] [--max-memory GB]\n"
                    "                          [--scratch folder]")
    parser.epilog = "All other settings are those that the run was begun with, and cannot be changed."


def run_resume(arguments: argparse.Namespace) -> None:
    settings = validated_resume(build(ResumeSettings, given(arguments, ResumeSettings)))
    if finished(settings.run):
        print(f"{settings.run}: is finished; there is nothing to resume")
        return
    from halfmap.refinement.resume import resume

    resume(settings, reports=lambda chosen: _reports_of(chosen, settings.run))
    print(f"Finished: {settings.run / 'report.html'}")


def demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("halfmap-demo"), metavar="folder",
                        help="folder for images and results (default: halfmap-demo)")
    parser.add_argument("--quick", action="store_true", help="half of the images, with less noise and coarser pixels")


def run_demo(arguments: argparse.Namespace) -> None:
    from halfmap.workflows.demo import demo

    demo(arguments.out, arguments.quick, _run)


def report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")


def run_report(arguments: argparse.Namespace) -> None:
    check_refinement(arguments.run, classes_too=True)
    from halfmap.report.pages.run_folder import report_from_run

    print(report_from_run(arguments.run, citing()))
