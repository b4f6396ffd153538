"""Audit of the half sets of a particle table, and the leaks that a refinement of it warns of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.particles.table import ParticleTable
from halfmap.validation.halfset_audit import Anomaly, Images, Integers, audit

DIAMETER_PART = 0.25  # fraction of the diameter: two particles in one layer of ice are never as near
COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")


def leaks(table: ParticleTable, diameter: float) -> list[Finding]:
    """What a refinement of this table should warn of. Stacks are compared by file, not by content."""
    found = audit(images_of(table, same_file(table.stacks)), DIAMETER_PART * diameter)
    return [Finding(one.text.split(":")[0], f"{described(table, one)}; the FSC is too good, halfmap audit says more",
                    "half sets")
            for one in found.findings if one.kind == "leak"]


def images_of(table: ParticleTable, stacks: Integers) -> Images:
    """The table in the form that the audit takes; stacks[i]: equal numbers for stacks that are the same."""
    columns = table.columns
    stack = stacks[table.stack_index]
    position = None
    if all(label in columns for label in (*COORDINATES, "rlnMicrographName")):
        pixels = np.column_stack([_numbers(table, label) for label in COORDINATES])
        # A refined particle lies at the place where it was picked, less its origin.
        position = pixels * micrograph_pixel(table)[:, None] - table.origins.numpy()
    tube = None
    if "rlnHelicalTubeID" in columns:
        tube = _numbers(table, "rlnHelicalTubeID").astype(np.int64)
    most = int(table.image_index.max(initial=0)) + 1
    return Images(stack * most + table.image_index, table.half, table.micrograph, position, tube, table.rotations)


def _numbers(table: ParticleTable, label: str) -> NDArray[np.float64]:
    try:
        return np.array(table.columns[label], np.float64)
    except ValueError as error:
        raise InputError(f"{table.source}: {label} holds what is not a number ({error}); correct it") from None


def micrograph_pixel(table: ParticleTable) -> NDArray[np.float64]:
    """Pixel size [b] in A of the micrographs that coordinates refer to; that of the images where it is not given."""
    for label in ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize"):
        if label in table.optics_columns:
            return np.array(table.optics_columns[label], np.float64)[table.optics_index]
    return table.pixel_size.numpy()


def same_file(stacks: Sequence[Path]) -> Integers:
    """Numbers[i] that are equal for paths of the same file."""
    known: dict[object, int] = {}
    numbers = []
    for path in stacks:
        try:
            found = path.stat()
            key: object = (found.st_dev, found.st_ino)
        except OSError:
            key = path
        numbers.append(known.setdefault(key, len(known)))
    return np.array(numbers, np.int64)


def described(table: ParticleTable, finding: Anomaly) -> str:
    """A finding as text, with the rows of the file (from 1) where it was found."""
    rows = ", ".join(str(table.rows[i] + 1) for i in finding.rows)
    more = " .." if finding.count > len(finding.rows) else ""
    return f"{finding.kind}: {finding.text}" + (f" (rows {rows}{more})" if rows else "")
