"""The page and the figure of `halfmap compare`: runs of the same particles, side by side."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from halfmap.maps.mrc import replaced_atomically
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Tile, Warned
from halfmap.report.pages.methods import LOCAL_RESOLUTION, NONUNIFORM, RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.charts import draw
from halfmap.report.pictures.colours import coloured
from halfmap.report.pictures.compare_charts import difference_chart, fsc_chart, stepped, truth_chart
from halfmap.report.pictures.compare_figure import Shown, figure, scale_ends
from halfmap.report.pictures.local_cutoff import LocalCutoff, Scale, local_cutoff
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import (
    VIEWS,
    Picture,
    Window,
    central,
    crop,
    grey_levels,
    outline,
    scale_bar,
    window_around,
)
from halfmap.report.pictures.surface import View, render_surface, turned
from halfmap.report.record_values import Array

TURNS = (turned(25.0, 12.0), turned(115.0, 12.0))  # a quarter of a turn apart
PIXELS = 640  # of a surface
SPECK = 0.02  # of the largest piece: smaller ones are not drawn
COLOURED = (5.0, 95.0)  # percent of the mask whose local resolution lies within the colours
DISPLAY = Citation(
    "Maps side by side on one B factor, each filtered by its own FSC, at thresholds of equal volume",
    NONUNIFORM.authors, NONUNIFORM.title, NONUNIFORM.source, NONUNIFORM.doi)  # fmt: skip


@dataclass(frozen=True)
class ComparedRuns:
    """What the page is drawn from.

    summary: the content of compare.json; mask [z,y,x]; runs: for each one, all in one frame, `map`, the sharpened map,
    `local`, its local resolution in A, and `theta`, its local cut-off in A or None, [z,y,x]. settings and version as in
    `Snapshot`.
    """

    summary: Mapping[str, Any]
    mask: Array
    runs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def command(self) -> str:
        """That repeats the comparison."""
        return str(self.summary["command"])


def write_compare_report(folder: Path, shown: ComparedRuns) -> Path:
    """Write FOLDER/compare.svg and FOLDER/compare.html, each complete in itself; returns the page's path."""
    summary, mask = shown.summary, shown.mask
    pixel_size = float(summary["pixel_size_A"])
    inside = [1 / run["local"][mask > 0.5].astype(np.float64) for run in shown.runs]
    ends = scale_ends([(float(low), float(high)) for low, high in (np.percentile(one, COLOURED) for one in inside)])
    scale = Scale(1 / ends.coarse, 1 / ends.fine)
    bodies = _bodies(shown)
    window = window_around(np.logical_or.reduce(bodies).astype(np.float32), mask.shape[0])
    slices, bar = _slices(shown, window), scale_bar(window, pixel_size)
    surfaces = _surfaces(shown, scale, _framed(bodies))
    drawn = figure(summary, [Shown(*pair) for pair in zip(surfaces, slices, strict=True)], ends, bar)
    with replaced_atomically(folder / "compare.svg") as stream:
        stream.write(drawn.encode())
    return write_page(folder, "compare.html", _contents(shown, slices, bar) | {"figure": drawn}, "compare.html")


def _contents(shown: ComparedRuns, slices: list[list[Picture]], bar: tuple[float, str]) -> dict[str, Any]:
    """Everything the template shows but the figure."""
    summary, names = shown.summary, [run["name"] for run in shown.summary["runs"]]
    charts = [fsc_chart(summary), truth_chart(summary), difference_chart(summary, "angle"),
              difference_chart(summary, "shift")]
    fsc, truth = (None if chart is None else draw(chart) for chart in charts[:2])
    angles, shifts = (None if chart is None else stepped(chart) for chart in charts[2:])
    hero, tiles = _headline(summary)
    return {
        "name": " · ".join(names), "shown": shown, "written": now(), "hero": hero, "tiles": tiles,
        "checks": [Warned(findings.sentence(_angstrom(note["text"])), note["run"]) for note in summary["notes"]],
        "readings": [],
        "verdict": [findings.sentence(_angstrom(text)) for text in summary["verdict"]],
        "fsc": fsc, "truth": truth, "angles": angles, "shifts": shifts,
        "rows": [[one[view] for one in slices] for view in range(len(VIEWS))],
        "bar_percent": bar[0], "bar_label": bar[1], "cutoffs": _cutoffs(shown),
        "names": names, "numbers": _numbers(summary), "differing": summary["settings"], "chimerax": _chimerax(summary),
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown),
        "citations": [DISPLAY, LOCAL_RESOLUTION, THRESHOLD, RANDOMISED],
    }  # fmt: skip


