"""``halfmap simulate``: particle images of an atomic model."""

from __future__ import annotations

import argparse

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.simulate import SimulateSettings


def simulate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SimulateSettings)


def run_simulate(arguments: argparse.Namespace) -> None:
    settings = build(SimulateSettings, given(arguments, SimulateSettings))
    from halfmap.simulation.simulate import simulate

    simulate(settings)
