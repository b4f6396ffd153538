"""What a user can choose for ``halfmap classes2d``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_diameter, check_new_run, stopped
from halfmap.settings.particle_files import ParticleImageOptions, check_particle_files


@dataclass(frozen=True)
class Classes2dSettings(ParticleImageOptions):
    """Settings of ``halfmap classes2d``."""

    classes: int = field(default=50, metadata={
        "help": "number of classes", "at_least": 1, "aliases": ("--K",)})
    iterations: int = field(default=20, metadata={
        "help": "iterations; the last three take all images", "at_least": 5, "aliases": ("--iter",)})
    processes: int = field(default=0, metadata={
        "help": "processes of the run on this machine, which divide images and threads; 0: one up to 12 threads, else "
                "one for about 8 if there are 1,000 images and memory for each", "at_least": 0})
    max_resolution: float | None = field(default=None, metadata={
        "help": "finest detail that is looked at", "unit": "A", "above": 0,
        "none": "a fourteenth of the diameter, between 9 and 20 A", "aliases": ("--strict_highres_exp",)})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice", "at_least": 0, "aliases": ("--random_seed",)})


def validated_classes2d(settings: Classes2dSettings) -> Classes2dSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work, and where the folder holds results already, unless they are
    those of a command that was stopped.
    """
    check_declared(settings)
    check_diameter(settings.diameter)
    if settings.max_resolution and settings.max_resolution > settings.diameter / 4:
        raise InputError(f"--max-resolution {settings.max_resolution:g}: leaves nothing to see of a particle of "
                         f"{settings.diameter:g} A; take a quarter of that or less")
    paths = absolute_paths(settings)
    check_particle_files(settings, paths)
    if not stopped(paths["out"]):
        check_new_run(paths["out"])
        taken = sorted(path.name for path in paths["out"].glob("*") if path.suffix in (".star", ".mrcs", ".html"))
        if taken:
            raise InputError(f"--out {paths['out']}: holds {taken[0]}; name a new folder")
    return dataclasses.replace(settings, **paths)
