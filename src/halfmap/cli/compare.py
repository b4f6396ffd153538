"""``halfmap compare``: runs of the same particles side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import given
from halfmap.options import add_options, build, table
from halfmap.settings.compare import CompareSettings, validated_compare


def compare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN",
                        help="folders of two or more refinements of the same particles; the first is what the others "
                             "are compared with")
    add_options(parser, CompareSettings)
    parser.usage = "halfmap compare RUN_A RUN_B [RUN_C ...] [options]"


def run_compare(arguments: argparse.Namespace) -> None:
    runs, settings = validated_compare(arguments.runs, build(CompareSettings, given(arguments, CompareSettings)))
    from halfmap.report.pages.compare import ComparedRuns, write_compare_report
    from halfmap.workflows.compare import compare

    out = settings.out
    assert out is not None  # named by validated_compare

    def report(**seen: Any) -> Path:
        """Write compare.html and compare.svg. seen: fields of a ComparedRuns, which no workflow may import."""
        return write_compare_report(out, ComparedRuns(settings=table(settings), version=__version__, **seen))

    compare(runs, settings, report=report)
