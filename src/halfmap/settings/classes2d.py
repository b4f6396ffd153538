"""What a user can choose for ``halfmap classes2d``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap import __version__
from halfmap.errors import InputError
from halfmap.options import check_declared, to_command, to_toml
from halfmap.settings.checks import absolute_paths, check_cryosparc_only, check_new_run, check_one_state, check_readable
from halfmap.settings.given_optics import ImageOptions
from halfmap.settings.refine import LEAST_DIAMETER

PROGRAM = "halfmap classes2d"


@dataclass(frozen=True)
class Classes2dSettings(ImageOptions):
    """Settings of ``halfmap classes2d``."""

    particles: Path = field(metadata={
        "help": "particle images: a RELION STAR file, a cryoSPARC .cs or .csg file", "short": "particles.star",
        "positional": True, "aliases": ("--i",)})
    diameter: float = field(metadata={
        "help": "diameter of the circle around the particle, micelle or nanodisc included", "unit": "A",
        "above": 0, "aliases": ("--particle_diameter",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    classes: int = field(default=50, metadata={
        "help": "number of classes", "at_least": 1, "aliases": ("--K",)})
    iterations: int = field(default=20, metadata={
        "help": "iterations; the last three take all images", "at_least": 5, "aliases": ("--iter",)})
    max_resolution: float | None = field(default=None, metadata={
        "help": "finest detail that is looked at", "unit": "A", "above": 0,
        "none": "a fourteenth of the diameter, between 9 and 20 A", "aliases": ("--strict_highres_exp",)})
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",)})
    device: str = field(default="auto", metadata={
        "help": "where to compute; auto takes a GPU if there is one", "choices": ("auto", "cpu", "cuda")})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice", "at_least": 0, "aliases": ("--random_seed",)})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file", "advanced": True})
    passthrough: Path | None = field(default=None, metadata={
        "help": "passthrough file of a cryoSPARC job, with the fields that the .cs file lacks", "short": "file.cs",
        "none": "not needed, or named by the .csg file", "advanced": True})
    strip_prefix: str | None = field(default=None, metadata={
        "help": "left out where an image path in a cryoSPARC file begins with it", "short": "path",
        "none": "nothing", "advanced": True})


def validated_classes2d(settings: Classes2dSettings) -> Classes2dSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work, and where the folder holds results already.
    """
    check_declared(settings)
    if settings.diameter < LEAST_DIAMETER:
        raise InputError(f"--diameter {settings.diameter:g}: below {LEAST_DIAMETER:g} A, which no particle is; give it "
                         "in angstrom")
    if settings.max_resolution and settings.max_resolution > settings.diameter / 4:
        raise InputError(f"--max-resolution {settings.max_resolution:g}: leaves nothing to see of a particle of "
                         f"{settings.diameter:g} A; take a quarter of that or less")
    paths = absolute_paths(settings)
    check_cryosparc_only(settings.particles, settings.passthrough, settings.strip_prefix)
    check_one_state(settings.phase_flipped, settings.ctf_premultiplied)
    for name in ("particles", "passthrough"):
        if name in paths:
            check_readable(name, paths[name])
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    check_new_run(paths["out"])
    taken = sorted(path.name for path in paths["out"].glob("*") if path.suffix in (".star", ".mrcs", ".html"))
    if taken:
        raise InputError(f"--out {paths['out']}: holds {taken[0]}; name a new folder")
    return dataclasses.replace(settings, **paths)


def classes2d_command(settings: Classes2dSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, PROGRAM)


def classes2d_toml(settings: Classes2dSettings) -> str:
    """The text of ``settings.toml``, complete, so that the command with ``--settings`` repeats the run."""
    return to_toml(settings, f"Settings of {PROGRAM}, version {__version__}. Repeat it with\n"
                             f"    {PROGRAM} --settings settings.toml --out NEW_FOLDER")