def _angstrom(text: str) -> str:
    return re.sub(r"(\d) A\b", r"\1 Å", text)


def _bodies(shown: ComparedRuns) -> list[NDArray[np.bool_]]:
    """What each surface encloses [z,y,x], without the specks that are not drawn either."""
    found = []
    for facts, run in zip(shown.summary["runs"], shown.runs, strict=True):
        label, number = ndimage.label(run["map"] * shown.mask >= facts["surface_level"])
        sizes = np.bincount(label.ravel(), minlength=number + 1)
        sizes[0] = 0
        found.append((sizes > SPECK * sizes.max())[label])
    return found


def _framed(bodies: Sequence[NDArray[np.bool_]]) -> list[View]:
    """The turns, framed alike around everything [z,y,x] that is shown."""
    points = np.argwhere(np.logical_or.reduce(bodies))[:, ::-1].astype(np.float64)
    if not len(points):
        return list(TURNS)
    middle = (points.min(0) + points.max(0)) / 2
    reach = max(float(np.abs((points - middle) @ np.array(turn.axes)[:2].T).max()) for turn in TURNS)
    return [View(turn.axes, (middle[0], middle[1], middle[2]), 1.03 * reach + 1) for turn in TURNS]


def _surfaces(shown: ComparedRuns, scale: Scale, views: Sequence[View]) -> list[list[str]]:
    """Surfaces of every run from every side, all on one scale."""

    def colours(local: NDArray[np.float64]) -> NDArray[np.float64]:
        return coloured(scale.fraction(1 / local.clip(1e-3)))

    drawn = []
    for facts, run in zip(shown.summary["runs"], shown.runs, strict=True):
        volume, level = np.asarray(run["map"] * shown.mask), float(facts["surface_level"])
        drawn.append([png_uri(render_surface(volume, level, view=view, values=run["local"], colours=colours,
                                             width=PIXELS, dust=SPECK)) for view in views])
    return drawn


def _slices(shown: ComparedRuns, window: Window) -> list[list[Picture]]:
    """The three central slices of every run within the mask, on one scale of grey once the maps are equally strong."""
    inside = shown.mask > 0.5
    maps = [run["map"] * shown.mask / max(float(run["map"][inside].std()), 1e-30) for run in shown.runs]
    cuts = [crop(central(volume, axis), window) for volume in maps for _, _, axis in VIEWS]
    greys = iter(grey_levels(cuts))
    return [[Picture(str(facts["name"]), f"{plane} slice", png_uri(next(greys)),
                     outline(central(shown.mask, axis), window), plane[0], plane[1]) for plane, _, axis in VIEWS]
            for facts in shown.summary["runs"]]


def _cutoffs(shown: ComparedRuns) -> list[tuple[str, LocalCutoff]]:
    """The local cut-off of the runs whose regulariser has one."""
    pixel_size = float(shown.summary["pixel_size_A"])
    found = [(str(facts["name"]), local_cutoff(run["theta"], shown.mask, pixel_size))
             for facts, run in zip(shown.summary["runs"], shown.runs, strict=True)]
    return [(name, cutoff) for name, cutoff in found if cutoff is not None]


def _headline(summary: Mapping[str, Any]) -> tuple[Tile, list[Tile]]:
    runs = summary["runs"]
    at = [run["resolution_A"]["corrected"]["0.143"] or 2 * summary["pixel_size_A"] for run in runs]
    best = int(np.argmin(at))
    others = ", ".join(f"{run['name']} {value:.2f} Å" for i, (run, value) in enumerate(zip(runs, at, strict=True))
                       if i != best)
    hero = Tile(f"{runs[best]['name']}, half maps", f"{at[best]:.2f}", "Å",
                f"FSC 0.143, one mask for all, corrected; {others}")
    tiles = []
    for run in runs[1:]:
        if run["poses"] is None:
            continue
        poses, told = run["poses"], f"{run['name']} from {runs[0]['name']}"
        tiles += [Tile("Orientations differ by", f"{poses['angle_median_deg']:.2g}", "°", f"median, {told}"),
                  Tile("More than 10° apart", f"{100 * poses['share_above_10_deg']:.2g}", "%",
                       f"of {findings.grouped(poses['common'])} particles, {told}"),
                  Tile("Shifts differ by", f"{poses['shift_median_A']:.2g}", "Å", f"median, {told}")]
    if summary["truth"]:
        found = [run["truth_resolution_A"] for run in runs]
        said = ", ".join(f"{run['name']} {findings.figure(value)}" for run, value in zip(runs, found, strict=True))
        tiles.append(Tile("Against the truth", findings.figure(min((v for v in found if v), default=None)), "Å",
                          f"FSC 0.5, in a mask around it: {said}"))
    tiles += [
        Tile("B factor of all maps", findings.figure(summary["bfactor_applied_A2"], 0), "Å²", "mean of the runs' own"
             if _own_bfactor(summary) else "given"),
        Tile("Surfaces enclose", f"{summary['enclosed_volume_A3'] / 1000:.0f}", "nm³", "in every map"),
        Tile("Mask", str(summary["mask"]).split(", ")[-1].removesuffix(" of the box"), "", str(summary["mask"])),
    ]  # fmt: skip
    return hero, tiles


