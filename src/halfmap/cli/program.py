"""The ``halfmap`` command: parse the command line, run the workflow, and report a user's mistake in one line.

Nothing heavy is imported until a command is known and its options are valid, so that help and errors are immediate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.options import OptionParser
from halfmap.runtime import company, distributed
from halfmap.runtime.interrupts import second_interrupt_ends
from halfmap.settings.checks import stopped


@dataclass(frozen=True)
class Command:
    """One command of ``halfmap``: its summary in a line, the function that declares its options, and the one that runs
    it, which may return an exit status."""

    summary: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def _command(summary: str, file: str, options: str, run: str) -> Command:
    """A command whose functions are in a file of halfmap.cli. The file is imported when one of them is called."""

    def of_file(name: str) -> Callable[[Any], Any]:
        return lambda argument: getattr(import_module(f"halfmap.cli.{file}"), name)(argument)

    return Command(summary, of_file(options), of_file(run))


# In the order of the help text.
COMMANDS: dict[str, Command] = {
    "refine": _command("refine a map and the particles' poses", "refine", "refine_options", "run_refine"),
    "start": _command("find a starting map from the images alone", "start", "start_options", "run_start"),
    "classify": _command(
        "sort particles into classes, each with a map of its own", "classify", "classify_options", "run_classify"),
    "resume": _command("go on with a refinement that was stopped", "refine", "resume_options", "run_resume"),
    "inspect": _command(
        "what is in a file, whether it is sane, and what a refinement of it would take",
        "inspect", "inspect_options", "run_inspect"),
    "regularise": _command(
        "filter two finished half maps with a regulariser",
        "half_maps", "regularise_options", "run_regularise"),
    "postprocess": _command(
        "resolution, B factor and sharpened map of two half maps",
        "half_maps", "postprocess_options", "run_postprocess"),
    "fsc": _command("Fourier shell correlation of two half maps", "half_maps", "fsc_options", "run_fsc"),
    "local-resolution": _command(
        "resolution of two half maps at every place",
        "half_maps", "local_resolution_options", "run_local_resolution"),
    "model-fsc": _command(
        "Fourier shell correlation of a map and an atomic model",
        "half_maps", "model_fsc_options", "run_model_fsc"),
    "compare": _command(
        "two or more runs of the same particles side by side, as a figure",
        "compare", "compare_options", "run_compare"),
    "orientations": _command(
        "how evenly particles are seen from all sides, and the resolution by direction",
        "particle_sets", "orientations_options", "run_orientations"),
    "audit": _command(
        "find particles that are twice in a STAR file or in both half sets",
        "particle_sets", "audit_options", "run_audit"),
    "classes2d": _command(
        "sort particle images into two-dimensional classes",
        "classes2d", "classes2d_options", "run_classes2d"),
    "select": _command(
        "the particles of a run that pass its own measures, as a STAR file",
        "select", "select_options", "run_select"),
    "expand": _command(
        "every image at all poses that a point group makes equivalent, as a STAR file",
        "expand", "expand_options", "run_expand"),
    "subtract": _command(
        "particle images less the signal of what a mask leaves out",
        "subtract", "subtract_options", "run_subtract"),
    "ctf-refine": _command(
        "defocus, astigmatism, beam tilt and other aberrations from the images of a run",
        "ctf_refine", "ctf_refine_options", "run_ctf_refine"),
    "convert": _command(
        "particles from cryoSPARC's format to RELION's, and back; optics groups divided by beam shift",
        "convert", "convert_options", "run_convert"),
    "reslog": _command(
        "resolution against the number of particles, and the B factor it says",
        "reslog", "reslog_options", "run_reslog"),
    "tune-ssri": _command(
        "parameters of the sparse_smooth regulariser, searched for on part of a run's particles",
        "tune", "tune_ssri_options", "run_tune_ssri"),
    "watch": _command(
        "show all runs below a folder in a browser, as they go on",
        "watch", "watch_options", "run_watch"),
    "deposit": _command(
        "files for an EMDB entry: maps, mask, FSC, image and summary",
        "deposit", "deposit_options", "run_deposit"),
    "simulate": _command("make particle images from an atomic model", "simulate", "simulate_options", "run_simulate"),
    "demo": _command("simulate a small membrane protein and refine it", "refine", "demo_options", "run_demo"),
    "report": _command("write a run's report.html anew", "refine", "report_options", "run_report"),
}

SHARED = ("refine", "classify", "resume", "start", "classes2d")  # commands that can run in several processes


def parser_for(command: str | None) -> argparse.ArgumentParser:
    """The whole parser, with the options of one command only: to list those of others may need slow imports."""
    parser = OptionParser(prog="halfmap", description="Refine a 3D map from single-particle cryo-EM images.",
                          epilog="halfmap COMMAND --help lists a command's options.")
    parser.add_argument("--version", action="version", version=f"halfmap {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=OptionParser)
    for name, entry in COMMANDS.items():
        chosen = commands.add_parser(name, help=entry.summary,
                                     description=entry.summary[0].upper() + entry.summary[1:] + ".")
        if name == command:
            entry.options(chosen)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Returns the exit status: the command's own or 0, 2 for a user's mistake, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    company.follow()
    with second_interrupt_ends(), distributed.one_voice():
        status = _run(words)
    if status != 0:
        distributed.leave(status)
    return status


def _run(words: list[str]) -> int:
    """Run the command, and print an error in one line."""
    arguments = argparse.Namespace()
    try:
        command = next((word for word in words if word in COMMANDS), None)
        parser_for(command).parse_args(words, arguments)
        if distributed.world() > 1 and arguments.command not in SHARED:
            raise InputError(f"halfmap {arguments.command} runs in one process; start it without torchrun")
        for note in dict.fromkeys(getattr(arguments, "relion_notes", ())):
            if distributed.rank() == 0:
                print(f"halfmap: note: {note}", file=sys.stderr)
        status = COMMANDS[arguments.command].run(arguments)
    except InputError as error:
        if distributed.speaks():
            print(f"halfmap: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if distributed.speaks():
            print(f"\nhalfmap: interrupted; {_kept(arguments)}", file=sys.stderr)
        return 130
    return status or 0


def _kept(arguments: argparse.Namespace) -> str:
    """Say what an interrupted command leaves in its folder, and how to resume it."""
    out: Path | None = getattr(arguments, "out", None) or getattr(arguments, "run", None)
    found = sorted(out.iterdir()) if out is not None and out.is_dir() else []
    if out is None or not found:
        return "nothing was written"
    said = f"{out} keeps " + ", ".join(path.name for path in found)
    if stopped(out):
        return f"{said}; the same command, given again, goes on"
    return f"{said}; go on with: halfmap resume {out}" if (out / "checkpoint" / "state").exists() else said
