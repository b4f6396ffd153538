"""How a specimen lies in the microscope: the plane through the heights that the defocus of its particles says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import ParticleTable

COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")
PIXEL = ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")  # A; what coordinates count, newest spelling first
FEWEST = 20  # particles that a plane is fitted to
SIGNIFICANT = 4.0  # standard errors by which a slope must differ from 0


@dataclass(frozen=True)
class Places:
    """Where particles lie on their micrographs: x and y [b] in A off the mean of each micrograph. assumed: whether the
    pixel of the coordinates is taken to be that of the images, as no column says it."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    assumed: bool


@dataclass(frozen=True)
class SpecimenTilt:
    """The tilt that all micrographs have in common, in degrees with its standard error, and the direction in which the
    defocus increases, in degrees from x. significant: whether it can be told from none."""

    angle: float
    error: float
    azimuth: float
    significant: bool


def places_of(table: ParticleTable) -> Places | None:
    """Where the particles lie; None where the file does not say it."""
    if any(label not in table.columns for label in COORDINATES):
        return None
    pixel, assumed = np.array([group.pixel_size for group in table.optics]), True
    for label in PIXEL:
        if label in table.optics_columns:
            pixel, assumed = numbers_of(table.optics_columns[label]), False
            break
    x, y = (numbers_of(table.columns[label]) * pixel[table.optics_index] for label in COORDINATES)
    return Places(_centred(x, table), _centred(y, table), assumed)


def specimen_tilt(table: ParticleTable, places: Places) -> SpecimenTilt | None:
    """The plane that defocus lies in, by least squares within micrographs; None of too few particles.

    Defocus rises by tan(tilt) for each A along the direction of steepest ascent.
    """
    u, v = table.defocus.u.numpy(), table.defocus.v.numpy()
    height = _centred(0.5 * (u + v), table)
    design = np.stack([places.x, places.y], axis=1)
    free = len(table) - len(np.unique(table.micrograph)) - 2
    matrix = design.T @ design
    if free < FEWEST or np.linalg.cond(matrix) > 1e6:
        return None
    slope = np.linalg.solve(matrix, design.T @ height)
    variance = float(((height - design @ slope) ** 2).sum()) / free
    covariance = variance * np.linalg.inv(matrix)
    steepest = float(np.hypot(*slope))
    score = float(slope @ np.linalg.pinv(covariance) @ slope) if variance > 0 else math.inf
    along = slope / max(steepest, 1e-30)
    error = math.sqrt(max(0.0, float(along @ covariance @ along)))
    return SpecimenTilt(math.degrees(math.atan(steepest)), math.degrees(error / (1 + steepest**2)),
                        math.degrees(math.atan2(slope[1], slope[0])) % 360, steepest > 0 and score > SIGNIFICANT**2)


def _centred(values: NDArray[np.float64], table: ParticleTable) -> NDArray[np.float64]:
    """Values [b] less the mean of their micrograph."""
    counts = np.maximum(np.bincount(table.micrograph), 1)
    return values - (np.bincount(table.micrograph, values) / counts)[table.micrograph]
