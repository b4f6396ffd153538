"""Whether particles can tell the values that are to be fitted to their optics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from halfmap.ctf_refinement.parameters import PARAMETERS, Per
from halfmap.errors import InputError
from halfmap.imaging.optics import CtfState
from halfmap.particles.table import ParticleTable


def check_particles(option: str, names: Sequence[str], table: ParticleTable) -> None:
    """Raise InputError, naming the option, for particles in half sets that cannot tell one of these parameters.

    Images that were multiplied by their CTF, or by its sign, keep the mark of the CTF that would be changed. What a
    parameter has one value for must be known, and have more than one image.
    """
    check_untouched(table, [f"{option} {name}" for name in names])
    for name in names:
        _check_units(f"{option} {name}", PARAMETERS[name].per, table)


def check_untouched(table: ParticleTable, names: Sequence[str]) -> None:
    """Raise InputError for images that were multiplied by their CTF, or by its sign: that CTF cannot be changed."""
    for group in table.optics:
        if group.ctf_state is not CtfState.UNTOUCHED:
            raise InputError(
                f"{table.source}: images of optics group '{group.name}' are {group.ctf_state.value} with the CTF "
                f"of the file, so {', '.join(names)} cannot be changed; use the images as they were before that"
            )


def _check_units(what: str, per: Per, table: ParticleTable) -> None:
    """Raise InputError where no value has more than one image, or nobody knows which images have one value."""
    if per is Per.PARTICLE:
        return
    if per is Per.MICROGRAPH and table.micrographs is None:
        raise InputError(f"{what}: {table.source} has no column rlnMicrographName, which says what images a value is "
                         "for; fit defocus, of every particle, instead")
    assert table.half is not None
    units = table.optics_index if per is Per.GROUP else 2 * table.micrograph + table.half
    if int(np.bincount(units).max()) < 2:
        one = per.value if per is Per.GROUP else f"{per.value} of a half set"
        raise InputError(f"{what}: every {one} in {table.source} has one particle, too few to fit a value to; put the "
                         "particles into larger groups")
