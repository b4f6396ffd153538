"""How evenly the slices of all views cover Fourier space, told by the direction that they cover the least."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.finding import Finding
from halfmap.geometry.equal_area import cell_centres, equal_area_cells

Float = NDArray[np.float64]
COVERAGE_WIDTH = math.radians(10.0)  # a slice covers the directions that lie this close to its plane
THIN = 0.2  # coverage of the worst direction below which the map is blurred along it
MOST = 20_000  # views counted; of more, every n-th


@dataclass(frozen=True)
class Coverage:
    """Sampling of the direction [3] that is sampled the least, relative to uniform views."""

    least: float
    direction: Float


def fourier_coverage(views: Float, mass: Float) -> Coverage:
    """Lowest sampling of Fourier space over all directions, relative to uniform views.

    views: unit vectors [b,3]; mass: their weights [b]. The central slice of a view passes within an angle w of
    direction u if |view . u| < sin w, which holds for a share sin w of uniform views. Only directions of the upper half
    are looked at, because a slice through u passes through -u too.
    """
    grid = cell_centres(equal_area_cells(20))
    grid = grid[grid[:, 2] >= 0]
    stride = max(1, len(views) // MOST)
    some, weight = views[::stride], mass[::stride]
    near = np.abs(some @ grid.T) < math.sin(COVERAGE_WIDTH)
    relative = weight @ near / (weight.sum() * math.sin(COVERAGE_WIDTH))
    worst = int(relative.argmin())
    return Coverage(float(relative[worst]), grid[worst])


def in_words(direction: Float) -> str:
    """A direction [3] as the angles rot and tilt, in degrees."""
    rot = math.degrees(math.atan2(direction[1], direction[0]))
    tilt = math.degrees(math.acos(float(np.clip(direction[2], -1, 1))))
    return f"rot {rot:.0f}°, tilt {tilt:.0f}°"


def thin_coverage(views: Float, group: Float) -> list[Finding]:
    """A finding where the views [b,3], with all that are equivalent under group [g,3,3], leave a direction out."""
    some = views[:: max(1, len(views) * len(group) // MOST)]
    spread = np.einsum("bi,gij->bgj", some, group).reshape(-1, 3)
    found = fourier_coverage(spread, np.ones(len(spread)))
    if found.least >= THIN:
        return []
    return [Finding("preferred orientation", f"preferred orientation: Fourier space is sampled at {found.least:.2f} of "
                    f"uniform around {in_words(found.direction)}; the map is blurred along it", "views")]
