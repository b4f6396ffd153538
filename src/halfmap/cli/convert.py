"""The options of ``halfmap convert``."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.convert import ConvertSettings


def convert_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ConvertSettings)
    parser.usage = ("halfmap convert particles.cs particles.star [options]\n"
                    "       halfmap convert particles.star particles.cs [options]\n"
                    "       halfmap convert particles.star grouped.star --group-by beam-shift")
    parser.epilog = ("--group-by divides optics groups and never merges them; the new ones have the values of the old, "
                     "and a page beside the file, OUT_groups.html, shows them. The names that EPU gives tell the place "
                     "within a hole. Where the beam was also shifted from hole to hole, names do not say it: give "
                     "EPU's XML files (--xml), or the shifts as two columns of numbers.")
