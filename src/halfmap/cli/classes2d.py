"""The options of ``halfmap classes2d``."""

from __future__ import annotations

import argparse

from halfmap.cli.command import settings_file
from halfmap.options import add_options
from halfmap.settings.classes2d import Classes2dSettings


def classes2d_options(parser: argparse.ArgumentParser) -> None:
    settings_file(parser)
    add_options(parser, Classes2dSettings)
    parser.usage = "halfmap classes2d particles.star --diameter A --out folder [--classes N] [options]"
    parser.epilog = ("Images are read once and kept in memory, by several processes each its part. A command that was "
                     "stopped goes on after its last iteration when it is given again, also by another number of "
                     "processes.")
