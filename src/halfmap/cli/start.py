"""``halfmap start``: a starting map from images alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import chosen, settings_file
from halfmap.options import add_options, table
from halfmap.settings.commands import command_line
from halfmap.settings.start import StartSettings, validated_start

NOT_FOUND = 1  # exit status of a start that did not succeed


def start_options(parser: argparse.ArgumentParser) -> None:
    settings_file(parser)
    add_options(parser, StartSettings)
    parser.usage = "halfmap start particles.star --diameter A --out folder [--symmetry group] [--starts 8] [options]"
    parser.epilog = ("Exit status 1: no two starts found the same map; the page says why. The map is on the grey scale "
                     "of the images and ready for halfmap refine --map. A command that was stopped goes on when it is "
                     "given again, also by another number of processes.")


def run_start(arguments: argparse.Namespace) -> int:
    return 0 if found_by(chosen(arguments, StartSettings)) else NOT_FOUND


def found_by(wanted: StartSettings) -> bool:
    """Find a map, write its page, and say whether starts agree. True in processes that only help the first."""
    settings = validated_start(wanted)
    from halfmap.report.pages.start import StartPage, write_start_page
    from halfmap.workflows.start import start

    def report(**seen: Any) -> Path:
        told: dict[str, Any] = {"settings": table(settings), "version": __version__, "command": command_line(settings)}
        return write_start_page(settings.out, StartPage(**told, **seen))

    found = start(settings, report)
    print(f"Finished: {settings.out / 'report.html'}")
    return found is None or found.succeeded
