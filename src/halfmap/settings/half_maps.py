"""Two half maps, given by the folder of a run or by their names: shared by commands that follow a refinement."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.errors import InputError
from halfmap.settings.checks import absolute_paths, other_half


@dataclass(frozen=True, kw_only=True)
class HalfMapSettings:
    """Where the half maps are."""

    run: Path | None = field(default=None, metadata={
        "help": "folder of a refinement, with half1_unfil.mrc, half2_unfil.mrc and mask.mrc", "short": "RUN",
        "positional": True, "none": "the maps of --half1 and --half2"})
    half1: Path | None = field(default=None, metadata={
        "help": "raw half map, unfiltered and unmasked, instead of RUN", "short": "half1.mrc", "aliases": ("--i",),
        "none": "that of RUN"})
    half2: Path | None = field(default=None, metadata={
        "help": "the other raw half map", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "that of RUN, or the name of --half1 with half2 in place of half1"})


def half_map_paths(settings: HalfMapSettings, folder: str, own_mask: bool = True) -> dict[str, Any]:
    """The paths among the settings by name, with those that follow from the run or from the name of --half1.

    ``out`` is by default ``folder`` in the run or beside --half1. own_mask: whether the run's mask is taken where no
    mask is given. Raises InputError for a folder that is no run, and where half maps are given twice or not at all.
    """
    paths = absolute_paths(settings)
    if ("run" in paths) == ("half1" in paths):
        raise InputError("give the folder of a run, or its half maps with --half1 and --half2, one of the two")
    if "run" in paths:
        run = paths["run"]
        if not run.is_dir():
            raise InputError(f"{run}: no such folder; give that of a refinement, or maps with --half1")
        if "half2" in paths:
            raise InputError(f"--half2 {paths['half2']}: belongs to --half1, not to a run")
        paths |= {"half1": run / "half1_unfil.mrc", "half2": run / "half2_unfil.mrc"}
        if "mask" not in paths and own_mask and (run / "mask.mrc").exists():
            paths["mask"] = run / "mask.mrc"
    if "half2" not in paths:
        paths["half2"] = other_half(paths["half1"])
    paths.setdefault("out", paths.get("run", paths["half1"].parent) / folder)
    return paths
