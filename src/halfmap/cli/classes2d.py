"""``halfmap classes2d``: two-dimensional class means."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import chosen, settings_file
from halfmap.options import add_options, table
from halfmap.settings.classes2d import Classes2dSettings, validated_classes2d
from halfmap.settings.commands import command_line


def classes2d_options(parser: argparse.ArgumentParser) -> None:
    settings_file(parser)
    add_options(parser, Classes2dSettings)
    parser.usage = "halfmap classes2d particles.star --diameter A --out folder [--classes N] [options]"
    parser.epilog = ("Images are read once and kept in memory, by several processes each its part. A command that was "
                     "stopped goes on after its last iteration when it is given again, also by another number of "
                     "processes.")


def run_classes2d(arguments: argparse.Namespace) -> None:
    asked = chosen(arguments, Classes2dSettings)
    settings = validated_classes2d(asked)
    from halfmap.report.pages.classes2d import Classes2dPage, write_classes2d_page
    from halfmap.workflows.classes2d import classes2d

    def report(**seen: Any) -> Path:
        """Write report.html. seen: fields of a Classes2dPage, a class that no workflow may import."""
        shown = Classes2dPage(settings=table(settings), version=__version__, command=command_line(asked), **seen)
        return write_classes2d_page(settings.out, shown)

    classes2d(settings, report=report)
