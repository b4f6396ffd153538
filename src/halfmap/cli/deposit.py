"""The options of ``halfmap deposit``."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.deposit import DepositSettings


def deposit_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, DepositSettings)
    parser.usage = "halfmap deposit RUN OUT [options]"
