"""``halfmap expand``: every image at all poses that a point group makes equivalent."""

from __future__ import annotations

import argparse

from halfmap.cli.command import given
from halfmap.options import add_options, build
from halfmap.settings.expand import ExpandSettings, validated_expand


def expand_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ExpandSettings)
    parser.usage = ("halfmap expand RUN --out expanded.star [--symmetry group]\n"
                    "       halfmap expand particles.star --symmetry group --out expanded.star")


def run_expand(arguments: argparse.Namespace) -> None:
    settings = validated_expand(build(ExpandSettings, given(arguments, ExpandSettings)))
    from halfmap.workflows.expand import expand

    expand(settings)
