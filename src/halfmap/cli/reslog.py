"""``halfmap reslog``: resolution against the number of particles."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import citing, given
from halfmap.options import add_options, build
from halfmap.settings.reslog import ManyResLogSettings, ResLogSettings, reslog_table, validated_reslog


def reslog_options(parser: argparse.ArgumentParser) -> None:
    about = {field.name: field.metadata for field in dataclasses.fields(ManyResLogSettings)}
    parser.add_argument("runs", nargs="*", type=Path, metavar=about["runs"]["short"], help=about["runs"]["help"])
    parser.add_argument("--regulariser", dest="regularisers", action="append", default=argparse.SUPPRESS,
                        choices=about["regularisers"]["choices"],
                        help=f"{about['regularisers']['help']} (default: {about['regularisers']['none']})")
    add_options(parser, ResLogSettings)
    parser.usage = ("halfmap reslog RUN [RUN ...] [options]\n"
                    "       halfmap reslog RUN --refine [--regulariser NAME ...] [options]")
    parser.epilog = ("By default poses are kept from all particles, in one pass over the images: every subset is "
                     "better aligned than it could align itself (optimistic), so the curves measure the data, not the "
                     "method. --refine measures the method: subsets are refined one after the other into "
                     "out/COUNT/REGULARISER, and the same command goes on where it was stopped.")


def run_reslog(arguments: argparse.Namespace) -> None:
    values = given(arguments, ManyResLogSettings)
    values |= {name: tuple(values[name]) for name in ("runs", "regularisers") if name in values}
    settings = validated_reslog(build(ManyResLogSettings, values))
    from halfmap.report.pages.reslog import ResLogPage, write_reslog_page
    from halfmap.report.pages.run_folder import report_from_run
    from halfmap.workflows.reslog import reslog

    out = settings.out
    assert out is not None  # named by validated_reslog

    def report(**seen: Any) -> Path:
        """Write reslog.html and reslog.svg. seen: fields of a ResLogPage, a class that no workflow may import."""
        return write_reslog_page(out, ResLogPage(settings=reslog_table(settings), version=__version__, **seen))

    reslog(settings, report=report, finish=lambda folder: report_from_run(folder, citing()))
