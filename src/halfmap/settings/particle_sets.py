"""What a user can choose for ``halfmap orientations`` and ``halfmap audit``."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command, toml_values
from halfmap.settings.checks import absolute_paths, check_new_folder, check_readable, check_two_maps, other_half
from halfmap.settings.given_optics import OpticsOptions

HEADING = re.compile(r"# Settings of halfmap (\w+)")
LEFT = {"classify": "classes", "classes2d": "two-dimensional classes", "start": "starting maps"}  # in place of a run


@dataclass(frozen=True)
class OrientationsSettings(OpticsOptions):
    """Settings of ``halfmap orientations``."""

    particles: Path | None = field(default=None, metadata={
        "help": "folder of a refinement, or a particle STAR file with angles", "short": "RUN|particles.star",
        "positional": True, "none": "the half maps alone"})
    half1: Path | None = field(default=None, metadata={
        "help": "raw half map, unfiltered and unmasked, to compare by direction", "short": "half1.mrc",
        "aliases": ("--i",), "none": "that of RUN"})
    half2: Path | None = field(default=None, metadata={
        "help": "the other raw half map", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "that of RUN, or the name of --half1 with half2 in place of half1"})
    mask: Path | None = field(default=None, metadata={
        "help": "mask for the comparison, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of RUN, or made from the maps", "aliases": ("--solvent_mask",)})
    symmetry: str | None = field(default=None, metadata={
        "help": "point group, RELION's orientation: C1 Cn Dn T O I1 I2 I3 I4", "short": "group",
        "none": "that of RUN, else C1", "aliases": ("--sym",)})
    cone: float = field(default=20.0, metadata={
        "help": "half-angle of the cones in which half maps are compared", "unit": "deg", "above": 0})
    out: Path | None = field(default=None, metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",),
        "none": "orientations in RUN, or beside the STAR file or --half1"})


@dataclass(frozen=True)
class AuditSettings(OpticsOptions):
    """Settings of ``halfmap audit``."""

    particles: Path = field(metadata={
        "help": "particle file (STAR, or .cs or .csg of cryoSPARC), or the folder of a refinement",
        "short": "RUN|particles.star", "positional": True})
    distance: float | None = field(default=None, metadata={
        "help": "centres nearer than this on one micrograph are one particle", "unit": "A", "above": 0,
        "none": "a quarter of the diameter of RUN, else an eighth of the images' side"})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the file start from", "short": "folder", "none": "found from the file"})
    images: bool = field(default=True, metadata={
        "help": "read all images and compare their pixels, so that copies are found whatever they are called; without, "
                "images are compared by name"})
    out: Path | None = field(default=None, metadata={
        "help": "write the particles without duplicates here, in half sets: the first of each is kept, copies made by "
                "symmetry expansion all stay and go to its half set, filaments stay whole",
        "short": "clean.star", "aliases": ("--o",), "none": "only report"})


def validated_orientations(settings: OrientationsSettings) -> OrientationsSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Files and output folder that follow from a run or a name are filled in. Raises InputError for the first choice that
    cannot work, and where results would overwrite other files.
    """
    check_declared(settings)
    if settings.cone >= 90:
        raise InputError(f"--cone {settings.cone:g}: must be less than 90 degrees, which is all directions")
    paths = absolute_paths(settings)
    if "half2" in paths and "half1" not in paths:
        raise InputError(f"--half2 {paths['half2']}: needs --half1")
    if not {"particles", "half1"} & paths.keys():
        raise InputError("give the folder of a run or a particle STAR file, or half maps with --half1 and --half2")
    beside = paths.get("particles", paths.get("half1"))
    assert beside is not None
    run = beside if beside.is_dir() else None
    _name_run(paths, run)
    if "half1" in paths and "half2" not in paths:
        paths["half2"] = other_half(paths["half1"])
    paths.setdefault("out", (run or beside.parent) / "orientations")
    for name in ("particles", "half1", "half2", "mask"):
        if name in paths:
            check_readable(name, paths[name])
    if "half1" in paths:
        check_two_maps(paths)
    elif "mask" in paths:
        raise InputError(f"--mask {paths['mask']}: is for half maps; give them with --half1 and --half2")
    check_new_folder(paths["out"])
    return dataclasses.replace(settings, **paths)


def _name_run(paths: dict[str, Any], run: Path | None) -> None:
    """Replace the folder of a run by its files. Its half maps are taken too if it has any and none are given."""
    if run is None:
        return
    if not (run / "particles.star").exists():
        raise InputError(f"{run}: holds no particles.star; give the folder of a refinement, or a STAR file")
    paths["particles"] = run / "particles.star"
    if "half1" in paths or not (run / "half1_unfil.mrc").exists():
        return
    paths |= {"half1": run / "half1_unfil.mrc", "half2": run / "half2_unfil.mrc"}
    if "mask" not in paths and (run / "mask.mrc").exists():
        paths["mask"] = run / "mask.mrc"


def validated_audit(settings: AuditSettings) -> AuditSettings:
    """Check the settings of ``halfmap audit`` in the same way."""
    check_declared(settings)
    paths = absolute_paths(settings)
    if paths["particles"].is_dir():
        _name_run(paths, paths["particles"])
        paths = {name: path for name, path in paths.items() if name in ("particles", "data_dir", "out")}
    check_readable("particles", paths["particles"])
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    if "out" in paths and paths["out"].exists():
        raise InputError(f"--out {paths['out']}: exists already; name a new STAR file")
    if "out" in paths and not paths["out"].parent.is_dir():
        raise InputError(f"--out {paths['out']}: its folder does not exist; make it first")
    return dataclasses.replace(settings, **paths)


def check_refinement(run: Path, classes_too: bool = False) -> None:
    """Raise InputError where another command than ``halfmap refine`` wrote into this folder, as its settings.toml says,
    or else its files.

    classes_too: whether those of ``halfmap classify`` are as good.
    """
    path = run / "settings.toml"
    heading = HEADING.match(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    command = heading[1] if heading else "classes2d" if (run / "classes.star").exists() else "refine"
    if command in LEFT and not (classes_too and command == "classify"):
        raise InputError(f"{run}: holds {LEFT[command]}, not a refinement; look at {run / 'report.html'}, or give "
                         f"{run / 'particles.star'}")


def run_setting(run: Path, name: str) -> Any:
    """A setting that a run was begun with, whichever command it was; None where its settings.toml has no such line.

    Raises InputError where that file cannot be read.
    """
    return toml_values(run / "settings.toml").get(name)


def run_folder(particles: Path | None) -> Path | None:
    """The folder of the run that wrote this STAR file; None where the file is not a run's particles.star."""
    if particles is None or particles.name != "particles.star":
        return None
    return particles.parent if (particles.parent / "settings.toml").exists() else None


def orientations_command(settings: OrientationsSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap orientations")
