"""What a user can choose for ``halfmap local-resolution`` and ``halfmap model-fsc``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable, check_two_maps, other_half
from halfmap.settings.half_maps import HalfMapSettings, half_map_paths


@dataclass(frozen=True)
class LocalResolutionSettings(HalfMapSettings):
    """Settings of ``halfmap local-resolution``."""

    mask: Path | None = field(default=None, metadata={
        "help": "where to measure, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of RUN, or made from the maps", "aliases": ("--solvent_mask",)})
    window: float | None = field(default=None, metadata={
        "help": "width of the soft spherical window at half its height", "unit": "A", "above": 0,
        "none": "5 times the resolution of the maps, at least 20 A"})
    threshold: float = field(default=0.5, metadata={
        "help": "local FSC at which the resolution is read; never below what noise reaches by chance", "above": 0})
    step: float | None = field(default=None, metadata={
        "help": "distance of the windows", "unit": "A", "above": 0, "none": "a quarter of their width"})
    out: Path | None = field(default=None, metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",),
        "none": "local_resolution in RUN, or beside --half1"})


@dataclass(frozen=True)
class ModelFscSettings:
    """Settings of ``halfmap model-fsc``."""

    map: Path = field(metadata={
        "help": "map to compare with the model, best unsharpened or sharpened but not masked", "short": "map.mrc",
        "positional": True})
    model: Path = field(metadata={
        "help": "atomic model, mmCIF or PDB, placed as the map's header says (by its origin, else by start indices)",
        "short": "model.cif", "positional": True})
    half1: Path | None = field(default=None, metadata={
        "help": "half map that the model was refined against: also compared", "short": "half1.mrc",
        "aliases": ("--i",), "none": "not compared"})
    half2: Path | None = field(default=None, metadata={
        "help": "the other half map, which the model has not seen", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "not compared, or the name of --half1 with half2 in place of half1"})
    mask: Path | None = field(default=None, metadata={
        "help": "mask for the comparison, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "drawn around the model's density"})
    assembly: bool = field(default=False, metadata={
        "help": "build the model's biological assembly 1"})
    bfactor: float = field(default=0.0, metadata={
        "help": "B factor added to every atom's own", "unit": "A^2"})
    fit: bool = field(default=False, metadata={
        "help": "turn and move the model to where it fits the map best, close to its place, or to the box centre"})
    out: Path | None = field(default=None, metadata={
        "help": "write curves, mask and the model's map into this folder", "short": "folder", "aliases": ("--o",),
        "none": "only print"})


def validated_local_resolution(settings: LocalResolutionSettings) -> LocalResolutionSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Half maps, mask and output folder that follow from a run or a name are filled in. Raises InputError for the first
    choice that cannot work, and where results would overwrite other files.
    """
    check_declared(settings)
    if settings.threshold >= 1:
        raise InputError(f"--threshold {settings.threshold:g}: must be below 1, the FSC of equal maps")
    paths = half_map_paths(settings, "local_resolution")
    _check_maps(paths)
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)


def validated_model_fsc(settings: ModelFscSettings) -> ModelFscSettings:
    """Check the settings of ``halfmap model-fsc`` in the same way."""
    check_declared(settings)
    paths = absolute_paths(settings)
    if "half2" in paths and "half1" not in paths:
        raise InputError(f"--half2 {paths['half2']}: needs --half1")
    if "half1" in paths and "half2" not in paths:
        paths["half2"] = other_half(paths["half1"])
    _check_maps(paths)
    if "out" in paths:
        check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)


def _check_maps(paths: dict[str, Path]) -> None:
    """Raise InputError where one of the files cannot be read, or where both half maps are the same file."""
    for name in ("map", "model", "half1", "half2", "mask"):
        if name in paths:
            check_readable(name, paths[name])
    if "half1" in paths:
        check_two_maps(paths)


def validation_command(settings: LocalResolutionSettings | ModelFscSettings) -> str:
    """The command with these settings, however they were given. Files that follow from RUN are left out."""
    if isinstance(settings, LocalResolutionSettings) and settings.run is not None:
        own = settings.mask == settings.run / "mask.mrc"
        settings = dataclasses.replace(settings, half1=None, half2=None, mask=None if own else settings.mask)
    name = "local-resolution" if isinstance(settings, LocalResolutionSettings) else "model-fsc"
    return to_command(settings, f"halfmap {name}")
