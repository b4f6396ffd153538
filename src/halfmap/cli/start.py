"""The options of ``halfmap start``."""

from __future__ import annotations

import argparse

from halfmap.cli.command import settings_file
from halfmap.options import add_options
from halfmap.settings.start import StartSettings


def start_options(parser: argparse.ArgumentParser) -> None:
    settings_file(parser)
    add_options(parser, StartSettings)
    parser.usage = "halfmap start particles.star --diameter A --out folder [--symmetry group] [--starts 8] [options]"
    parser.epilog = ("Exit status 1: no two starts found the same map; the page says why. The map is on the grey scale "
                     "of the images and ready for halfmap refine --map. A command that was stopped goes on when it is "
                     "given again, also by another number of processes.")
