"""What a user can choose for ``halfmap convert``."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.errors import InputError
from halfmap.options import check_declared, to_command
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
        "help": "the file to write: .star or .cs, of the other kind unless --group-by is given", "short": "out.star",
        "positional": True})
    group_by: str | None = field(default=None, metadata={
        "help": "divide the optics groups: by beam-shift (the place within the hole, from the names that EPU gives), "
                "by what a regular expression finds in micrograph names (name:PATTERN, its parentheses) or in a column "
                "(COLUMN:PATTERN), or by a column of text or numbers, or two of positions (COLUMN,COLUMN), which are "
                "clustered", "short": "rule", "none": "the groups of the file"})
    xml: Path | None = field(default=None, metadata={
        "help": "folder with the XML files that EPU writes beside its movies; --group-by beam-shift then clusters the "
                "beam shifts that they hold, which also move from hole to hole", "short": "folder",
        "none": "file names tell the place within the hole"})
    groups: int | None = field(default=None, metadata={
        "help": "how many groups the positions of --group-by fall into", "short": "number", "at_least": 2,
        "none": "as many as lie clearly apart"})
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
    if source == target and settings.group_by is None:
        raise InputError(f"{paths['out']}: would be {target}, as {paths['particles'].name} is; name a file of the "
                         "other kind")
    if settings.groups is not None and settings.group_by is None:
        raise InputError(f"--groups {settings.groups}: is for --group-by, which is not given")
    check_cryosparc_only(paths["particles"], settings.passthrough, settings.strip_prefix)
    check_one_state(settings.phase_flipped, settings.ctf_premultiplied)
    for name in ("particles", "passthrough"):
        if name in paths:
            check_readable(name, paths[name])
    for name in ("data_dir", "xml"):
        if name in paths and not paths[name].is_dir():
            raise InputError(f"--{name.replace('_', '-')} {paths[name]}: no such folder")
    if paths["out"].exists():
        raise InputError(f"{paths['out']}: is there already; name another file or remove this one")
    if settings.xml is not None and settings.group_by != "beam-shift":
        raise InputError(f"--xml {settings.xml}: is for --group-by beam-shift, which is not given")
    page = groups_page(paths["out"])
    if settings.group_by is not None and page.exists():
        raise InputError(f"{page}: is there already, and the page of the groups would overwrite it; remove it, or name "
                         f"another file than {paths['out'].name}")
    if not paths["out"].parent.is_dir() or not os.access(paths["out"].parent, os.W_OK):
        raise InputError(f"{paths['out']}: cannot be written in {paths['out'].parent}; name a folder that is there and "
                         "writable")
    return dataclasses.replace(settings, **paths)


def groups_page(out: Path) -> Path:
    """Where the page of the groups goes: beside the particle file that is written."""
    return out.with_name(f"{out.stem}_groups.html")


def convert_command(settings: ConvertSettings) -> str:
    """The command with these settings, however they were given."""
    return to_command(settings, "halfmap convert")
