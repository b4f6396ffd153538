"""RELION 3.0 particle tables converted to the layout of RELION 3.1: an optics table, and origins in A."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.particles.given_optics import remedy
from halfmap.particles.star_text import StarTable, Texts, format_column, numbers_of
from halfmap.particles.table import Column

MICROSCOPE = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
OPTIONAL = ("rlnBeamTiltX", "rlnBeamTiltY", "rlnBeamTiltClass", "rlnCtfDataArePhaseFlipped",
            "rlnCtfDataAreCtfPremultiplied")
PIXEL = ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize")
SAME_PIXEL = 1e-3  # relative: rounded and computed pixel sizes differ by less
ORIGINS = {f"rlnOrigin{axis}{kind}": f"rlnOrigin{axis}{kind}Angst"
           for kind in ("", "Prior") for axis in "XYZ"}


@dataclass(frozen=True)
class RelionTables:
    """The two tables of a particle file in the layout of RELION 3.1."""

    particles: StarTable
    optics: StarTable


def upgrade_table(table: StarTable) -> RelionTables:
    """The particle and optics tables of RELION 3.1 for a table of RELION 3.0.

    Each distinct combination of microscope values, pixel size, beam tilt and treatment of the CTF becomes an optics
    group, in the order of appearance. Raises InputError where a column that this needs is missing.
    """
    missing = [label for label in MICROSCOPE if label not in table.columns]
    if missing:
        raise InputError(f"{table.source}: neither a table data_optics nor a column {missing[0]} in table "
                         f"data_{table.name[:60]}; give the whole RELION 3.1 file, or {remedy(*missing)}")
    used = [label for label in (*MICROSCOPE, *OPTIONAL) if label in table.columns]
    pixel_size = _pixel_size(table)
    values = np.stack([*(table.numbers(label) for label in used), pixel_size], axis=1)
    groups: dict[tuple[float, ...], int] = {}
    member = [groups.setdefault(tuple(row), len(groups) + 1) for row in values.tolist()]
    columns = {label: column for label, column in table.columns.items() if label not in (*used, *PIXEL)}
    other = table.columns.get("rlnPixelSize")
    if other is not None and disagrees(other, pixel_size):
        columns["rlnPixelSize"] = other  # kept, so that it is said
    columns["rlnOpticsGroup"] = [str(number) for number in member]
    particles = StarTable(table.source, table.name or "particles", columns)
    # The values are copied as text from the first row of each group, so that no digit changes.
    first = np.unique(member, return_index=True)[1].tolist()
    optics: dict[str, Texts] = {"rlnOpticsGroup": [str(number) for number in groups.values()],
              "rlnOpticsGroupName": [f"opticsGroup{number}" for number in groups.values()]}
    for label in used:
        optics[label] = [table.columns[label][row] for row in first]
    optics["rlnImagePixelSize"] = [f"{pixel_size[row]:.9g}" for row in first]
    return RelionTables(particles, StarTable(table.source, "optics", optics))


def origins_in_angstrom(table: StarTable, pixel_size: NDArray[np.float64]) -> StarTable:
    """The table with origins given in pixels replaced by origins in A, for pixel_size[b] in A.

    Where a table has both, the columns in A are kept and those in pixels are dropped.
    """
    columns: dict[str, Texts] = {}
    for label, column in table.columns.items():
        if label not in ORIGINS:
            columns[label] = column
        elif ORIGINS[label] not in table.columns:
            with np.errstate(over="ignore"):  # an infinite origin raises an InputError later, with its row
                columns[ORIGINS[label]] = format_column(table.numbers(label) * pixel_size)
    return StarTable(table.source, table.name, columns)


def disagrees(column: Column, pixel_size: NDArray[np.float64]) -> bool:
    """Whether a column of pixel sizes (A) says anywhere something else than pixel_size[b]."""
    with np.errstate(over="ignore"):
        return bool((np.abs(numbers_of(column) - pixel_size) > SAME_PIXEL * pixel_size).any())


def _pixel_size(table: StarTable) -> NDArray[np.float64]:
    """Pixel size[b] in A, from the detector's pixel in micrometres and the magnification or from rlnPixelSize."""
    if "rlnDetectorPixelSize" in table.columns and "rlnMagnification" in table.columns:
        magnification = table.numbers("rlnMagnification")
        bad = np.flatnonzero(magnification <= 0.0)
        if len(bad):
            raise InputError(f"{table.at(int(bad[0]))}: rlnMagnification is not positive; correct the row")
        # Rounded to nine digits, as in the optics table, so that a group has the same pixel size before and after.
        with np.errstate(over="ignore"):  # an infinite size raises an InputError later, with the optics table
            exact = table.numbers("rlnDetectorPixelSize") * 1e4 / magnification
        return np.array([float(f"{value:.9g}") for value in exact.tolist()])
    if "rlnPixelSize" in table.columns:
        return table.numbers("rlnPixelSize")
    raise InputError(f"{table.source}: table data_{table.name[:60]} gives no pixel size; add "
                     f"rlnDetectorPixelSize and rlnMagnification, or rlnPixelSize, or give it with --pixel-size")
