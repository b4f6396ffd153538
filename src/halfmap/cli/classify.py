"""The options of ``halfmap classify``."""

from __future__ import annotations

import argparse

from halfmap.cli.command import note_broken_plugs, settings_file
from halfmap.options import add_options
from halfmap.settings.classify import ClassifySettings


def classify_options(parser: argparse.ArgumentParser) -> None:
    note_broken_plugs()
    settings_file(parser)
    add_options(parser, ClassifySettings)
    parser.usage = ("halfmap classify RUN --classes K --out folder [options]\n"
                    "       halfmap classify particles.star --classes K --map map.mrc [b.mrc ...] --diameter A --out "
                    "folder [options]")
