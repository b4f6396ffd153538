"""The ``halfmap`` command: parse the command line, run the workflow, and report a user's mistake in one line.

Nothing heavy is imported until a command is known and its options are valid, so that help and errors are immediate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from halfmap import __version__
from halfmap.cli import compare, convert, deposit, half_maps, inspect, particle_sets, refine, reslog, simulate, tune
from halfmap.cli.command import Command
from halfmap.errors import InputError
from halfmap.options import OptionParser
from halfmap.runtime import distributed
from halfmap.runtime.interrupts import second_interrupt_ends

# In the order of the help text.
COMMANDS: dict[str, Command] = {
    "refine": refine.REFINE,
    "resume": refine.RESUME,
    "inspect": inspect.INSPECT,
    "regularise": half_maps.REGULARISE,
    "postprocess": half_maps.POSTPROCESS,
    "fsc": half_maps.FSC,
    "local-resolution": half_maps.LOCAL_RESOLUTION,
    "model-fsc": half_maps.MODEL_FSC,
    "compare": compare.COMPARE,
    "orientations": particle_sets.ORIENTATIONS,
    "audit": particle_sets.AUDIT,
    "convert": convert.CONVERT,
    "reslog": reslog.RESLOG,
    "tune-ssri": tune.TUNE_SSRI,
    "deposit": deposit.DEPOSIT,
    "simulate": simulate.SIMULATE,
    "demo": refine.DEMO,
    "report": refine.REPORT,
}

SHARED = ("refine", "resume")  # commands that can run in several processes


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
    with second_interrupt_ends(), distributed.one_voice():
        return _run(words)


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
    return f"{said}; go on with: halfmap resume {out}" if (out / "checkpoint" / "state").exists() else said
