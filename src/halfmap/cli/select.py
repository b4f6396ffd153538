"""``halfmap select``: the particles of a run that pass its own measures."""

from __future__ import annotations

import argparse

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.select import SelectSettings, validated_select


def select_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SelectSettings)
    parser.usage = ("halfmap select RUN --out clean.star [options]\n"
                    "       halfmap select RUN --classes 1 2 5 --out good.star [options]\n"
                    "       halfmap select particles.star --out clean.star [options]")


def run_select(arguments: argparse.Namespace) -> None:
    settings = validated_select(build(SelectSettings, given(arguments, SelectSettings)))
    from halfmap.workflows.select import select

    select(settings)
