"""What a user can choose for ``halfmap ctf-refine``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.ctf_refinement.parameters import PARAMETERS
from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
from halfmap.settings.checks import (
    absolute_paths,
    check_diameter,
    check_new_folder,
    check_readable,
    check_two_maps,
    other_half,
)
from halfmap.settings.particle_sets import check_refinement
from halfmap.settings.reslog import check_run

SIGNIFICANT, ALL = "significant", "all"


@dataclass(frozen=True)
class CtfRefineSettings:
    """Settings of ``halfmap ctf-refine``."""

    particles: Path = field(metadata={
        "help": "folder of a finished refinement, or a particle STAR file with poses and half sets",
        "short": "RUN|particles.star", "positional": True})
    fit: str = field(metadata={
        "help": "what is fitted, one or more of: " + ", ".join(PARAMETERS), "short": "NAME", "several": True})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    half1: Path | None = field(default=None, metadata={
        "help": "raw half map of half set 1, unfiltered and unmasked, for a STAR file", "short": "half1.mrc",
        "aliases": ("--i1",), "none": "that of RUN"})
    half2: Path | None = field(default=None, metadata={
        "help": "the other raw half map", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "that of RUN, or the name of --half1 with half2 in place of half1"})
    mask: Path | None = field(default=None, metadata={
        "help": "what the maps are known within, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of RUN, or made from the maps", "aliases": ("--solvent_mask",)})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the circle around the particle, for a STAR file", "unit": "A", "above": 0,
        "none": "that of RUN", "aliases": ("--particle_diameter",)})
    coarsest: float = field(default=30.0, metadata={
        "help": "images are compared with the maps from this resolution on", "unit": "A", "above": 0})
    finest: float | None = field(default=None, metadata={
        "help": "and up to this one", "unit": "A", "above": 0,
        "none": "where the corrected FSC of the half maps falls to 0.143"})
    apply: str = field(default=SIGNIFICANT, metadata={
        "help": "which values are written: those that a likelihood-ratio test finds significant, or all",
        "choices": (SIGNIFICANT, ALL)})
    prior_defocus: float | None = field(default=None, metadata={
        "help": "standard deviation of the change of a particle's defocus, before the images are looked at",
        "unit": "A", "above": 0, "none": "as all images say", "advanced": True})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file", "advanced": True})
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",), "advanced": True})

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that are fitted. Raises InputError as `fit_names` does."""
        return fit_names("--fit", self.fit)

    @property
    def run(self) -> Path | None:
        """The folder of the refinement; None where a STAR file is given."""
        return self.particles if self.particles.is_dir() else None


def fit_names(option: str, text: str) -> tuple[str, ...]:
    """The parameters in a text such as "defocus,tilt", in the order of `PARAMETERS`.

    Raises InputError, naming the option, for a word that is none, and where there is no word.
    """
    words = text.replace(",", " ").split()
    for word in words:
        if word not in PARAMETERS:
            raise InputError(f"{option} {text}: '{word}' cannot be fitted; choose from {', '.join(PARAMETERS)}")
    if not words:
        raise InputError(f"{option}: names nothing; choose from {', '.join(PARAMETERS)}")
    if "astigmatism-particle" in words:  # fits the defocus with it
        words = [word for word in words if word != "defocus"]
    return tuple(name for name in PARAMETERS if name in words)


def validated_ctf_refine(settings: CtfRefineSettings) -> CtfRefineSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The other half map is filled in. Raises InputError for the first choice that cannot work, and where results would
    overwrite other files.
    """
    check_declared(settings)
    fit_names("--fit", settings.fit)
    if settings.finest is not None and settings.finest >= settings.coarsest:
        raise InputError(f"--finest {settings.finest:g}: must be less than --coarsest, {settings.coarsest:g} A")
    paths = absolute_paths(settings)
    particles = paths["particles"]
    if particles.is_dir():
        _check_run(settings, particles)
    else:
        _check_star(settings, paths)
    for name in ("particles", "half1", "half2", "mask"):
        if name in paths and not paths[name].is_dir():
            check_readable(name, paths[name])
    if "half1" in paths:
        check_two_maps(paths)
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    check_new_folder(paths["out"])
    if (paths["out"] / "particles.star").exists():
        raise InputError(f"--out {paths['out']}: holds particles.star; name a new folder")
    return dataclasses.replace(settings, **paths)


def _check_run(settings: CtfRefineSettings, run: Path) -> None:
    """Raise InputError where the folder is not that of a finished refinement, or its maps are given again."""
    check_refinement(run)
    check_run(run)
    for name in ("half1", "half2", "diameter"):
        if getattr(settings, name) is not None:
            raise InputError(f"--{name} {getattr(settings, name)}: {run} has its own; leave it out")


def _check_star(settings: CtfRefineSettings, paths: dict[str, Any]) -> None:
    """Raise InputError where a STAR file comes without what it needs, and name its second half map."""
    check_readable("particles", paths["particles"])
    lacking = [f"--{name}" for name in ("half1", "diameter") if getattr(settings, name) is None]
    if lacking:
        raise InputError(f"{paths['particles']}: a STAR file needs {' and '.join(lacking)} too; or give the folder of "
                         "a halfmap refine")
    assert settings.diameter is not None
    check_diameter(settings.diameter)
    paths.setdefault("half2", other_half(paths["half1"]))


def ctf_refine_command(settings: CtfRefineSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap ctf-refine")
