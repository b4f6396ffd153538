"""What a user can choose for ``halfmap ctf-refine``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.ctf_refinement.parameters import PARAMETERS
from halfmap.errors import InputError
from halfmap.options import check_declared, flag, to_command
from halfmap.settings.checks import (
    absolute_paths,
    check_diameter,
    check_new_folder,
    check_readable,
    check_two_maps,
    other_half,
)
from halfmap.settings.particle_files import DETERMINISTIC, ParticleFileOptions, check_particle_files
from halfmap.settings.particle_sets import check_refinement
from halfmap.settings.reslog import check_run

SIGNIFICANT, ALL = "significant", "all"


@dataclass(frozen=True)
class CtfRefineSettings(ParticleFileOptions):
    """Settings of ``halfmap ctf-refine``."""

    particles: Path = field(metadata={
        "help": "folder of a finished refinement, or a particle file with poses and half sets: STAR, or .cs or .csg of "
                "cryoSPARC",
        "short": "RUN|particles.star", "positional": True})
    fit: str = field(metadata={
        "help": "what is fitted, one or more of: " + ", ".join(PARAMETERS), "short": "NAME", "several": True})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    half1: Path | None = field(default=None, metadata={
        "help": "raw half map of half set 1, unfiltered and unmasked, for a particle file", "short": "half1.mrc",
        "aliases": ("--i1",), "none": "that of RUN"})
    half2: Path | None = field(default=None, metadata={
        "help": "the other raw half map", "short": "half2.mrc", "aliases": ("--i2",),
        "none": "that of RUN, or the name of --half1 with half2 in place of half1"})
    mask: Path | None = field(default=None, metadata={
        "help": "what the maps are known within, 1 inside and 0 outside", "short": "mask.mrc",
        "none": "that of RUN, or made from the maps", "aliases": ("--solvent_mask",)})
    diameter: float | None = field(default=None, metadata={
        "help": "diameter of the circle around the particle, for a particle file", "unit": "A", "above": 0,
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
    threads: int = field(default=0, metadata={
        "help": "CPU threads, 0 for all cores", "at_least": 0, "aliases": ("--j",), "advanced": True})
    device: str = field(default="auto", metadata={
        "help": "where to compute; auto takes a GPU if there is one", "choices": ("auto", "cpu", "cuda"),
        "advanced": True})
    deterministic: bool = field(default=False, metadata=DETERMINISTIC)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that are fitted. Raises InputError as `fit_names` does."""
        return fit_names("--fit", self.fit)

    @property
    def run(self) -> Path | None:
        """The folder of the refinement; None where a particle file is given."""
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
        _check_file(settings, paths)
    for name in ("half1", "half2", "mask"):
        if name in paths:
            check_readable(name, paths[name])
    if "half1" in paths:
        check_two_maps(paths)
    check_new_folder(paths["out"])
    if (paths["out"] / "particles.star").exists():
        raise InputError(f"--out {paths['out']}: holds particles.star; name a new folder")
    return dataclasses.replace(settings, **paths)


def _check_run(settings: CtfRefineSettings, run: Path) -> None:
    """Raise InputError where the folder is not that of a finished refinement, or what it has is given again."""
    check_refinement(run)
    check_run(run)
    about = {f.name: f for f in dataclasses.fields(settings)}
    own = [f.name for f in dataclasses.fields(ParticleFileOptions) if f.name != "data_dir"]
    for name in ("half1", "half2", "diameter", *own):
        value = getattr(settings, name)
        if value != about[name].default:
            shown = "" if isinstance(value, bool) else f" {value}"
            raise InputError(f"{flag(about[name])}{shown}: {run} has its own; leave it out")
    if settings.data_dir is not None and not settings.data_dir.expanduser().is_dir():
        raise InputError(f"--data-dir {settings.data_dir}: no such folder")


def _check_file(settings: CtfRefineSettings, paths: dict[str, Any]) -> None:
    """Raise InputError where a particle file comes without what it needs, and name its second half map."""
    check_particle_files(settings, paths)
    lacking = [f"--{name}" for name in ("half1", "diameter") if getattr(settings, name) is None]
    if lacking:
        raise InputError(f"{paths['particles']}: a particle file needs {' and '.join(lacking)} too; or give the folder "
                         "of a halfmap refine")
    assert settings.diameter is not None
    check_diameter(settings.diameter)
    paths.setdefault("half2", other_half(paths["half1"]))


def ctf_refine_command(settings: CtfRefineSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap ctf-refine")
