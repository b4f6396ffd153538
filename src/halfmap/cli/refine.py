"""The options of ``halfmap refine``, ``resume``, ``demo`` and ``report``."""

from __future__ import annotations

import argparse

from halfmap.cli.command import note_broken_plugs, settings_file
from halfmap.cli.relion import RELION_ALWAYS, RELION_NOTES, Note
from halfmap.options import add_options
from halfmap.settings.demo import DemoSettings, ReportSettings
from halfmap.settings.refine import RefineSettings
from halfmap.settings.resume import ResumeSettings


def refine_options(parser: argparse.ArgumentParser) -> None:
    note_broken_plugs()
    settings_file(parser)
    add_options(parser, RefineSettings)
    parser.add_argument(*RELION_ALWAYS, action="store_true", dest="relion_always", help=argparse.SUPPRESS)
    for name, instead in RELION_NOTES.items():
        parser.add_argument(name, action=Note, nargs=instead.values, dest="relion_notes", default=argparse.SUPPRESS,
                            help=argparse.SUPPRESS)
    parser.usage = "halfmap refine particles.star --diameter A --out folder [--map map.mrc] [options]"
    parser.epilog = ("RELION's spellings (--i --ref --o --sym --particle_diameter --ini_high "
                     "--solvent_mask --flatten_solvent --low_resol_join_halves --pad --j --random_seed) are "
                     "accepted too; for its other refinement options a note says what is done instead. There is no "
                     "mpirun: --j is the number of threads of all --processes together.")


def resume_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ResumeSettings)
    parser.usage = ("halfmap resume RUN [--threads N] [--processes N] [--data-dir folder] [--max-memory GB]\n"
                    "                          [--scratch folder]")
    parser.epilog = "All other settings are those that the run was begun with, and cannot be changed."


def demo_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, DemoSettings)


def report_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ReportSettings)
    parser.usage = "halfmap report RUN"
