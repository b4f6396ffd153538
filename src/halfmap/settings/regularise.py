"""What a user can choose for ``halfmap regularise``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable, check_two_maps, other_half
from halfmap.settings.regularisers import RegulariserOptions, as_one_name, check_options


class FilterOptions(RegulariserOptions):
    """The method and its options, without those that have an effect only in refinements."""

    REFINES: ClassVar[bool] = False


@dataclass(frozen=True)
class RegulariseSettings(FilterOptions):
    """Settings of ``halfmap regularise``."""

    half1: Path = field(metadata={
        "help": "raw half map, unfiltered and unmasked", "short": "half1.mrc", "aliases": ("--i",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    half2: Path | None = field(default=None, metadata={
        "help": "the other raw half map", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "the name of --half1 with half2 in place of half1"})
    mask: Path | None = field(default=None, metadata={
        "help": "solvent mask, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "made from the maps", "aliases": ("--solvent_mask",)})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the spherical mask, which also bounds the one made from the maps", "unit": "A", "above": 0,
        "none": "0.85 of the box", "aliases": ("--particle_diameter",)})


def validated_pair(settings: RegulariseSettings) -> RegulariseSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The second half map is named where it is not given. Raises InputError for the first choice that cannot work, and
    where results would overwrite other files.
    """
    check_declared(settings)
    check_options(settings)
    settings = as_one_name(settings)
    paths = absolute_paths(settings)
    if "half2" not in paths:
        paths["half2"] = other_half(paths["half1"])
    for name, path in paths.items():
        if name != "out":
            check_readable(name.replace("_", "-"), path)
    check_two_maps(paths)
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)
