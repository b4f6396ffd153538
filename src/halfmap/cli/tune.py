"""``halfmap tune-ssri``: search the parameters of sparse_smooth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import citing, given
from halfmap.options import add_options, build, table
from halfmap.settings.tune import TuneSsriSettings, validated_tune


def tune_ssri_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, TuneSsriSettings)
    parser.usage = ("halfmap tune-ssri RUN [--alphas LIST] [--betas LIST] [--gammas LIST] [--eps-gradients LIST]\n"
                    "                         [options]")
    parser.epilog = ("Searches alpha, then beta, gamma and eps', each with the others held. Every trial is a whole "
                     "refinement; the same command goes on where it was stopped, and trials that are done are not "
                     "repeated when lists grow. The half-map FSC chooses, so a few bits cross between half sets; "
                     "halfmap refine --ss-parameters cross-validated needs no search.")


def run_tune_ssri(arguments: argparse.Namespace) -> None:
    settings = validated_tune(build(TuneSsriSettings, given(arguments, TuneSsriSettings)))
    from halfmap.report.pages.run_folder import report_from_run
    from halfmap.report.pages.tune_ssri import TuneSsriPage, write_tune_ssri_page
    from halfmap.workflows.tune_ssri import tune_ssri

    out = settings.out
    assert out is not None  # named by validated_tune

    def report(**seen: Any) -> Path:
        """Write tune_ssri.html. seen: fields of a TuneSsriPage, a class that no workflow may import."""
        return write_tune_ssri_page(out, TuneSsriPage(settings=table(settings), version=__version__, **seen))

    tune_ssri(settings, report=report, finish=lambda folder: report_from_run(folder, citing()))
