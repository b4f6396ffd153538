"""``halfmap ctf-refine``: defocus, astigmatism and aberrations from images at their poses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import given
from halfmap.ctf_refinement.parameters import PARAMETERS
from halfmap.options import add_options, build, table
from halfmap.settings.ctf_refine import CtfRefineSettings, ctf_refine_command, validated_ctf_refine


def ctf_refine_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, CtfRefineSettings)
    parser.usage = ("halfmap ctf-refine RUN --fit defocus,tilt,... --out folder [options]\n"
                    "       halfmap ctf-refine particles.star|.cs --half1 a.mrc --half2 b.mrc --diameter A --fit ... "
                    "--out folder [options]")
    listed = "; ".join(f"{one.name}: {one.meaning}" for one in PARAMETERS.values())
    parser.epilog = (f"--fit takes any of these, with commas or blanks between them: {listed}. Values of micrographs "
                     "are fitted in each half set by itself; those of optics groups are common to both.")


def run_ctf_refine(arguments: argparse.Namespace) -> None:
    settings = validated_ctf_refine(build(CtfRefineSettings, given(arguments, CtfRefineSettings)))
    from halfmap.report.pages.ctf_refine import CtfRefinePage, write_ctf_refine_page
    from halfmap.workflows.ctf_refine import ctf_refine

    def report(**seen: Any) -> Path:
        """Write ctf_refine.html. seen: fields of a CtfRefinePage, a class that no workflow may import."""
        shown = CtfRefinePage(settings=table(settings), version=__version__, command=ctf_refine_command(settings),
                              **seen)
        return write_ctf_refine_page(settings.out, shown)

    ctf_refine(settings, report=report)
