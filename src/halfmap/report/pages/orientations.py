"""The page of `halfmap orientations`: views on the sphere, and how the half maps agree in every direction."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from halfmap.report.pages import findings
from halfmap.report.pages.findings import Tile, Warned, figure, grouped
from halfmap.report.pages.methods import RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.charts import (
    SCALE,
    Axis,
    Chart,
    Drawing,
    Guide,
    Series,
    draw,
    linear_ticks,
    resolution_ticks,
)
from halfmap.report.pictures.colours import coloured, css_gradient
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.sphere import Float, view_sphere
from halfmap.report.record_values import Array, Record

WIDTH = 720  # pixels across a picture of the sphere
MOST_SAMPLING = 2.0  # times the mean: the end of the colour scale
SAMPLING = Citation(
    "Fourier sampling and SCF*",
    "Baldwin PR, Lyumkis D.",
    "Non-uniformity of projection distributions attenuates resolution in cryo-EM.",
    "Prog. Biophys. Mol. Biol. 150, 160–183 (2020).",
    "10.1016/j.pbiomolbio.2019.09.002",
)
TOOLS = Citation(
    "SCF* of sets with gaps",
    "Baldwin PR, Lyumkis D.",
    "Tools for visualizing and analyzing Fourier space sampling in cryo-EM.",
    "Prog. Biophys. Mol. Biol. 160, 53–65 (2021).",
    "10.1016/j.pbiomolbio.2020.06.003",
)
CONES = Citation(
    "FSC in cones",
    "Tan YZ, Baldwin PR, Davis JH, Williamson JR, Potter CS, Carragher B, Lyumkis D.",
    "Addressing preferred specimen orientation in single-particle cryo-EM through tilting.",
    "Nature Methods 14, 793–796 (2017).",
    "10.1038/nmeth.4347",
)


@dataclass(frozen=True)
class OrientationsPage:
    """What the page is drawn from.

    summary: the content of orientations.json. views[b,3]: unit view directions; sampling[d]: slices through
    directions[d,3] of Fourier space over their mean; resolution[c]: in A along axes[c,3], one of each opposite pair.
    Each pair is None where it was not measured. settings, version and command as in `Snapshot`.
    """

    summary: Mapping[str, Any]
    views: Array | None = None
    directions: Array | None = None
    sampling: Array | None = None
    axes: Array | None = None
    resolution: Array | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


@dataclass(frozen=True)
class SpherePicture:
    """A quantity over the sphere in colour: PNG URI, the colour bar in CSS and its ticks as (percent, label)."""

    uri: str
    gradient: str
    ticks: list[tuple[float, str]]
    title: str


def write_orientations_page(folder: Path, shown: OrientationsPage) -> Path:
    """Write FOLDER/orientations.html, complete in itself, and return its path."""
    hero, tiles = _headline(shown.summary)
    sphere = None if shown.views is None else view_sphere(shown.views, None, str(shown.summary["symmetry"]))
    contents = {
        "name": _name(folder.resolve()), "shown": shown, "summary": shown.summary, "written": now(), "hero": hero,
        "tiles": tiles, "sphere": sphere,
        "checks": [Warned(findings.sentence(text), "map" if "cFAR" in text else "views")
                   for text in shown.summary["verdict"]],
        "sampling": _sampling_picture(shown), "resolution": _resolution_picture(shown),
        "fsc": _conical_chart(shown.summary) if "fsc" in shown.summary else None, "at": _at,
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown),
        "citations": [*([SAMPLING, TOOLS] if shown.views is not None else []),
                      *([CONES, THRESHOLD, RANDOMISED] if shown.axes is not None else [])],
    }  # fmt: skip
    return write_page(folder, "orientations.html", contents, "orientations.html")


def _name(folder: Path) -> str:
    """The folder, with that of the run where its own name says nothing."""
    return f"{folder.parent.name}/{folder.name}" if folder.name == "orientations" else folder.name


def _headline(summary: Record) -> tuple[Tile, list[Tile]]:
    tiles = []
    if "scf_star" in summary:
        sampled = 100 * summary["fourier_space_sampled"]
        tiles += [
            Tile("SCF*", figure(summary["scf_star"]), "", f"1 for even views, {summary['scf_star_side_views']:.2f} for "
                 "side views alone, 0 with large gaps"),
            Tile("Fourier space sampled", figure(sampled, 1 if sampled < 99.95 else 0), "%", f"least: "
                 f"{summary['least_sampled']:.2f} of the mean, at {_at(summary['least_sampled_at_deg'])}"),
            Tile("Views", grouped(summary["particles"]), "", f"symmetry {summary['symmetry']}"),
        ]  # fmt: skip
    if "cfar" not in summary:
        return tiles[0], tiles[1:]
    told = summary["resolution_by_direction_A"]
    cones = Tile("cFAR", figure(summary["cfar"]), "", f"1 for an isotropic map; below {summary['cfar_threshold']:g} "
                 "it is anisotropic")
    tiles += [
        Tile("Resolution by direction", f"{told['percentile_95']:.2f} to {told['percentile_5']:.2f}", "Å",
             f"nine tenths of the directions; all {told['coarsest']:.2f} to {told['finest']:.2f} Å"),
        Tile("Whole map", figure(summary["resolution_A"]), "Å", "within the mask, corrected, FSC 0.143"),
        Tile("Worst direction", figure(summary["worst_resolution_A"]), "Å", _at(summary["worst_at_deg"])),
    ]  # fmt: skip
    return cones, tiles


def _at(angles: Sequence[float]) -> str:
    return f"rot {angles[0]:.0f}°, tilt {angles[1]:.0f}°".replace("-", "\u2212")


def _conical_chart(summary: Record) -> Drawing:
    """FSC of the whole map and of its best and worst cone, over the bands of all cones and of nine tenths of them."""
    box, pixel_size, found = summary["box"], summary["pixel_size_A"], summary["fsc"]
    shells = len(found["whole_map"])
    finest = 2 * pixel_size
    axis = Axis(math.inf, finest, "resolution (Å)", "inverse", resolution_ticks(math.inf, finest))
    positions = [2 * s / box for s in range(shells)]
    titles = [f"{box * pixel_size / s:.2f} Å · shell {s}" if s else "shell 0" for s in range(shells)]
    named = (("whole_map", "all directions", "c1"), ("best", "largest area", "c2"), ("worst", "smallest area", "c4"))
    series = [Series(name, found[key], style) for key, name, style in named]
    lowest = min(-0.05, max(min(min(values) for values in found.values()) - 0.03, -0.3))
    y = Axis(lowest, 1.03, "Fourier shell correlation in cones", "linear", linear_ticks(0, 1, 5))
    chart = Chart("Fourier shell correlation by direction", axis, y, positions, titles, series,
                  guides=[Guide(0.143, "0.143"), Guide(0.5, "0.5")], size="tall",
                  points=[(summary["resolution_A"], 0.143, f"{summary['resolution_A']:.2f} Å", "c1")])
    bands = [("least", "greatest", 0.12), ("percentile_5", "percentile_95", 0.2)]
    return dataclasses.replace(draw(chart), bars=Markup("").join(
        _band(chart, found[low], found[high], strength) for low, high, strength in bands))


def _band(chart: Chart, low: Sequence[float], high: Sequence[float], opacity: float) -> Markup:
    """The area between two curves as an SVG path."""
    places = [(at, value) for at, value in zip(chart.positions, high, strict=True)]
    places += [(at, value) for at, value in zip(reversed(chart.positions), reversed(low), strict=True)]
    heights = [(at, min(max(chart.y.fraction(value), 0), 1)) for at, value in places]
    outline = "L".join(f"{SCALE * at:.0f} {SCALE * (1 - height):.1f}" for at, height in heights)
    return Markup(f'<path style="fill:var(--c1);opacity:{opacity}" d="M{outline}Z"/>')


def _sampling_picture(shown: OrientationsPage) -> SpherePicture | None:
    if shown.directions is None or shown.sampling is None:
        return None
    ticks = [(100 * value / MOST_SAMPLING, label) for value, label in ((0, "0"), (0.5, "0.5"), (1, "1"), (1.5, "1.5"),
                                                                       (2, "≥ 2"))]
    uri = _sphere_png(np.asarray(shown.directions), np.asarray(shown.sampling) / MOST_SAMPLING)
    return SpherePicture(uri, css_gradient(), ticks, "slices through a direction, over their mean")


def _resolution_picture(shown: OrientationsPage) -> SpherePicture | None:
    """Colours even in 1/resolution, finer to the right, over all directions or at least a tenth of the finest."""
    if shown.axes is None or shown.resolution is None:
        return None
    frequency = 1 / np.asarray(shown.resolution, dtype=np.float64)
    hi = float(frequency.max())
    lo = min(float(frequency.min()), 0.9 * hi)
    axis = Axis(1 / lo, 1 / hi, "", "inverse", resolution_ticks(1 / lo, 1 / hi, 0.11))
    axes = np.asarray(shown.axes, dtype=np.float64)
    both = np.concatenate([axes, -axes])
    uri = _sphere_png(both, np.tile((frequency - lo) / (hi - lo), 2))
    return SpherePicture(uri, css_gradient(), axis.drawn_ticks(), "resolution at FSC 0.143 (Å)")


def _sphere_png(directions: Float, fractions: NDArray[np.floating]) -> str:
    """Fractions[d] of the colour scale at directions[d,3] as a Mollweide picture, twice as wide as high.

    A pixel takes the mean of the four nearest directions, weighted by inverse distance. Corners outside the map's rim
    hold what lies at the rim; the page cuts them off.
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


def _methods(shown: OrientationsPage) -> str:
    summary, name, parts = shown.summary, f"Halfmap {shown.version}".strip(), []
    if "scf_star" in summary:
        parts.append(f"The sampling of Fourier space by {grouped(summary['views_counted'])} views in symmetry "
                     f"{summary['symmetry']} (Baldwin & Lyumkis 2020) has an SCF* of {summary['scf_star']:.2f}.")
    if "cfar" in summary:
        told = summary["resolution_by_direction_A"]
        parts.append(
            f"The FSC of the half maps within the mask was measured in double cones of half-angle "
            f"{summary['cone_half_angle_deg']:g}° about {summary['directions']} axes and corrected by phase "
            "randomisation; the ratio of the smallest to the largest area under these curves, up to the Nyquist "
            f"frequency (cFAR), is {summary['cfar']:.2f}, and the resolution at FSC 0.143 lies between "
            f"{told['finest']:.2f} and {told['coarsest']:.2f} Å.")
    return f"Orientations were examined with {name}. " + " ".join(parts)
