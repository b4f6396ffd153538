"""``halfmap classify``: images sorted by the map that explains them best."""

from __future__ import annotations

import argparse

from halfmap.cli.command import chosen, settings_file
from halfmap.options import add_options
from halfmap.settings.classify import ClassifySettings, validated_classify


def classify_options(parser: argparse.ArgumentParser) -> None:
    settings_file(parser)
    add_options(parser, ClassifySettings)
    parser.usage = ("halfmap classify RUN --classes K --out folder [options]\n"
                    "       halfmap classify particles.star --classes K --map map.mrc [b.mrc ...] --diameter A --out "
                    "folder [options]")


def run_classify(arguments: argparse.Namespace) -> None:
    settings = validated_classify(chosen(arguments, ClassifySettings))
    from halfmap.refinement.classify import classify

    classify(settings)
    print(f"Finished: {settings.out}")
