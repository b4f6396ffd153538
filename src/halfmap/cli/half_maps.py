"""Commands on finished half maps: ``regularise``, ``postprocess``, ``fsc``, ``local-resolution``, ``model-fsc``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from halfmap import __version__
from halfmap.cli.command import chosen, citing, given, note_broken_plugs, settings_file
from halfmap.options import add_options, build, table
from halfmap.settings.analysis import (
    LocalResolutionSettings,
    ModelFscSettings,
    validated_local_resolution,
    validated_model_fsc,
    validation_command,
)
from halfmap.settings.commands import command_line
from halfmap.settings.postprocess import PostprocessSettings, postprocess_command, validated_postprocess
from halfmap.settings.regularise import RegulariseSettings, validated_pair


def regularise_options(parser: argparse.ArgumentParser) -> None:
    note_broken_plugs()
    settings_file(parser)
    add_options(parser, RegulariseSettings)
    parser.usage = "halfmap regularise --half1 half1.mrc --half2 half2.mrc --regulariser NAME --out folder [options]"
    parser.epilog = "relion_postprocess's spellings (--i --i2 --o) are accepted too."


def run_regularise(arguments: argparse.Namespace) -> None:
    settings = validated_pair(chosen(arguments, RegulariseSettings))
    from halfmap.report.pages.regularise import FilteredPair, write_filtered_report
    from halfmap.workflows.regularise import regularise

    def report(**seen: Any) -> Path:
        """Write report.html. seen: fields of a FilteredPair, a class that no workflow may import."""
        shown = FilteredPair(settings=table(settings), version=__version__, command=command_line(settings),
                             citing=citing(), **seen)
        return write_filtered_report(settings.out, shown)

    regularise(settings, report=report)


def postprocess_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PostprocessSettings)
    parser.add_argument("--skip_fsc_weighting", action="store_const", const=False, dest="fsc_weight",
                        default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--auto_bfac", action="store_true", dest="relion_always", help=argparse.SUPPRESS)
    parser.usage = "halfmap postprocess RUN [options]\n       halfmap postprocess --half1 a.mrc --half2 b.mrc [options]"
    parser.epilog = ("relion_postprocess's spellings (--i --i2 --o --mask --auto_mask --auto_bfac --adhoc_bfac "
                     "--autob_lowres --autob_highres --mtf --mtf_angpix --low_pass --skip_fsc_weighting) are accepted "
                     "too.")


def run_postprocess(arguments: argparse.Namespace) -> None:
    settings = validated_postprocess(build(PostprocessSettings, given(arguments, PostprocessSettings)))
    from halfmap.report.pages.postprocess import PostprocessedMaps, write_postprocess_report
    from halfmap.workflows.postprocess import postprocess

    out = settings.out
    assert out is not None  # named by validated_postprocess

    def report(**seen: Any) -> Path:
        """Write postprocess.html. seen: fields of a PostprocessedMaps, a class that no workflow may import."""
        shown = PostprocessedMaps(settings=table(settings), version=__version__,
                                  command=postprocess_command(settings), **seen)
        return write_postprocess_report(out, shown)

    postprocess(settings, report=report)


def fsc_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("half1", type=Path, metavar="half1.mrc", help="raw half map")
    parser.add_argument("half2", type=Path, metavar="half2.mrc", help="the other raw half map")
    parser.add_argument("--mask", type=Path, metavar="mask.mrc",
                        help="mask for the masked and corrected curves (default: made from the maps)")
    parser.add_argument("--diameter", type=float, metavar="A",
                        help="of the spherical mask, which also bounds the one made from the maps [A]")
    parser.add_argument("--out", type=Path, metavar="folder",
                        help="write the curves here (default: only print)")


def run_fsc(arguments: argparse.Namespace) -> None:
    from halfmap.workflows.fsc_command import run

    run(arguments.half1, arguments.half2, arguments.mask, arguments.out, arguments.diameter)


def local_resolution_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, LocalResolutionSettings)
    parser.usage = ("halfmap local-resolution RUN [options]\n"
                    "       halfmap local-resolution --half1 a.mrc --half2 b.mrc [options]")


def run_local_resolution(arguments: argparse.Namespace) -> None:
    settings = validated_local_resolution(build(LocalResolutionSettings, given(arguments, LocalResolutionSettings)))
    from halfmap.report.pages.local_resolution import LocalResolutionPage, write_local_resolution_page
    from halfmap.workflows.local_resolution import run

    out = settings.out
    assert out is not None  # named by validated_local_resolution

    def report(**seen: Any) -> Path:
        """Write local_resolution.html. seen: fields of a LocalResolutionPage, a class that no workflow may import."""
        shown = LocalResolutionPage(settings=table(settings), version=__version__,
                                    command=validation_command(settings), **seen)
        return write_local_resolution_page(out, shown)

    run(settings, report=report)


def model_fsc_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ModelFscSettings)
    parser.usage = "halfmap model-fsc map.mrc model.cif [options]"


def run_model_fsc(arguments: argparse.Namespace) -> None:
    settings = validated_model_fsc(build(ModelFscSettings, given(arguments, ModelFscSettings)))
    from halfmap.workflows.model_fsc import run

    run(settings)
