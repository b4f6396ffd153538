"""The options of commands on finished half maps."""

from __future__ import annotations

import argparse

from halfmap.cli.command import note_broken_plugs, settings_file
from halfmap.options import add_options
from halfmap.settings.analysis import LocalResolutionSettings, ModelFscSettings
from halfmap.settings.fsc import FscSettings
from halfmap.settings.postprocess import PostprocessSettings
from halfmap.settings.regularise import RegulariseSettings


def regularise_options(parser: argparse.ArgumentParser) -> None:
    note_broken_plugs()
    settings_file(parser)
    add_options(parser, RegulariseSettings)
    parser.usage = "halfmap regularise --half1 half1.mrc --half2 half2.mrc --regulariser NAME --out folder [options]"
    parser.epilog = "relion_postprocess's spellings (--i --i2 --o) are accepted too."


def postprocess_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PostprocessSettings)
    parser.add_argument("--skip_fsc_weighting", action="store_const", const=False, dest="fsc_weight",
                        default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--auto_bfac", action="store_true", dest="relion_always", help=argparse.SUPPRESS)
    parser.usage = "halfmap postprocess RUN [options]\n       halfmap postprocess --half1 a.mrc --half2 b.mrc [options]"
    parser.epilog = ("relion_postprocess's spellings (--i --i2 --o --mask --auto_mask --auto_bfac --adhoc_bfac "
                     "--autob_lowres --autob_highres --mtf --mtf_angpix --low_pass --skip_fsc_weighting) are accepted "
                     "too.")


def fsc_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, FscSettings)
    parser.usage = "halfmap fsc half1.mrc half2.mrc [options]"


def local_resolution_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, LocalResolutionSettings)
    parser.usage = ("halfmap local-resolution RUN [options]\n"
                    "       halfmap local-resolution --half1 a.mrc --half2 b.mrc [options]")


def model_fsc_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ModelFscSettings)
    parser.usage = "halfmap model-fsc map.mrc model.cif [options]"
