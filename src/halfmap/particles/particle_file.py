"""Reads a particle file of either format."""

from __future__ import annotations

from pathlib import Path

from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.cryosparc_file import SUFFIXES
from halfmap.particles.given_optics import NONE_GIVEN, GivenOptics
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable


def read_particle_file(
    path: Path, data_dir: Path | None = None, passthrough: Path | None = None, strip_prefix: str | None = None,
    given: GivenOptics = NONE_GIVEN,
) -> ParticleTable:
    """The particles of a cryoSPARC file, told by its suffix, or else of a STAR file.

    passthrough, strip_prefix: belong to a cryoSPARC file. Raises InputError as `read_cryosparc` and `read_star` do.
    """
    if path.suffix.lower() in SUFFIXES:
        return read_cryosparc(path, data_dir, passthrough, strip_prefix, given)
    return read_star(path, data_dir, given)
