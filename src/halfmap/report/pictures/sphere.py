"""The distribution of view directions: equal-area cells on the sphere, drawn in the Mollweide projection."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.geometry.equal_area import Cells, cell_centres, equal_area_cells
from halfmap.geometry.symmetry import symmetry_group
from halfmap.report.record_values import Array
from halfmap.validation.view_coverage import fourier_coverage, in_words

Float = NDArray[np.float64]
MOST_VIEWS = 200_000  # views counted, with their equivalents by symmetry; of more, every n-th
LEVELS = 9  # shades of density


def _mollweide(longitude: Float, latitude: Float) -> tuple[Float, Float]:
    """Mollweide equal-area projection of angles in radians to x in [-2, 2], y in [-1, 1].

    Newton iteration for 2 theta + sin 2 theta = pi sin latitude (Snyder 1987, Map projections, p. 251).
    """
    theta = np.array(latitude, dtype=float)
    inner = np.abs(latitude) < np.pi / 2 - 1e-6
    for _ in range(12):
        slope = np.where(inner, 2 + 2 * np.cos(2 * theta), 1)
        step = (2 * theta + np.sin(2 * theta) - np.pi * np.sin(latitude)) / slope
        theta = np.where(inner, theta - step, theta)
    return 2 / np.pi * longitude * np.cos(theta), np.sin(theta)


@dataclass(frozen=True)
class Cell:
    """One cell ready to be drawn: SVG path, density level 0..8, text of the read-out."""

    path: str
    level: int
    text: str


@dataclass(frozen=True)
class Sphere:
    """The drawn distribution and its figures. Densities are in multiples of that of uniform views.

    graticule: SVG path; top: density of the highest level; busiest: density of the busiest cell; coverage: Fourier
    coverage of the worst direction, 1 for uniform views; busiest_at, coverage_at: where, in words; copies: equivalent
    views of each view by symmetry.
    """

    cells: list[Cell]
    graticule: str
    top: float
    busiest: float
    busiest_at: str
    empty_percent: float
    empty_by_chance_percent: float
    coverage: float
    coverage_at: str
    views: int
    copies: int


def view_sphere(directions: Array, weights: Array | None, symmetry: str) -> Sphere | None:
    """Density of view directions [b,3] with weights [b] over the sphere, with all views equivalent by symmetry.

    weights: None if all count alike. None if no direction is usable.
    """
    views = np.asarray(directions, dtype=np.float64).reshape(-1, 3)
    length = np.linalg.norm(views, axis=1)
    usable = np.isfinite(length) & (length > 0)
    share = np.ones(len(views)) if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    views, share = views[usable] / length[usable, None], share[usable]
    if not len(views) or share.sum() <= 0:
        return None
    operations = _operations(symmetry)
    stride = max(1, len(views) * len(operations) // MOST_VIEWS)
    spread = np.einsum("bi,gij->bgj", views[::stride], operations).reshape(-1, 3)
    mass = np.repeat(share[::stride], len(operations))
    rings = int(np.clip(math.sqrt(len(spread) / 10), 8, 24))
    cells = equal_area_cells(rings)
    total = int(cells.counts.sum())
    density = np.bincount(cells.locate(spread), mass, total) * total / mass.sum()
    coverage = fourier_coverage(spread, mass)
    busiest = cell_centres(cells)[int(density.argmax())]
    top = max(2.0, min(float(np.percentile(density, 99)), 8.0))
    return Sphere(
        cells=_draw_cells(cells, density, top), graticule=_graticule(), top=top,
        busiest=float(density.max()), busiest_at=_angles(busiest),
        empty_percent=float(100 * np.mean(density == 0)),
        empty_by_chance_percent=100 * math.exp(-len(spread) / total),
        coverage=coverage.least, coverage_at=_angles(coverage.direction), views=len(views), copies=len(operations),
    )  # fmt: skip


def _operations(symmetry: str) -> Float:
    """Rotations [g,3,3] of the point group; the identity alone if the name is not known."""
    try:
        group = symmetry_group(symmetry)
    except InputError:
        return np.eye(3)[None]
    return np.asarray(group, dtype=np.float64)


def _angles(direction: Float) -> str:
    return in_words(direction).replace("-", "\u2212")


def _draw_cells(cells: Cells, density: Float, top: float) -> list[Cell]:
    """Outlines of the cells in a 400 x 200 box, where the rot angle runs from -180 on the left to 180 on the right.

    density: of each cell; top: density of the highest level.
    """
    turns: list[Float] = []
    latitudes: list[Float] = []
    owner: list[int] = []
    ring = np.repeat(np.arange(len(cells.counts)), cells.counts)
    for i in range(len(density)):
        start = (i - cells.first[ring[i]]) / cells.counts[ring[i]]
        end = start + 1 / cells.counts[ring[i]]
        for left, right in _unwrap(start, end):
            # Sides are curved, most of all along the rim of the map at the poles.
            steps = 8 if ring[i] in (0, len(cells.counts) - 1) else 3
            side = np.pi / 2 - np.linspace(cells.edges[ring[i]], cells.edges[ring[i] + 1], steps)
            across = np.linspace(left, right, 3)
            sides = [np.full(steps - 2, right), np.full(steps - 2, left)]
            turns.append(np.concatenate([across, sides[0], across[::-1], sides[1]]))
            latitudes.append(np.concatenate([[side[0]] * 3, side[1:-1], [side[-1]] * 3, side[-2:0:-1]]))
            owner.append(i)
    ends = np.cumsum([len(part) for part in turns])[:-1]
    x, y = _mollweide(2 * np.pi * np.concatenate(turns), np.concatenate(latitudes))
    centres = cell_centres(cells)
    drawn: list[Cell] = []
    for i, along, up in zip(owner, np.split(x, ends), np.split(y, ends), strict=True):
        points = "L".join(f"{200 + 100 * a:.1f} {100 - 100 * b:.1f}" for a, b in zip(along, up, strict=True))
        level = 0 if density[i] == 0 else 1 + min(int((LEVELS - 1) * density[i] / top), LEVELS - 2)
        drawn.append(Cell(f"M{points}Z", level, f"{_angles(centres[i])} · {density[i]:.2f} × uniform"))
    return drawn


def _unwrap(start: float, end: float) -> list[tuple[float, float]]:
    """A stretch of turns in [0, 1] as stretches (start, end) in [-0.5, 0.5], cut where the map of the sphere is cut."""
    if end <= 0.5 + 1e-9:
        return [(start, end)]
    if start >= 0.5 - 1e-9:
        return [(start - 1, end - 1)]
    return [(start, 0.5), (-0.5, end - 1)]


def _graticule() -> str:
    """SVG path of meridians every 60 degrees and parallels every 30, in a 400 x 200 box."""
    paths: list[str] = []
    latitudes = np.linspace(-np.pi / 2, np.pi / 2, 41)
    for longitude in np.radians([-120, -60, 0, 60, 120]):
        paths.append(_polyline(*_mollweide(np.full_like(latitudes, longitude), latitudes)))
    for latitude in np.radians([-60, -30, 0, 30, 60]):
        ends = np.array([-np.pi, np.pi])
        paths.append(_polyline(*_mollweide(ends, np.full(2, latitude))))
    return "".join(paths)


def _polyline(x: Float, y: Float) -> str:
    return "M" + "L".join(f"{200 + 100 * a:.1f} {100 - 100 * b:.1f}" for a, b in zip(x, y, strict=True))
