"""What a user can choose for ``halfmap start``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_diameter, check_new_folder, stopped
from halfmap.settings.particle_files import ParticleImageOptions, check_particle_files


@dataclass(frozen=True)
class StartSettings(ParticleImageOptions):
    """Settings of ``halfmap start``."""

    symmetry: str | None = field(default=None, metadata={
        "help": "point group to impose, in RELION's orientation: Cn Dn T O I1 I2 I3 I4", "short": "group",
        "none": "none; the score of every point group is told", "aliases": ("--sym",)})
    starts: int = field(default=8, metadata={
        "help": "starts from random orientations, which know nothing of each other", "at_least": 1})
    classes: int = field(default=1, metadata={
        "help": "maps that are sought in the images, for a mixture of particles that are not alike", "at_least": 1,
        "aliases": ("--K",)})
    images: int = field(default=800, metadata={
        "help": "images of the random subset that the map is found from", "at_least": 100})
    processes: int = field(default=0, metadata={
        "help": "processes of the run on this machine, which divide starts and threads; 0: one up to 12 threads, else "
                "one for about 8 if there are a start and memory for each", "at_least": 0})
    hand: str = field(default="keep", metadata={
        "help": "flip mirrors the map: images alone cannot tell a map from its mirror image",
        "choices": ("keep", "flip")})
    resolution: float | None = field(default=None, metadata={
        "help": "finest detail that starts look at", "unit": "A", "above": 0,
        "none": "14, and 9 for point groups of 12 rotations and more", "advanced": True})
    seed: int = field(default=0, metadata={
        "help": "seed of every random choice", "at_least": 0, "aliases": ("--random_seed",), "advanced": True})


def validated_start(settings: StartSettings) -> StartSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work.
    """
    check_declared(settings)
    check_diameter(settings.diameter)
    if settings.processes > settings.starts:
        raise InputError(f"--processes {settings.processes}: each makes starts, and there are {settings.starts}; give "
                         f"at most {settings.starts}, or more --starts")
    paths = absolute_paths(settings)
    check_particle_files(settings, paths)
    if not stopped(paths["out"]):
        check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)
