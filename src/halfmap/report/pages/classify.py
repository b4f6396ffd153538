"""The page of a classification (`halfmap classify`), OUT/report.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from halfmap.particles.table import ParticleTable
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure
from halfmap.report.pages.methods import RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.class_pictures import (
    ShownDifference,
    class_fsc_chart,
    moving_chart,
    share_chart,
    shown_difference,
)
from halfmap.report.pictures.slices import (
    PLANES,
    Picture,
    Window,
    central,
    central_greys,
    outline,
    scale_bar,
    slice_picture,
    window_around,
)
from halfmap.report.pictures.viewer import Viewer, viewer
from halfmap.report.record_values import Array, Record, number
from halfmap.validation.class_differences import SURE

MOST_PAIRS = 10  # of classes whose difference is shown: all of up to five classes
MIXTURE = Citation(
    "Classification by maximum likelihood",
    "Scheres SHW, Gao H, Valle M, Herman GT, Eggermont PPB, Frank J, Carazo JM.",
    "Disentangling conformational states of macromolecules in 3D-EM through likelihood optimization.",
    "Nat. Methods 4, 27–29 (2007).", "10.1038/nmeth992",
)  # fmt: skip


@dataclass(frozen=True)
class ClassesPage:
    """The contents of the page. Classes are in the order of their shares.

    records: of the iterations, oldest first; maps [k]: regularised maps [z,y,x], None of a class that is empty; halves
    [k][h]: their raw half maps; mask [z,y,x]. particles: as particles.star holds them. finished: no iteration follows.
    started, settings, version and command as in `Snapshot`.
    """

    records: Sequence[Record]
    maps: Sequence[Array | None]
    halves: Sequence[Sequence[Array] | None]
    mask: Array
    particles: ParticleTable | None = None
    finished: bool = False
    started: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


@dataclass(frozen=True)
class _Shown:
    """A class on the page: its number from 1, its figures, its surface and its central slices."""

    number: int
    said: str
    surface: Viewer | None
    slices: list[Picture]


def write_classes_page(folder: Path, shown: ClassesPage) -> Path:
    """Write FOLDER/report.html, complete in itself, and return its path."""
    last = shown.records[-1]
    pixel_size = float(number(last, "pixel_size") or 1.0)
    window = window_around(shown.mask, shown.mask.shape[0])
    classes = [_class(shown, k, window, pixel_size) for k in range(len(shown.maps))]
    contents = {
        "name": folder.resolve().name, "shown": shown, "written": now(), "headline": _headline(shown),
        "warnings": findings.warnings(shown.records), "notes": findings.other_notes(last), "classes": classes,
        "bar": scale_bar(window, pixel_size),
        "shares": share_chart(shown.records), "moving": moving_chart(shown.records),
        "fsc": class_fsc_chart(last), "differences": _differences(shown, window, pixel_size) if shown.finished else [],
        "tables": _tables(last), "settings": findings.setting_rows(shown.settings),
        "methods": _methods(shown), "citations": [MIXTURE, THRESHOLD, RANDOMISED],
        "surface_view": any(one.surface for one in classes), "crosses": str(last.get("crosses", "")),
        "sure": f"{SURE:g}",
    }  # fmt: skip
    return write_page(folder, "classify.html", contents)


def _class(shown: ClassesPage, k: int, window: Window, pixel_size: float) -> _Shown:
    known, v = shown.records[-1]["classes"][k], shown.maps[k]
    said = f"{100 * known['share']:.1f} % · {findings.grouped(known['images'])} images"
    if v is None:
        return _Shown(k + 1, f"{said} · empty, no map", None, [])
    said += f" · {figure(known['resolution_A'])} Å (within the mask {figure(known['resolution_corrected_A'])} Å)"
    edges = [outline(central(shown.mask, plane.axis), window) for plane in PLANES]
    slices = [slice_picture(f"class {k + 1}", plane, pixels, edge)
              for plane, pixels, edge in zip(PLANES, central_greys(v, window), edges, strict=True)]
    surface = viewer(v, shown.mask, pixel_size) if shown.finished else None
    return _Shown(k + 1, said, surface, slices)


def _differences(shown: ClassesPage, window: Window, pixel_size: float) -> list[ShownDifference]:
    """Every pair of classes that have maps, the largest first."""
    classes = shown.records[-1]["classes"]
    known = [(k, halves, classes[k]) for k, halves in enumerate(shown.halves) if halves is not None]
    return [
        shown_difference((a + 1, b + 1), (first, second), shown.mask, pixel_size,
                         max(one["resolution_A"], other["resolution_A"]), window)
        for (a, first, one), (b, second, other) in list(combinations(known, 2))[:MOST_PAIRS]
    ]


@dataclass(frozen=True)
class _Table:
    """How many images went from which class (rows) to which (columns)."""

    title: str
    rows: list[list[int]]


def _tables(last: Record) -> list[_Table]:
    titles = {"moved_from_first": "from the first iteration that told classes apart to the last",
              "moved": "in the last iteration"}
    return [_Table(title, last[key]) for key, title in titles.items() if key in last]


def _headline(shown: ClassesPage) -> Headline:
    last = shown.records[-1]
    classes = last["classes"]
    hero = Tile("Largest class", f"{100 * classes[0]['share']:.1f}", "%",
                f"{findings.grouped(classes[0]['images'])} of {findings.grouped(number(last, 'particles'))} images")
    chance = last.get("undecided")
    by_chance = "" if chance is None else f"; {100 * chance:.0f} % would, were classes drawn by their shares"
    tiles = [
        Tile("Classes", str(len(classes)), "", f"{sum(v is not None for v in shown.maps)} with a map"),
        Tile("Sure", f"{100 * float(last['sure']):.0f}", "%", "mean share of an image's best class"),
        Tile("Moved", f"{100 * float(last['changed']):.1f}", "%", "of the images, in the last iteration" + by_chance),
        Tile("Search", str(last.get("search", "")), "", f"iteration {last.get('iteration')}"),
    ]  # fmt: skip
    return Headline(hero, tiles)


def _methods(shown: ClassesPage) -> str:
    last, name = shown.records[-1], f"Halfmap {shown.version}".strip()
    count, images = len(last["classes"]), findings.grouped(number(last, "particles"))
    return (f"{images} particle images were sorted into {count} classes with {name} in {len(shown.records)} iterations "
            "of expectation maximisation: the share of a class in an image follows from the evidence of its map there "
            "and from its share of all images (Scheres et al. 2007). Half maps of a class share no image.")
