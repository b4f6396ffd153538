"""``halfmap convert``: particles between RELION's format and cryoSPARC's, and optics groups divided."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import given
from halfmap.options import add_options, build, table
from halfmap.settings.convert import ConvertSettings, convert_command, groups_page, validated_convert


def convert_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ConvertSettings)
    parser.usage = ("halfmap convert particles.cs particles.star [options]\n"
                    "       halfmap convert particles.star particles.cs [options]\n"
                    "       halfmap convert particles.star grouped.star --group-by beam-shift")
    parser.epilog = ("--group-by divides optics groups and never merges them; the new ones have the values of the old, "
                     "and a page beside the file, OUT_groups.html, shows them. The names that EPU gives tell the place "
                     "within a hole. Where the beam was also shifted from hole to hole, names do not say it: give "
                     "EPU's XML files (--xml), or the shifts as two columns of numbers.")


def run_convert(arguments: argparse.Namespace) -> None:
    settings = validated_convert(build(ConvertSettings, given(arguments, ConvertSettings)))
    from halfmap.report.pages.optics_groups import OpticsGroupsPage, write_optics_groups_page
    from halfmap.workflows.convert import convert

    def report(**seen: Any) -> Path:
        """Write the page of the groups. seen: fields of an OpticsGroupsPage, a class that no workflow may import."""
        shown = OpticsGroupsPage(settings=table(settings), version=__version__, command=convert_command(settings),
                                 **seen)
        return write_optics_groups_page(groups_page(settings.out), shown)

    convert(settings, report)
