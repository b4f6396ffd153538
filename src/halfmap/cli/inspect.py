"""The options of ``halfmap inspect``."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.inspect import InspectSettings


def inspect_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, InspectSettings)
    parser.usage = "halfmap inspect FILE [options]\n       halfmap inspect RUN [options]"
    parser.epilog = ("Exit status: 0 where a refinement could begin, 1 where something would stop it. Memory and time "
                     "are estimates.")
