"""What a user can choose for ``halfmap compare``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable

# Files that a run's folder must hold to be compared.
NEEDED = ("half1_unfil.mrc", "half2_unfil.mrc", "settings.toml")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of ``halfmap compare``."""

    runs: tuple[Path, ...] = field(metadata={
        "help": "folders of two or more refinements of the same particles; the first is what the others are compared "
                "with", "short": "RUN", "positional": True})
    mask: Path | None = field(default=None, metadata={
        "help": "solvent mask in the frame of RUN_A, 1 inside and 0 outside, for all runs", "short": "mask.mrc",
        "none": "made from the mean of all maps", "aliases": ("--solvent_mask",)})
    truth: Path | None = field(default=None, metadata={
        "help": "map without noise, of a simulation or an atomic model, to compare every run with", "short": "map.mrc",
        "none": "runs are compared with each other only"})
    bfactor: float | None = field(default=None, metadata={
        "help": "B factor applied to all maps alike; a negative one sharpens", "unit": "A^2",
        "none": "mean of the runs' own"})
    volume: float | None = field(default=None, metadata={
        "help": "volume that all surfaces enclose; protein has 1210 A^3 to the kDa", "unit": "A^3", "above": 0,
        "none": "that above the best threshold of the mean map"})
    out: Path | None = field(default=None, metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",),
        "none": "compare in RUN_A"})


def validated_compare(settings: CompareSettings) -> CompareSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The output folder is filled in where it is not given. Raises InputError for the first choice that cannot work, and
    where results would overwrite other files.
    """
    check_declared(settings)
    folders = [run.expanduser().absolute() for run in settings.runs]
    if not folders:
        raise InputError("missing: RUN, the folders of two or more refinements; see halfmap compare --help")
    if len(folders) < 2:
        raise InputError(f"{settings.runs[0]}: one run alone cannot be compared; give the folders of two or more")
    for folder in folders:
        _check_run(folder)
    for i, folder in enumerate(folders):
        if any(folder.samefile(other) for other in folders[:i]):
            raise InputError(f"{folder}: given twice; give two different runs")
    paths = absolute_paths(settings)
    for name in ("mask", "truth"):
        if name in paths:
            check_readable(name, paths[name])
    paths.setdefault("out", folders[0] / "compare")
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, runs=tuple(folders), **paths)


def _check_run(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give that of a refinement")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: has no {missing[0]}; give the folder of a refinement that has done an iteration")


def compare_command(settings: CompareSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap compare")
