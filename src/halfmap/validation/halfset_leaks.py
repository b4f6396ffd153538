"""Audit of the half sets of a particle table, and the leaks that a refinement of it warns of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfmap.finding import Finding
from halfmap.particles.half_sets import filaments
from halfmap.particles.same_images import first_named
from halfmap.particles.table import Integers, ParticleTable
from halfmap.validation.halfset_audit import Anomaly, Images, audit

DIAMETER_PART = 0.25  # fraction of the diameter: two particles in one layer of ice are never as near
COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")


def leaks(table: ParticleTable, diameter: float, first: Integers | None = None) -> list[Finding]:
    """What a refinement of this table should say of its half sets and of what they hold more than once.

    first[b]: the first row that shows the same image; None where images are compared by name, not by content.
    """
    named = first_named(table)
    first = named if first is None else first
    images = images_of(table, first, compared=not np.array_equal(first, named))
    found = audit(images, DIAMETER_PART * diameter).findings
    return [Finding(one.name, _told(table, one), "half sets", one.level) for one in found if one.level is not None]


def _told(table: ParticleTable, one: Anomaly) -> str:
    text = described(table, one)
    if one.kind == "leak":
        return f"leak: {text}; the FSC is too good, halfmap audit says more"
    return text + ("; halfmap audit --out writes a file without them" if one.kind == "duplicate" else "")


def images_of(table: ParticleTable, first: Integers, compared: bool = False) -> Images:
    """The table in the form that the audit takes; first[b]: the first row that shows the same image; compared: whether
    it took their pixels to know."""
    columns = table.columns
    position = None
    if all(label in columns for label in (*COORDINATES, "rlnMicrographName")):
        pixels = np.column_stack([table.numbers(label) for label in COORDINATES])
        # A refined particle lies at the place where it was picked, less its origin.
        position = pixels * micrograph_pixel(table)[:, None] - table.origins.numpy()
    return Images(first, table.half, table.micrograph, position, filaments(table), table.rotations, compared)


def micrograph_pixel(table: ParticleTable) -> NDArray[np.float64]:
    """Pixel size [b] in A of the micrographs that coordinates refer to; that of the images where it is not given."""
    for label in ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize"):
        if label in table.optics_columns:
            return np.array(table.optics_columns[label], np.float64)[table.optics_index]
    return table.pixel_size.numpy()


def described(table: ParticleTable, finding: Anomaly) -> str:
    """A finding as text, with the rows of the file (from 1) where it was found, and those that they repeat."""
    more = " .." if finding.count > len(finding.rows) else ""
    rows, first = (", ".join(str(table.rows[i] + 1) for i in some) for some in (finding.rows, finding.first))
    where = f" (rows {rows}{more})" if rows else ""
    return f"{finding.text}{where}" + (f", the same as rows {first}{more}" if first else "")
