"""What a user can choose for ``halfmap inspect``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
from halfmap.settings.checks import (
    absolute_paths,
    check_cryosparc_only,
    check_new_folder,
    check_one_state,
    check_readable,
)
from halfmap.settings.given_optics import ImageOptions
from halfmap.settings.regularisers import REGULARISERS

PAGE = "inspect.html"


@dataclass(frozen=True)
class InspectSettings(ImageOptions):
    """Settings of ``halfmap inspect``."""

    file: Path = field(metadata={
        "help": "particle STAR, .cs or .csg file, image stack or map (.mrcs, .mrc), or the folder of a refinement",
        "short": "FILE|RUN", "positional": True})
    images: int = field(default=256, metadata={
        "help": "images looked at, spread over the file; 0 for all", "at_least": 0})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the particle; what is outside is background", "unit": "A", "above": 0,
        "none": "that of RUN, else two thirds of the images' side", "aliases": ("--particle_diameter",)})
    symmetry: str | None = field(default=None, metadata={
        "help": "point group, for the time of a refinement", "short": "group", "none": "that of RUN, else C1",
        "aliases": ("--sym",)})
    regulariser: str | None = field(default=None, metadata={
        "help": "regulariser, for the memory of a refinement", "choices": REGULARISERS,
        "none": "that of RUN, else that of halfmap refine"})
    padding: int | None = field(default=None, metadata={
        "help": "padding, for the memory of a refinement", "choices": (1, 2), "none": "that of RUN, else 2",
        "aliases": ("--pad",)})
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",)})
    max_memory: float | None = field(default=None, metadata={
        "help": "memory that a refinement may take", "unit": "GB", "above": 0,
        "none": "what the machine and its limits leave"})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file"})
    passthrough: Path | None = field(default=None, metadata={
        "help": "passthrough file of a cryoSPARC job, with the fields that the .cs file lacks", "short": "file.cs",
        "none": "not needed, or named by the .csg file"})
    strip_prefix: str | None = field(default=None, metadata={
        "help": "left out where an image path in a cryoSPARC file begins with it", "short": "path", "none": "nothing"})
    out: Path | None = field(default=None, metadata={
        "help": f"folder for the page, {PAGE}; made if absent", "short": "folder", "aliases": ("--o",),
        "none": "no page"})


def validated_inspect(settings: InspectSettings) -> InspectSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work, and where the page would overwrite other results.
    """
    check_declared(settings)
    paths = absolute_paths(settings)
    if paths["file"].is_dir():
        if not (paths["file"] / "settings.toml").is_file():
            raise InputError(f"{paths['file']}: is a folder without settings.toml; give the folder of a refinement, or "
                             "a file")
    else:
        check_readable("particles", paths["file"])
        if paths["file"].suffix.lower() not in (".star", ".cs", ".csg"):
            for option in [*settings.optics, *(["--invert-contrast"] if settings.invert_contrast else [])]:
                raise InputError(f"{option}: belongs to a particle file, and {paths['file'].name} is none; "
                                 "leave it out")
        check_cryosparc_only(paths["file"], settings.passthrough, settings.strip_prefix)
    check_one_state(settings.phase_flipped, settings.ctf_premultiplied)
    if "passthrough" in paths:
        check_readable("passthrough", paths["passthrough"])
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    if "out" in paths:
        check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)


def inspect_command(settings: InspectSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap inspect")
