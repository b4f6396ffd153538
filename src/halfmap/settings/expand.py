"""What a user can choose for ``halfmap expand``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from halfmap.options import check_declared
from halfmap.settings.checks import absolute_paths, check_new_star, particle_file


@dataclass(frozen=True)
class ExpandSettings:
    """Settings of ``halfmap expand``."""

    particles: Path = field(metadata={
        "help": "folder of a refinement, or a particle STAR file with angles", "short": "RUN|particles.star",
        "positional": True, "aliases": ("--i",)})
    out: Path = field(metadata={
        "help": "write every image at all its equivalent poses here", "short": "expanded.star", "aliases": ("--o",)})
    symmetry: str | None = field(default=None, metadata={
        "help": "point group, RELION's orientation: Cn Dn T O I1 I2 I3 I4", "short": "group",
        "aliases": ("--sym",), "none": "that of RUN"})


def validated_expand(settings: ExpandSettings) -> ExpandSettings:
    """Check the settings as far as is possible without reading data, and make their paths absolute.

    The particle file of a run is named. Raises InputError for the first choice that cannot work, and where a file would
    be overwritten.
    """
    check_declared(settings)
    paths = absolute_paths(settings)
    paths["particles"] = particle_file(paths["particles"])
    check_new_star("--out", paths["out"])
    return dataclasses.replace(settings, **paths)
