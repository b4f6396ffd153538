"""The ``halfmap`` command: parse, hand over to a workflow, and say in one line what a user did wrong.

Nothing heavy is imported until a command is known and its options are right: help and errors are immediate.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.options import Settings, add_options, build, read_toml
from halfmap.settings import (
    RefineSettings,
    RegulariseSettings,
    SimulateSettings,
    command_line,
    table,
    validated,
    validated_pair,
)
from halfmap.settings.analysis import (
    LocalResolutionSettings,
    ModelFscSettings,
    validated_local_resolution,
    validated_model_fsc,
    validation_command,
)
from halfmap.settings.postprocess import PostprocessSettings, postprocess_command, validated_postprocess
from halfmap.settings.regularisers import RegulariserOptions

Command = Callable[[argparse.Namespace], None]

_POSES = "poses are refined continuously, from a grid that --angular-step sets (automatic by default)"
_STREAM = "images are read ahead from where they are"
_MEMORY = "the number of images worked on at once is automatic (--batch sets it)"
_SIZE = "the particles decide the map's box and pixel size"

# RELION's options without a counterpart: those that ask for what is always done, and for the others how many
# values they take and what is done instead.
RELION_ALWAYS = ("--auto_refine", "--split_random_halves", "--ctf", "--norm", "--zero_mask",
                 "--dont_combine_weights_via_disc", "--no_parallel_disc_io")
RELION_NOTES: dict[str, tuple[int | str, str]] = {
    "--firstiter_cc": (0, "the intensity scale of the images is fitted (--scale)"),
    "--solvent_correct_fsc": (0, "the FSC inside the mask is always corrected by phase randomisation"),
    "--oversampling": (1, _POSES),
    "--healpix_order": (1, _POSES),
    "--auto_local_healpix_order": (1, _POSES),
    "--offset_step": (1, _POSES),
    "--offset_range": (1, "RELION counts pixels here; --offset-range takes A, and is automatic by default"),
    "--trust_ref_size": (0, _SIZE),
    "--angpix": (1, _SIZE),
    "--gpu": ("?", "--device chooses where to compute"),
    "--pool": (1, _MEMORY),
    "--preread_images": (0, _STREAM),
    "--scratch_dir": (1, _STREAM),
    "--pipeline_control": (1, "halfmap is not a RELION pipeline job"),
}


class _Parser(argparse.ArgumentParser):
    """Options are never guessed from a prefix, and a wrong one is an InputError like any other."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


