"""The page of `halfmap classes2d`: class means to choose from, and the command that keeps those chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.finding import Finding
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure, grouped
from halfmap.report.pages.methods import Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import Window, fourier_resize, grey_levels, scale_bar
from halfmap.report.record_values import Array, Record
from halfmap.workflows.classes2d import ClassRow

EM = Citation(
    "Maximum likelihood in two dimensions",
    "Scheres SHW, Valle M, Nuñez R, Sorzano COS, Marabini R, Herman GT, Carazo JM.",
    "Maximum-likelihood multi-reference refinement for electron microscopy images.",
    "J. Mol. Biol. 348, 139–149 (2005).",
    "10.1016/j.jmb.2005.02.031",
)
PRIOR = Citation(
    "Prior of the means",
    "Scheres SHW.",
    "A Bayesian view on cryo-EM structure determination.",
    "J. Mol. Biol. 415, 406–418 (2012).",
    "10.1016/j.jmb.2011.11.010",
)
TILE = 128  # pixels along the side of a picture
STRONG = 0.55  # of the signal that the better half of the images has, below which a class is not offered
FINER = 2.0  # times the finest resolution: a coarser class is not offered


@dataclass(frozen=True)
class Classes2dPage:
    """The contents of the page.

    rows: the classes, pictures [c, y, x]: their means; diameter and pixel_size in A; records: of the iterations;
    particles: how many images there are. settings, version and command as in `Snapshot`.
    """

    rows: Sequence[ClassRow]
    pictures: Array
    pixel_size: float
    diameter: float
    records: Sequence[Record]
    findings: Sequence[Finding]
    particles: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


@dataclass(frozen=True)
class ClassPicture:
    """A mean that is more than noise, as a PNG, and what is said of it; bar: its share in percent of the largest."""

    uri: str
    number: int
    percent: str
    resolution: str
    fineness: float
    signal: float
    images: str
    count: int
    empty: str
    bar: float


def write_classes2d_page(folder: Path, shown: Classes2dPage) -> Path:
    """Write FOLDER/report.html, complete in itself, and return its path."""
    window = _window(shown)
    contents = {
        "name": folder.resolve().name, "shown": shown, "written": now(), "headline": _headline(shown),
        "checks": findings.verdict_checks([one for one in shown.findings if one.level == "warning"]),
        "readings": findings.readings([one for one in shown.findings if one.level == "note"]),
        "classes": _pictures(shown, window), "strong": strong_enough(shown.rows), "finer": FINER,
        "bar": scale_bar(window, shown.pixel_size), "folder": str(folder),
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown), "citations": [EM, PRIOR],
    }  # fmt: skip
    return write_page(folder, "classes2d.html", contents)


def _window(shown: Classes2dPage) -> Window:
    """What of the box is shown: the circle of the particle with a little room."""
    box = shown.pictures.shape[-1]
    width = min(box, 2 * round(0.55 * shown.diameter / shown.pixel_size))
    first = box // 2 - width // 2
    return Window(first, width)


def _pictures(shown: Classes2dPage, window: Window) -> list[ClassPicture]:
    inside = slice(window.low, window.low + window.width)
    held = [row for row in shown.rows if row.share > 0]
    if not held:
        return []
    greys = grey_levels([fourier_resize(np.asarray(shown.pictures[row.number - 1])[inside, inside], TILE)
                         for row in held])
    most = max(max((row.share for row in shown.rows), default=0.0), 1e-9)
    return [
        ClassPicture(png_uri(grey), row.number, figure(100 * row.share, 1), figure(row.resolution, 1), row.resolution,
                     row.signal, grouped(row.images), row.images,
                     grouped(row.images - row.present) if row.images > row.present else "", 100 * row.share / most)
        for row, grey in zip(held, greys, strict=True)
    ]  # fmt: skip


def strong_enough(rows: Sequence[ClassRow]) -> float:
    """The signal in nats below which a class is not offered: empty micelles and fragments have less than particles, and
    their classes may be as fine."""
    held = sorted((row for row in rows if row.share > 0), key=lambda row: -row.signal)
    images = sum(row.images for row in held)
    before = 0
    for row in held:
        before += row.images
        if before >= 0.25 * images:  # the median of the better half
            return STRONG * row.signal
    return 0.0


def _headline(shown: Classes2dPage) -> Headline:
    last = shown.records[-1]
    used = sum(row.share > 0 for row in shown.rows)
    present = sum(row.present for row in shown.rows)
    finest = min((row.resolution for row in shown.rows if row.share > 0), default=None)
    seconds, unit = findings.duration(sum(float(one["seconds"]) for one in shown.records))
    tiles = [
        Tile("Probably a particle", figure(100 * present / max(1, shown.particles), 0), "%",
             f"{grouped(shown.particles - present)} images look like noise alone"),
        Tile("Finest mean", figure(finest, 1), "Å", "two halves of the class's images, which share its mean"),
        Tile("Time", seconds, unit, f"{len(shown.records)} iterations, to {float(last['limit_A']):.1f} Å"),
    ]  # fmt: skip
    hero = Tile("Classes", grouped(used), "", f"of {len(shown.rows)}, of {grouped(shown.particles)} images")
    return Headline(hero, tiles)


def _methods(shown: Classes2dPage) -> str:
    last = shown.records[-1]
    return (f"{shown.particles:,} particle images were sorted into {len(shown.rows)} two-dimensional classes with "
            f"Halfmap {shown.version}, by expectation maximisation over in-plane angles, shifts and classes (Scheres "
            f"et al. 2005) in {len(shown.records)} iterations to {float(last['limit_A']):.1f} Å, with log-likelihoods "
            "tempered at first and a class of images that hold no particle.")
