"""``halfmap inspect``: what is in a file, and whether a refinement could begin from it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import given
from halfmap.options import add_options, build, table
from halfmap.settings.inspect import InspectSettings, inspect_command, validated_inspect


def inspect_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, InspectSettings)
    parser.usage = "halfmap inspect FILE [options]\n       halfmap inspect RUN [options]"
    parser.epilog = ("Exit status: 0 where a refinement could begin, 1 where something would stop it. Memory and time "
                     "are estimates.")


def run_inspect(arguments: argparse.Namespace) -> int:
    asked = build(InspectSettings, given(arguments, InspectSettings))
    settings = validated_inspect(asked)
    from halfmap.report.pages.inspect import InspectedPage, write_inspected_page
    from halfmap.workflows.inspect import run

    def report(**seen: Any) -> Path:
        """Write inspect.html. seen: fields of an InspectedPage, a class that no workflow may import."""
        assert settings.out is not None  # otherwise no page is wanted
        return write_inspected_page(settings.out, InspectedPage(settings=table(settings), version=__version__,
                                                                command=inspect_command(asked), **seen))

    return 1 if run(settings, report=report).faults else 0
