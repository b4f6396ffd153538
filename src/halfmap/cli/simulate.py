"""``halfmap simulate``: particle images of an atomic model."""

from __future__ import annotations

import argparse

from halfmap.cli.command import Command, given
from halfmap.options import add_options, build
from halfmap.settings.simulate import SimulateSettings


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SimulateSettings)


def _simulate(arguments: argparse.Namespace) -> None:
    settings = build(SimulateSettings, given(arguments, SimulateSettings))
    from halfmap.simulation.simulate import simulate

    simulate(settings)


SIMULATE = Command("make particle images from an atomic model", _simulate_options, _simulate)
