"""``halfmap convert``: particles between RELION's format and cryoSPARC's."""

from __future__ import annotations

import argparse

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.convert import ConvertSettings, validated_convert


def convert_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ConvertSettings)
    parser.usage = ("halfmap convert particles.cs particles.star [options]\n"
                    "       halfmap convert particles.star particles.cs [options]")


def run_convert(arguments: argparse.Namespace) -> None:
    settings = validated_convert(build(ConvertSettings, given(arguments, ConvertSettings)))
    from halfmap.workflows.convert import convert

    convert(settings)
