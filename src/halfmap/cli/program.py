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

from halfmap import __version__
from halfmap.cli.command import chosen
from halfmap.commands import table
from halfmap.errors import InputError
from halfmap.options import OptionParser
from halfmap.runtime import company, distributed
from halfmap.runtime.interrupts import second_interrupt_ends
from halfmap.settings.checks import stopped


@dataclass(frozen=True)
class Command:
    """One command of ``halfmap``: its summary in a line, the function that declares its options, and the one that runs
    it and returns an exit status."""

    summary: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _command(name: str, entry: table.Command) -> Command:
    """A command whose files in halfmap.cli and halfmap.commands are imported when one of its functions is called."""

    def options(parser: argparse.ArgumentParser) -> None:
        getattr(import_module(f"halfmap.cli.{entry.file}"), f"{table.identifier(name)}_options")(parser)

    def run(arguments: argparse.Namespace) -> int:
        done = table.starter(name)(chosen(arguments, table.settings_of(name)))
        return 0 if done.succeeded else 1

    return Command(entry.summary, options, run)


COMMANDS = {name: _command(name, entry) for name, entry in table.COMMANDS.items()}


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
        if distributed.world() > 1 and arguments.command not in table.SHARED:
            raise InputError(f"halfmap {arguments.command} runs in one process; start it without torchrun")
        for note in dict.fromkeys(getattr(arguments, "relion_notes", ())):
            if distributed.rank() == 0:
                print(f"halfmap: note: {note}", file=sys.stderr)
        return COMMANDS[arguments.command].run(arguments)
    except InputError as error:
        if distributed.speaks():
            print(f"halfmap: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if distributed.speaks():
            print(f"\nhalfmap: interrupted; {_kept(arguments)}", file=sys.stderr)
        return 130


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
