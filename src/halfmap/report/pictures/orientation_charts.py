"""The pictures of `halfmap orientations`: quantities over the sphere in colour, and FSC curves in cones."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from halfmap.report.pictures.axes import Axis, PlacedTick, linear_ticks, resolution_ticks
from halfmap.report.pictures.charts import SCALE, Chart, Drawing, Guide, Mark, Series, draw, shell_titles
from halfmap.report.pictures.colours import coloured, css_gradient
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.sphere import Float
from halfmap.report.record_values import Array, Record

WIDTH = 720  # pixels across a picture of the sphere
MOST_SAMPLING = 2.0  # times the mean: the end of the colour scale


@dataclass(frozen=True)
class SpherePicture:
    """A quantity over the sphere in colour. uri: PNG as data URI; gradient, ticks: the colour bar, in CSS."""

    uri: str
    gradient: str
    ticks: list[PlacedTick]
    title: str


def conical_chart(summary: Record) -> Drawing:
    """FSC of the whole map and of its best and worst cone, over bands that hold all cones and nine tenths of them.

    summary: the content of orientations.json.
    """
    box, pixel_size, found = summary["box"], summary["pixel_size_A"], summary["fsc"]
    shells = len(found["whole_map"])
    finest = 2 * pixel_size
    axis = Axis(math.inf, finest, "resolution (Å)", "inverse", resolution_ticks(math.inf, finest))
    positions = [2 * s / box for s in range(shells)]
    titles = shell_titles(box * pixel_size, shells)
    named = (("whole_map", "all directions", "c1"), ("best", "largest area", "c2"), ("worst", "smallest area", "c4"))
    series = [Series(name, found[key], style) for key, name, style in named]
    lowest = min(-0.05, max(min(min(values) for values in found.values()) - 0.03, -0.3))
    y = Axis(lowest, 1.03, "Fourier shell correlation in cones", "linear", linear_ticks(0, 1, 5))
    chart = Chart("Fourier shell correlation by direction", axis, y, positions, titles, series,
                  guides=[Guide(0.143, "0.143"), Guide(0.5, "0.5")], size="tall",
                  points=[Mark(summary["resolution_A"], 0.143, f"{summary['resolution_A']:.2f} Å", "c1")])
    bands = [("least", "greatest", 0.12), ("percentile_5", "percentile_95", 0.2)]
    return dataclasses.replace(draw(chart), bars=Markup("").join(
        _band(chart, found[low], found[high], strength) for low, high, strength in bands))


def _band(chart: Chart, low: Sequence[float], high: Sequence[float], opacity: float) -> Markup:
    """The area between two curves [s] as an SVG path."""
    places = [(at, value) for at, value in zip(chart.positions, high, strict=True)]
    places += [(at, value) for at, value in zip(reversed(chart.positions), reversed(low), strict=True)]
    heights = [(at, min(max(chart.y.fraction(value), 0), 1)) for at, value in places]
    outline = "L".join(f"{SCALE * at:.0f} {SCALE * (1 - height):.1f}" for at, height in heights)
    return Markup(f'<path style="fill:var(--c1);opacity:{opacity}" d="M{outline}Z"/>')


def sampling_picture(directions: Array, sampling: Array) -> SpherePicture:
    """Slices [d] through directions [d,3] of Fourier space, over their mean."""
    ticks = [PlacedTick(100 * value / MOST_SAMPLING, label)
             for value, label in ((0, "0"), (0.5, "0.5"), (1, "1"), (1.5, "1.5"), (2, "≥ 2"))]
    uri = _sphere_png(np.asarray(directions), np.asarray(sampling) / MOST_SAMPLING)
    return SpherePicture(uri, css_gradient(), ticks, "slices through a direction, over their mean")


def resolution_picture(axes: Array, resolution: Array) -> SpherePicture:
    """Resolution [c] (A) along axes [c,3], one of each opposite pair.

    Colours are even in 1/resolution, finer to the right. They span all directions, or at least a tenth of the finest
    1/resolution.
    """
    frequency = 1 / np.asarray(resolution, dtype=np.float64)
    hi = float(frequency.max())
    lo = min(float(frequency.min()), 0.9 * hi)
    axis = Axis(1 / lo, 1 / hi, "", "inverse", resolution_ticks(1 / lo, 1 / hi, 0.11))
    one = np.asarray(axes, dtype=np.float64)
    both = np.concatenate([one, -one])
    uri = _sphere_png(both, np.tile((frequency - lo) / (hi - lo), 2))
    return SpherePicture(uri, css_gradient(), axis.drawn_ticks(), "resolution at FSC 0.143 (Å)")


def _sphere_png(directions: Float, fractions: NDArray[np.floating]) -> str:
    """Fractions [d] of the colour scale at directions [d,3] as a Mollweide picture, twice as wide as high.

    A pixel takes the mean of the four nearest directions, weighted by inverse distance. The corners outside the rim
    hold the values at the rim, and the page cuts them off.
    """
    height = WIDTH // 2
    y, x = np.mgrid[1 - 1 / height : -1 : height * 1j, -2 + 2 / WIDTH : 2 : WIDTH * 1j]
    # Snyder 1987, Map projections, p. 252: the inverse needs no iteration.
    theta = np.arcsin(y.clip(-1, 1))
    latitude = np.arcsin(((2 * theta + np.sin(2 * theta)) / np.pi).clip(-1, 1))
    longitude = (np.pi * x / (2 * np.maximum(np.cos(theta), 1e-6))).clip(-np.pi, np.pi)
    level = np.cos(latitude)
    points = np.stack([level * np.cos(longitude), level * np.sin(longitude), np.sin(latitude)], -1)
    distance, nearest = cKDTree(directions).query(points.reshape(-1, 3), k=4)
    weight = 1 / np.maximum(distance, 1e-6)
    values = (fractions[nearest] * weight).sum(1) / weight.sum(1)
    return png_uri(np.rint(255 * coloured(values.reshape(height, WIDTH))).astype(np.uint8))
