"""The page of `halfmap start`: the map that was found, and whether the starts agree on it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.finding import Finding
from halfmap.refinement.starting_agreement import Agreement
from halfmap.refinement.starting_views import View
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, figure
from halfmap.report.pages.methods import Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.axes import Axis, Tick, linear_ticks, resolution_ticks, value_axis
from halfmap.report.pictures.charts import Chart, Drawing, Guide, Series, draw, shell_titles
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import (
    PLANES,
    Picture,
    central_greys,
    crop,
    fourier_resize,
    grey_levels,
    scale_bar,
    slice_picture,
    window_around,
)
from halfmap.report.pictures.viewer import viewer
from halfmap.report.record_values import Array, Record

STYLES = 8  # of curves in style.html
TILE = 96  # pixels along the side of a view
ROUTES = {"free": "no symmetry", "axes": "axes found, then imposed", "imposed": "imposed from the beginning"}
EM = Citation(
    "Expectation maximisation", "Scheres SHW.", "A Bayesian view on cryo-EM structure determination.",
    "J. Mol. Biol. 415, 406–418 (2012).", "10.1016/j.jmb.2011.11.010")
GRID = Citation(
    "Orientation grid", "Górski KM, Hivon E, Banday AJ, Wandelt BD, Hansen FK, Reinecke M, Bartelmann M.",
    "HEALPix: a framework for high-resolution discretization and fast analysis of data distributed on the sphere.",
    "Astrophys. J. 622, 759–771 (2005).", "10.1086/427976")


@dataclass(frozen=True)
class StartPage:
    """The contents of the page.

    told: the content of starts.json. maps: those of the classes of the best start, taken further [z,y,x], and views of
    them; starts: maps of the largest class of all starts [z,y,x], the best first, and agreements, what each has in
    common with the best; pixel_size in A. settings, version and command as in `Snapshot`.
    """

    told: Mapping[str, Any]
    maps: Sequence[Array]
    pixel_size: float
    starts: Sequence[Array]
    agreements: Sequence[Agreement]
    views: Sequence[Sequence[View]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_start_page(folder: Path, shown: StartPage) -> Path:
    """Write FOLDER/report.html, complete in itself, and return its path."""
    told = shown.told
    window = window_around(None, len(shown.maps[0]))
    trouble = [] if told["succeeded"] else [Finding("starts do not agree", str(told["verdict"]), "map")]
    contents = {
        "name": folder.resolve().name, "shown": shown, "written": now(), "headline": _headline(told),
        "checks": findings.verdict_checks(trouble), "verdict": told["verdict"], "told": told,
        "classes": [_class(shown, number) for number in range(len(shown.maps))],
        "bar": scale_bar(window, shown.pixel_size), "starts": _starts(shown), "rows": _rows(shown),
        "gains": _gain_chart(told["starts"]), "curves": _agreement_chart(shown),
        "groups": list(told["point_groups"].items()), "next": _next(folder, shown),
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown), "citations": [EM, GRID],
    }  # fmt: skip
    return write_page(folder, "start.html", contents)


def _headline(told: Mapping[str, Any]) -> Headline:
    starts = told["starts"]
    agreeing = [one for one in starts if one["agrees"]]
    others = [one["agrees_to_A"] for one in agreeing[1:]]
    hero = Tile("Starts that agree", f"{len(agreeing)} of {len(starts)}", "",
                f"with the best one, to {max(others):.0f} Å" if others else "none finds what the best one found")
    tiles = [
        Tile("Half maps", figure(told["classes"][0]["resolution_A"], 1), "Å",
             "FSC 0.143; each half is aligned to the other's map"),
        Tile("Evidence", figure(told["evidence"], 1), "nats", "of an image for the map that it is not in, mean"),
        Tile("Images", findings.grouped(told["images"]), "", f"{told['symmetry']} symmetry"),
        Tile("Hold a particle", f"{100 * told['particles']:.0f}", "%", "of the images, as far as this map tells"),
        Tile("Hand", "mirrored" if told["hand"] == "flip" else "unknown", "", "images alone cannot tell it"),
    ]  # fmt: skip
    return Headline(hero, tiles)


def _class(shown: StartPage, number: int) -> dict[str, Any]:
    """The map of a class to turn, its slices and views, and what is said of it; of one class nothing."""
    volume, told = shown.maps[number], shown.told["classes"][number]
    greys = central_greys(volume, window_around(None, len(volume)))
    said = f"Class {number + 1} · {100 * told['share']:.0f} % · {told['resolution_A']:.1f} Å"
    return {
        "said": said if len(shown.maps) > 1 else "", "surface_view": viewer(volume, None, shown.pixel_size),
        "slices": [slice_picture("map", plane, pixels, "") for plane, pixels in zip(PLANES, greys, strict=True)],
        "views": _views(shown.views[number]),
    }  # fmt: skip


def _starts(shown: StartPage) -> list[Picture]:
    """The projection of every start along z, as it lies, the best first."""
    window = window_around(None, len(shown.maps[0]))
    sums = [np.asarray(volume).sum(axis=0, dtype=np.float32) for volume in shown.starts]
    greys = grey_levels([crop(one, window) for one in sums])
    return [Picture(f"start {row['start']}", f"{row['evidence']:.1f} nats", png_uri(grey), "", "x", "y")
            for row, grey in zip(shown.told["starts"], greys, strict=True)]


def _rows(shown: StartPage) -> list[list[str]]:
    """The table of starts."""
    rows = []
    for place, one in enumerate(shown.told["starts"]):
        alike = "the best" if not place else f"{100 * one['same_pose_as_best']:.0f} %"
        hand = "–" if not place else ("other" if one["mirrored"] else "same")
        rows.append([str(one["start"]), ROUTES[one["route"]], f"{one['evidence']:.1f}", alike, hand,
                     "–" if not place else f"{one['agrees_to_A']:.0f}", "yes" if one["agrees"] else "no"])
    return rows


def _views(views: Sequence[View]) -> list[dict[str, str]]:
    """Class means and projections as pictures; each pair on grey scales of its own."""
    drawn = []
    for view in views:
        pair = [fourier_resize(np.asarray(one, dtype=np.float32), min(TILE, len(one)))
                for one in (view.mean.numpy(), view.projection.numpy())]
        mean, projection = (png_uri(grey_levels([one])[0]) for one in pair)
        drawn.append({"mean": mean, "projection": projection, "images": f"{view.images:.0f}"})
    return drawn


def _gain_chart(starts: Sequence[Record]) -> Drawing:
    """Evidence by iteration, a curve for each start."""
    longest = max(len(one["gains"]) for one in starts)
    ticks = tuple(Tick(float(n), str(n)) for n in range(1, longest + 1) if n % max(1, math.ceil(longest / 10)) == 0)
    axis = Axis(0.5, longest + 0.5, "iteration", "linear", ticks)
    series = [Series(f"start {one['start']}", [*one["gains"], *[None] * (longest - len(one["gains"]))],
                     f"c{place % STYLES + 1}", "nats") for place, one in enumerate(starts)]
    y = value_axis([one.values for one in series], "nats", zero=True)
    places = [axis.fraction(n) for n in range(1, longest + 1)]
    titles = [f"iteration {n}" for n in range(1, longest + 1)]
    return draw(Chart("Mean log evidence of an image", axis, y, places, titles, series))


def _agreement_chart(shown: StartPage) -> Drawing | None:
    """FSC of every other start's map with the best one's."""
    others = list(zip(shown.told["starts"], shown.agreements, strict=True))[1:]
    if not others:
        return None
    shells = len(others[0][1].curve)
    finest = 2 * shown.pixel_size
    axis = Axis(math.inf, finest, "resolution (Å)", "inverse", resolution_ticks(math.inf, finest))
    series = [Series(f"start {row['start']}", alike.curve.tolist(), f"c{place % STYLES + 1}")
              for place, (row, alike) in enumerate(others)]
    y = Axis(-0.2, 1.03, "Fourier shell correlation", "linear", linear_ticks(0, 1, 5))
    titles = shell_titles(2 * (shells - 1) * shown.pixel_size, shells)
    return draw(Chart("Maps of other starts with the best one's", axis, y, [s / (shells - 1) for s in range(shells)],
                      titles, series, guides=[Guide(0.5, "0.5")], size="tall"))


def _next(folder: Path, shown: StartPage) -> str:
    """The command that goes on from here."""
    def value(name: str) -> str:
        entry = shown.settings.get(name)
        return str(entry[0] if isinstance(entry, tuple) else entry)

    symmetry = "" if shown.told["symmetry"] == "C1" else f" --symmetry {shown.told['symmetry']}"
    if len(shown.maps) > 1:
        maps = " ".join(str(folder / f"class{number:03d}.mrc") for number in range(1, len(shown.maps) + 1))
        return (f"halfmap classify {value('particles')} --classes {len(shown.maps)} --map {maps} --search global "
                f"--diameter {value('diameter')}{symmetry} --out {folder.with_name(folder.name + '_classes')}")
    return (f"halfmap refine {value('particles')} --map {folder / 'map.mrc'} --diameter {value('diameter')}{symmetry} "
            f"--out {folder.with_name(folder.name + '_refined')}")


def _methods(shown: StartPage) -> str:
    told = shown.told
    return (f"A starting map was found with Halfmap {shown.version}".strip() + f" from {told['images']} images by "
            f"expectation maximisation over a grid of all orientations, {len(told['starts'])} times from random "
            "orientations. Two halves of the images were each compared with the map of the other half; "
            f"log-likelihoods were tempered at first. {told['verdict'][:1].upper()}{told['verdict'][1:]}.")
