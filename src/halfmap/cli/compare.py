"""The options of ``halfmap compare``."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.compare import CompareSettings


def compare_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, CompareSettings)
    parser.usage = "halfmap compare RUN_A RUN_B [RUN_C ...] [options]"
