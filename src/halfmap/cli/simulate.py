"""The options of ``halfmap simulate``."""

from __future__ import annotations

import argparse

from halfmap.options import add_options
from halfmap.settings.simulate import SimulateSettings


def simulate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SimulateSettings)