class _Note(argparse.Action):
    """Keep the note of an option that is accepted and has no effect."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:
        notes = getattr(namespace, self.dest, ())
        setattr(namespace, self.dest, (*notes, f"{option_string}: {RELION_NOTES[str(option_string)][1]}"))


def _settings_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=Path, metavar="settings.toml",
                        help="take settings from an earlier run's file; options given here come first")


def _refine_options(parser: argparse.ArgumentParser) -> None:
    _settings_file(parser)
    add_options(parser, RefineSettings)
    parser.add_argument(*RELION_ALWAYS, action="store_true", dest="relion_always", help=argparse.SUPPRESS)
    for name, (count, _) in RELION_NOTES.items():
        parser.add_argument(name, action=_Note, nargs=count, dest="relion_notes", default=argparse.SUPPRESS,
                            help=argparse.SUPPRESS)
    parser.usage = "halfmap refine particles.star --map map.mrc --diameter A --out folder [options]"
    parser.epilog = ("RELION's spellings (--i --ref --o --sym --particle_diameter --ini_high "
                     "--solvent_mask --flatten_solvent --low_resol_join_halves --pad --j --random_seed) are "
                     "accepted too; for its other refinement options a note says what is done instead.")


def _given(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The settings that stand on the command line."""
    names = {field.name for field in dataclasses.fields(settings)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _chosen(arguments: argparse.Namespace, settings: type[Settings]) -> Settings:
    """The settings of a file, if one was named, under those on the command line."""
    values = read_toml(settings, arguments.settings) if arguments.settings else {}
    return build(settings, values | _given(arguments, settings))


def _citing() -> str:
    """What to cite for each regulariser, from the setting that chooses one."""
    (choice,) = (field for field in dataclasses.fields(RegulariserOptions) if field.name == "regulariser")
    return str(choice.metadata.get("reference", ""))


def _refine(arguments: argparse.Namespace) -> None:
    _run(_chosen(arguments, RefineSettings))


def _run(wanted: RefineSettings) -> None:
    """One refinement with its report."""
    settings = validated(wanted)
    from halfmap.report import Snapshot, write_report
    from halfmap.workflows.refine import refine

    told: dict[str, Any] = {
        "settings": table(settings), "symmetry": settings.symmetry, "version": __version__,
        "command": command_line(settings), "citing": _citing(),
    }

    def report(**seen: Any) -> Path:
        """Write report.html from the fields of a Snapshot, a class that no workflow may import."""
        return write_report(settings.out, Snapshot(**told, **seen))

    refine(settings, report=report)
    print(f"Finished: {settings.out / 'report.html'}")


def _regularise_options(parser: argparse.ArgumentParser) -> None:
    _settings_file(parser)
    add_options(parser, RegulariseSettings)
    parser.usage = "halfmap regularise --half1 half1.mrc --half2 half2.mrc --regulariser NAME --out folder [options]"
    parser.epilog = "relion_postprocess's spellings (--i --i2 --o) are accepted too."


def _regularise(arguments: argparse.Namespace) -> None:
    settings = validated_pair(_chosen(arguments, RegulariseSettings))
    from halfmap.report import FilteredPair, write_filtered_report
    from halfmap.workflows.regularise import regularise

    def report(**seen: Any) -> Path:
        """Write report.html from the fields of a FilteredPair, a class that no workflow may import."""
        shown = FilteredPair(settings=table(settings), version=__version__, command=command_line(settings),
                             citing=_citing(), **seen)
        return write_filtered_report(settings.out, shown)

    regularise(settings, report=report)


def _postprocess_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, PostprocessSettings)
    parser.add_argument("--skip_fsc_weighting", action="store_const", const=False, dest="fsc_weight",
                        default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--auto_bfac", action="store_true", dest="relion_always", help=argparse.SUPPRESS)
    parser.usage = "halfmap postprocess RUN [options]\n       halfmap postprocess --half1 a.mrc --half2 b.mrc [options]"
    parser.epilog = ("relion_postprocess's spellings (--i --i2 --o --mask --auto_mask --auto_bfac --adhoc_bfac "
                     "--autob_lowres --autob_highres --mtf --mtf_angpix --low_pass --skip_fsc_weighting) are accepted "
                     "too.")


def _postprocess(arguments: argparse.Namespace) -> None:
    settings = validated_postprocess(build(PostprocessSettings, _given(arguments, PostprocessSettings)))
    from halfmap.report import PostprocessedMaps, write_postprocess_report
    from halfmap.workflows.postprocess import postprocess

    out = settings.out
    assert out is not None  # named by validated_postprocess

    def report(**seen: Any) -> Path:
        """Write postprocess.html from the fields of a PostprocessedMaps, a class that no workflow may import."""
        shown = PostprocessedMaps(settings=table(settings), version=__version__,
                                  command=postprocess_command(settings), **seen)
        return write_postprocess_report(out, shown)

    postprocess(settings, report=report)


def _fsc_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("half1", type=Path, metavar="half1.mrc", help="raw half map")
    parser.add_argument("half2", type=Path, metavar="half2.mrc", help="the other raw half map")
    parser.add_argument("--mask", type=Path, metavar="mask.mrc",
                        help="mask for the masked and corrected curves (default: made from the maps)")
    parser.add_argument("--diameter", type=float, metavar="A",
                        help="of the spherical mask, which also bounds the one made from the maps [A]")
    parser.add_argument("--out", type=Path, metavar="folder",
                        help="write the curves here (default: only print)")


def _fsc(arguments: argparse.Namespace) -> None:
    from halfmap.workflows.fsc_command import run

    run(arguments.half1, arguments.half2, arguments.mask, arguments.out, arguments.diameter)


def _local_resolution_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, LocalResolutionSettings)
    parser.usage = ("halfmap local-resolution RUN [options]\n"
                    "       halfmap local-resolution --half1 a.mrc --half2 b.mrc [options]")


