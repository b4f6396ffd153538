"""Commands on particle sets: ``orientations`` and ``audit``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import given
from halfmap.options import add_options, build, table
from halfmap.settings.particle_sets import (
    AuditSettings,
    OrientationsSettings,
    orientations_command,
    validated_audit,
    validated_orientations,
)


def orientations_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, OrientationsSettings)
    parser.usage = ("halfmap orientations RUN [options]\n"
                    "       halfmap orientations particles.star [--half1 a.mrc --half2 b.mrc] [options]")


def run_orientations(arguments: argparse.Namespace) -> None:
    asked = build(OrientationsSettings, given(arguments, OrientationsSettings))
    settings = validated_orientations(asked)
    from halfmap.report.pages.orientations import OrientationsPage, write_orientations_page
    from halfmap.workflows.orientations import run

    out = settings.out
    assert out is not None  # named by validated_orientations

    def report(**seen: Any) -> Path:
        """Write orientations.html. seen: fields of an OrientationsPage, a class that no workflow may import."""
        shown = OrientationsPage(settings=table(settings), version=__version__, command=orientations_command(asked),
                                 **seen)
        return write_orientations_page(out, shown)

    run(settings, report=report)


def audit_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, AuditSettings)
    parser.usage = "halfmap audit particles.star [options]\n       halfmap audit RUN [options]"
    parser.epilog = ("Exit status: 0 where no particle is there twice, 1 where one is, in both half sets or in one; "
                     "remarks do not count.")


def run_audit(arguments: argparse.Namespace) -> int:
    settings = validated_audit(build(AuditSettings, given(arguments, AuditSettings)))
    from halfmap.workflows.audit import run

    return 1 if run(settings).leaks else 0
