"""What a user can choose for ``halfmap subtract``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable

RUN_FILES = ("settings.toml", "half1_unfil.mrc", "half2_unfil.mrc", "map.mrc", "mask.mrc", "particles.star")


@dataclass(frozen=True)
class SubtractSettings:
    """Settings of ``halfmap subtract``."""

    run: Path = field(metadata={
        "help": "folder of a finished refinement of the whole particle", "short": "RUN", "positional": True})
    mask: Path = field(metadata={
        "help": "mask of what is kept, 1 inside and 0 outside, on the grid of the run's maps", "short": "keep.mrc"})
    out: Path = field(metadata={
        "help": "folder for the images and their STAR file; made if absent", "short": "folder", "aliases": ("--o",)})
    particles: Path | None = field(default=None, metadata={
        "help": "take these particles, such as the run's after halfmap expand or select", "short": "particles.star",
        "none": "all of RUN", "aliases": ("--data",)})
    recentre: bool = field(default=False, metadata={
        "help": "put the mask's centre into the centre of every image, by whole pixels; the rest goes into the origins",
        "aliases": ("--recenter_on_mask",)})
    box: int | None = field(default=None, metadata={
        "help": "side of the images that are written", "unit": "pixels", "at_least": 8, "none": "as they are",
        "aliases": ("--new_box",)})
    dtype: str = field(default="float32", metadata={
        "help": "type of the values written; float16 takes half the space", "choices": ("float32", "float16"),
        "advanced": True})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file", "advanced": True})
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",), "advanced": True})


def validated_subtract(settings: SubtractSettings) -> SubtractSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work, and where results would overwrite other files.
    """
    check_declared(settings)
    paths = absolute_paths(settings)
    absent = [name for name in RUN_FILES if not (paths["run"] / name).is_file()]
    if absent:
        raise InputError(f"{paths['run']}: holds no {absent[0]}; give the folder of a finished refinement")
    for name in ("mask", "particles"):
        if name in paths:
            check_readable(name, paths[name])
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    out = paths["out"]
    check_new_folder(out)
    taken = sorted(path.name for path in out.glob("*") if path.suffix in (".star", ".mrcs"))
    if taken:
        raise InputError(f"--out {out}: holds {taken[0]}; name a new folder")
    return dataclasses.replace(settings, **paths)