def _local_resolution(arguments: argparse.Namespace) -> None:
    settings = validated_local_resolution(build(LocalResolutionSettings, _given(arguments, LocalResolutionSettings)))
    from halfmap.report import LocalResolutionPage, write_local_resolution_page
    from halfmap.workflows.local_resolution import run

    out = settings.out
    assert out is not None  # named by validated_local_resolution

    def report(**seen: Any) -> Path:
        """Write local_resolution.html from the fields of a LocalResolutionPage, which no workflow may import."""
        shown = LocalResolutionPage(settings=table(settings), version=__version__,
                                    command=validation_command(settings), **seen)
        return write_local_resolution_page(out, shown)

    run(settings, report=report)


def _model_fsc_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, ModelFscSettings)
    parser.usage = "halfmap model-fsc map.mrc model.cif [options]"


def _model_fsc(arguments: argparse.Namespace) -> None:
    settings = validated_model_fsc(build(ModelFscSettings, _given(arguments, ModelFscSettings)))
    from halfmap.workflows.model_fsc import run

    run(settings)


def _simulate_options(parser: argparse.ArgumentParser) -> None:
    add_options(parser, SimulateSettings)


def _simulate(arguments: argparse.Namespace) -> None:
    settings = build(SimulateSettings, _given(arguments, SimulateSettings))
    from halfmap.workflows.simulate import simulate

    simulate(settings)


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("halfmap-demo"), metavar="folder",
                        help="folder for images and results (default: halfmap-demo)")
    parser.add_argument("--quick", action="store_true", help="half of the images, with less noise and coarser pixels")


def _demo(arguments: argparse.Namespace) -> None:
    from halfmap.workflows.demo import demo

    demo(arguments.out, arguments.quick, _run)


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")


def _report(arguments: argparse.Namespace) -> None:
    from halfmap.report import report_from_run

    print(report_from_run(arguments.run, _citing()))


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Command]] = {
    "refine": ("refine a map and the particles' poses", _refine_options, _refine),
    "regularise": ("filter two finished half maps with a regulariser", _regularise_options, _regularise),
    "postprocess": ("resolution, B factor and sharpened map of two half maps", _postprocess_options, _postprocess),
    "fsc": ("Fourier shell correlation of two half maps", _fsc_options, _fsc),
    "local-resolution": ("resolution of two half maps at every place", _local_resolution_options, _local_resolution),
    "model-fsc": ("Fourier shell correlation of a map and an atomic model", _model_fsc_options, _model_fsc),
    "simulate": ("make particle images from an atomic model", _simulate_options, _simulate),
    "demo": ("simulate a small membrane protein and refine it", _demo_options, _demo),
    "report": ("write a run's report.html anew", _report_options, _report),
}


def parser_for(command: str | None) -> argparse.ArgumentParser:
    """The whole parser, with the options of one command: the others' may need slow imports to be listed."""
    parser = _Parser(prog="halfmap", description="Refine a 3D map from single-particle cryo-EM images.",
                     epilog="halfmap COMMAND --help lists a command's options.")
    parser.add_argument("--version", action="version", version=f"halfmap {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (summary, options, _) in COMMANDS.items():
        chosen = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            options(chosen)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status: 0, 2 for a user's error, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = argparse.Namespace()
    try:
        command = next((word for word in words if word in COMMANDS), None)
        parser_for(command).parse_args(words, arguments)
        for note in dict.fromkeys(getattr(arguments, "relion_notes", ())):
            print(f"halfmap: note: {note}", file=sys.stderr)
        COMMANDS[arguments.command][2](arguments)
    except InputError as error:
        print("halfmap: error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nhalfmap: interrupted; {_kept(getattr(arguments, 'out', None))}", file=sys.stderr)
        return 130
    return 0


def _kept(out: Path | None) -> str:
    """What an interrupted command leaves in its folder."""
    found = sorted(out.iterdir()) if out is not None and out.is_dir() else []
    return f"{out} keeps " + ", ".join(path.name for path in found) if found else "nothing was written"