def _own_bfactor(summary: Mapping[str, Any]) -> bool:
    """Whether the B factor is the mean of the runs' own."""
    return "--bfactor" not in str(summary["command"])


def _numbers(summary: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Rows of the table of numbers: what, unit, value of each run."""
    runs, nyquist = summary["runs"], f"< {2 * summary['pixel_size_A']:.2f}"
    rows = [(f"FSC {threshold}, {said}", "Å", [nyquist if (v := run["resolution_A"][kind][threshold]) is None
                                               else f"{v:.2f}" for run in runs])
            for threshold in ("0.143", "0.5")
            for kind, said in (("unmasked", "unmasked"), ("masked", "masked"), ("corrected", "masked, corrected"))]
    if summary["truth"]:
        rows.append(("FSC 0.5 with the truth", "Å", [findings.figure(run["truth_resolution_A"]) for run in runs]))
    rows += [
        ("local resolution, 5 / 50 / 95 %", "Å", [_three(run["local_resolution_A"]) for run in runs]),
        ("local cut-off, 5 / 50 / 95 %", "Å", [_three(run["local_cutoff_A"]) for run in runs]),
        ("own B factor, within the mask", "Å²", [_with_error(run) for run in runs]),
        ("regulariser", "", [str(run["regulariser"]) for run in runs]),
        ("symmetry", "", [str(run["symmetry"]) for run in runs]),
        ("particles", "", [findings.grouped(run["particles"]) for run in runs]),
        ("iterations", "", [_iterations(run) for run in runs]),
        ("CPU time", "", [" ".join(findings.duration(run["cpu_seconds"])) for run in runs]),
        ("crosses between half sets", "", [str(run["crosses"] or "not recorded") for run in runs]),
        ("level of the surface", "", [f"{run['surface_level']:.4g}" for run in runs]),
    ]  # fmt: skip
    return [row for row in rows if set(row[2]) != {"–"}]


def _three(percentiles: Mapping[str, float] | None) -> str:
    return "–" if percentiles is None else " / ".join(f"{value:.1f}" for value in percentiles.values())


def _with_error(run: Mapping[str, Any]) -> str:
    if run["bfactor_A2"] is None:
        return "–"
    return f"{findings.figure(run['bfactor_A2'], 0)} ± {run['bfactor_error_A2']:.0f}"


def _iterations(run: Mapping[str, Any]) -> str:
    return findings.grouped(run["iterations"]) + ("" if run["finished"] else ", not finished")


def _chimerax(summary: Mapping[str, Any]) -> str:
    """A command that shows the surfaces as here, once the sharpened maps are open in order."""
    return "; ".join(f"volume #{i} level {run['surface_level']:.4g}" for i, run in enumerate(summary["runs"], start=1))


def _methods(shown: ComparedRuns) -> str:
    summary, name = shown.summary, f"Halfmap {shown.version}".strip()
    bfactor = findings.figure(summary["bfactor_applied_A2"], 0)
    return (
        f"Maps were compared with {name}. Half-map FSC curves were computed without a mask and within one soft mask "
        "for all runs, the latter corrected by phase randomisation. For display each map was sharpened by the same B "
        f"factor of {bfactor} Å², weighted by √(2 FSC / (1 + FSC)) and low-pass filtered at its own resolution; "
        f"surfaces enclose {summary['enclosed_volume_A3']:.0f} Å³ in every map and are coloured by the local "
        f"resolution in windows {summary['window_A']:.1f} Å wide at half maximum (local FSC 0.5). Orientations were "
        "compared modulo the symmetry after the best rotation between the frames of the runs was taken out."
    )
