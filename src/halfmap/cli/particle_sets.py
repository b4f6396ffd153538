"""The options of commands on particle sets."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.expand import ExpandSettings
from halfmap.settings.particle_sets import AuditSettings, OrientationsSettings
from halfmap.settings.select import SelectSettings
from halfmap.settings.subtract import SubtractSettings


def orientations_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, OrientationsSettings)
    parser.usage = ("halfmap orientations RUN [options]\n"
                    "       halfmap orientations particles.star [--half1 a.mrc --half2 b.mrc] [options]")


def audit_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, AuditSettings)
    parser.usage = "halfmap audit particles.star [options]\n       halfmap audit RUN [options]"
    parser.epilog = ("Exit status: 0 where no particle is there twice, 1 where one is, in both half sets or in one; "
                     "remarks do not count.")


def select_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SelectSettings)
    parser.usage = ("halfmap select RUN --out clean.star [options]\n"
                    "       halfmap select RUN --classes 1 2 5 --out good.star [options]\n"
                    "       halfmap select particles.star --out clean.star [options]")


def expand_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ExpandSettings)
    parser.usage = ("halfmap expand RUN --out expanded.star [--symmetry group]\n"
                    "       halfmap expand particles.star --symmetry group --out expanded.star")


def subtract_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SubtractSettings)
    parser.usage = "halfmap subtract RUN --mask keep.mrc --out folder [--recentre] [--box N] [options]"
