"""Where particle images are, for commands that read a STAR file or a cryoSPARC file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.settings.checks import check_cryosparc_only, check_one_state, check_readable
from halfmap.settings.given_optics import ImageOptions

DETERMINISTIC = {
    "help": "on a GPU: add up in an order that repeats, so that the same command on the same machine gives the same "
            "bits every time; on a CPU it does anyway", "advanced": True}


@dataclass(frozen=True, kw_only=True)
class ParticleFileOptions(ImageOptions):
    """What a particle file may need beside itself, and what it may lack."""

    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths in the particle file start from", "short": "folder",
        "none": "found from the particle file", "advanced": True})
    passthrough: Path | None = field(default=None, metadata={
        "help": "passthrough file of a cryoSPARC job, with the fields that the .cs file lacks", "short": "file.cs",
        "none": "not needed, or named by the .csg file", "advanced": True})
    strip_prefix: str | None = field(default=None, metadata={
        "help": "left out where an image path in a cryoSPARC file begins with it", "short": "path",
        "none": "nothing", "advanced": True})


@dataclass(frozen=True)
class ParticleImageOptions(ParticleFileOptions):
    """Settings of commands that begin with particle images alone."""

    particles: Path = field(metadata={
        "help": "particle images: a RELION STAR file, or a cryoSPARC .cs or .csg file", "short": "particles.star",
        "positional": True, "aliases": ("--i",)})
    diameter: float = field(metadata={
        "help": "diameter of the circle around the particle, micelle or nanodisc included", "unit": "A",
        "above": 0, "aliases": ("--particle_diameter",)})
    out: Path = field(metadata={
        "help": "folder for the results; made if absent", "short": "folder", "aliases": ("--o",)})
    threads: int = field(default=0, kw_only=True, metadata={
        "help": "CPU threads of the run on this machine, 0 for all cores; under torchrun, of each process",
        "at_least": 0, "aliases": ("--j",)})
    device: str = field(default="auto", kw_only=True, metadata={
        "help": "where to compute; auto takes a GPU if there is one", "choices": ("auto", "cpu", "cuda")})
    deterministic: bool = field(default=False, kw_only=True, metadata=DETERMINISTIC)


def check_particle_files(settings: ParticleFileOptions, paths: Mapping[str, Path]) -> None:
    """Raise InputError where the particle file or what belongs to it cannot be read, or does not belong to it. paths:
    absolute, by the name of the setting."""
    check_cryosparc_only(paths["particles"], settings.passthrough, settings.strip_prefix)
    check_one_state(settings.phase_flipped, settings.ctf_premultiplied)
    for name in ("particles", "passthrough"):
        if name in paths:
            check_readable(name, paths[name])
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
