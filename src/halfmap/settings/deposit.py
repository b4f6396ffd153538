"""What a user can choose for ``halfmap deposit``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
from halfmap.settings.checks import absolute_paths, check_new_folder, unreadable

# Choice of the main map -> its file in RUN.
MAPS = {"sharpened": "postprocess/map_sharpened.mrc", "local": "postprocess/map_sharpened_local.mrc",
        "regularised": "map.mrc"}  # fmt: skip
NEEDED = ("half1_unfil.mrc", "half2_unfil.mrc", "map.mrc", "mask.mrc", "settings.toml", "iterations.jsonl")


@dataclass(frozen=True)
class DepositSettings:
    """Settings of ``halfmap deposit``."""

    run: Path = field(metadata={
        "help": "folder of a finished refinement", "short": "RUN", "positional": True})
    out: Path = field(metadata={
        "help": "new folder for the files of the entry", "short": "OUT", "positional": True})
    map: str | None = field(default=None, metadata={
        "help": "main map: RUN/map.mrc, or one that `halfmap postprocess` wrote into RUN/postprocess",
        "choices": tuple(MAPS), "none": "the sharpened one if it is there, else the regularised one"})
    pixel_size: float | None = field(default=None, metadata={
        "help": "recalibrated pixel size, written into all headers; resolutions and B factor follow", "unit": "A",
        "above": 0, "none": "the run's"})
    level: float | None = field(default=None, metadata={
        "help": "contour level to recommend, in the main map's grey values",
        "none": "what best tells molecule from solvent"})


def validated_deposit(settings: DepositSettings) -> DepositSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The main map is chosen where it is not given. Raises InputError where the folder is no run or lacks a file, and
    where results would overwrite other files.
    """
    check_declared(settings)
    paths = absolute_paths(settings)
    run = paths["run"]
    if not run.is_dir():
        raise InputError(f"{run}: no such folder; give that of a finished refinement")
    missing = [name for name in NEEDED if not (run / name).is_file()]
    if missing:
        raise InputError(f"{run}: holds no {' and no '.join(missing)}; give the folder of a finished refinement")
    chosen = settings.map or ("sharpened" if (run / MAPS["sharpened"]).is_file() else "regularised")
    if not (run / MAPS[chosen]).is_file():
        local = " --local" if chosen == "local" else ""
        raise InputError(f"--map {chosen}: {run / MAPS[chosen]} is not there; run halfmap postprocess {run}{local}")
    faults = {name: unreadable(run / name) for name in dict.fromkeys((MAPS[chosen], *NEEDED))}
    if any(faults.values()):
        raise InputError("; ".join(f"{run / name}: {fault}" for name, fault in faults.items() if fault))
    if paths["out"].exists() and paths["out"].samefile(run):
        raise InputError(f"{paths['out']}: is the run itself; name a new folder")
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths, map=chosen)


def deposit_command(settings: DepositSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap deposit")
