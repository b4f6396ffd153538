"""The options of ``halfmap reslog`` and ``halfmap tune-ssri``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from halfmap.options import add_options
from halfmap.settings.reslog import ManyResLogSettings, ResLogSettings
from halfmap.settings.tune import TuneSsriSettings


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


def tune_ssri_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, TuneSsriSettings)
    parser.usage = ("halfmap tune-ssri RUN [--alphas LIST] [--betas LIST] [--gammas LIST] [--eps-gradients LIST]\n"
                    "                         [options]")
    parser.epilog = ("Searches alpha, then beta, gamma and eps', each with the others held. Every trial is a whole "
                     "refinement; the same command goes on where it was stopped, and trials that are done are not "
                     "repeated when lists grow. The half-map FSC chooses, so a few bits cross between half sets; "
                     "halfmap refine --ss-parameters cross-validated needs no search.")
