"""What a user can choose for ``halfmap convert``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_cryosparc_only, check_one_state, check_readable
from halfmap.settings.given_optics import CtfStateOptions

# Suffix -> kind of particle file, for messages.
KINDS = {".star": "a RELION STAR file", ".cs": "a cryoSPARC dataset", ".csg": "a cryoSPARC dataset"}


@dataclass(frozen=True)
class ConvertSettings(CtfStateOptions):
    """Settings of ``halfmap convert``."""

    particles: Path = field(metadata={
        "help": "particles: a RELION .star file, or a cryoSPARC .cs or .csg file", "short": "in.cs",
        "positional": True})
    out: Path = field(metadata={
        "help": "the file to write, of the other kind: .star or .cs", "short": "out.star", "positional": True})
    passthrough: Path | None = field(default=None, metadata={
        "help": "passthrough file of the cryoSPARC job, with the fields that in.cs lacks", "short": "file.cs",
        "none": "not needed, or named by the .csg file"})
    strip_prefix: str | None = field(default=None, metadata={
        "help": "left out where an image path in a cryoSPARC file begins with it", "short": "path", "none": "nothing"})
    data_dir: Path | None = field(default=None, metadata={
        "help": "folder that the image paths start from", "short": "folder", "none": "found from the particle file"})


def validated_convert(settings: ConvertSettings) -> ConvertSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    Raises InputError for the first choice that cannot work, and where a file would be overwritten.
    """
    check_declared(settings)
    paths = absolute_paths(settings)
    source, target = (KINDS.get(paths[name].suffix.lower()) for name in ("particles", "out"))
    if source is None:
        raise InputError(f"{paths['particles']}: neither a .star nor a .cs or .csg file, by its name; rename it")
    if target is None or paths["out"].suffix.lower() == ".csg":
        raise InputError(f"{paths['out']}: the file to write must be named .star or .cs; choose another name")
    if source == target:
        raise InputError(f"{paths['out']}: would be {target}, as {paths['particles'].name} is; name a file of the "
                         "other kind")
    check_cryosparc_only(paths["particles"], settings.passthrough, settings.strip_prefix)
    check_one_state(settings.phase_flipped, settings.ctf_premultiplied)
    for name in ("particles", "passthrough"):
        if name in paths:
            check_readable(name, paths[name])
    if "data_dir" in paths and not paths["data_dir"].is_dir():
        raise InputError(f"--data-dir {paths['data_dir']}: no such folder")
    if paths["out"].exists():
        raise InputError(f"{paths['out']}: is there already; name another file or remove this one")
    if not paths["out"].parent.is_dir() or not os.access(paths["out"].parent, os.W_OK):
        raise InputError(f"{paths['out']}: cannot be written in {paths['out'].parent}; name a folder that is there and "
                         "writable")
    return dataclasses.replace(settings, **paths)
