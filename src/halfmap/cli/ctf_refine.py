"""The options of ``halfmap ctf-refine``."""

from __future__ import annotations

import argparse

from halfmap.ctf_refinement.parameters import PARAMETERS
from halfmap.options import add_options
from halfmap.settings.ctf_refine import CtfRefineSettings


def ctf_refine_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, CtfRefineSettings)
    parser.usage = ("halfmap ctf-refine RUN --fit defocus,tilt,... --out folder [options]\n"
                    "       halfmap ctf-refine particles.star|.cs --half1 a.mrc --half2 b.mrc --diameter A --fit ... "
                    "--out folder [options]")
    listed = "; ".join(f"{one.name}: {one.meaning}" for one in PARAMETERS.values())
    parser.epilog = (f"--fit takes any of these, with commas or blanks between them: {listed}. Values of micrographs "
                     "are fitted in each half set by itself; those of optics groups are common to both.")
