"""``halfmap subtract``: particle images less the signal of what a mask leaves out."""

from __future__ import annotations

import argparse

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.subtract import SubtractSettings, validated_subtract


def subtract_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SubtractSettings)
    parser.usage = "halfmap subtract RUN --mask keep.mrc --out folder [--recentre] [--box N] [options]"


def run_subtract(arguments: argparse.Namespace) -> None:
    settings = validated_subtract(build(SubtractSettings, given(arguments, SubtractSettings)))
    from halfmap.workflows.subtract import subtract

    subtract(settings)
