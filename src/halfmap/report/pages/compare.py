"""The page of `halfmap compare`, with its figure: runs of the same particles side by side."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfmap.maps.mrc import replaced_atomically
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, Warned
from halfmap.report.pages.methods import LOCAL_RESOLUTION, NONUNIFORM, RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.charts import draw
from halfmap.report.pictures.compare_charts import difference_chart, fsc_chart, stepped, truth_chart
from halfmap.report.pictures.compare_figure import Shown, common_scale, figure
from halfmap.report.pictures.compare_surfaces import enclosed, framed, surface_pictures
from halfmap.report.pictures.local_cutoff import LocalCutoff, Scale, local_cutoff
from halfmap.report.pictures.slices import (
    PLANES,
    Picture,
    ScaleBar,
    Window,
    central,
    crop,
    grey_levels,
    outline,
    scale_bar,
    slice_picture,
    window_around,
)
from halfmap.report.record_values import Array

PIXELS = 640  # along the side of a surface's picture
COLOURED = (5.0, 95.0)  # percentiles of local resolution within the mask at the ends of the colours
DISPLAY = Citation(
    "Maps side by side on one B factor, each filtered by its own FSC, at thresholds of equal volume",
    NONUNIFORM.authors, NONUNIFORM.title, NONUNIFORM.source, NONUNIFORM.doi)  # fmt: skip


@dataclass(frozen=True)
class ComparedRuns:
    """The contents of the page.

    summary: the content of compare.json; mask: [z,y,x]; runs: for each run, all in one frame, `map`, the sharpened map,
    `local`, its local resolution in A, and `theta`, its local cut-off in A or None [z,y,x]. settings and version as in
    `Snapshot`.
    """

    summary: Mapping[str, Any]
    mask: Array
    runs: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def command(self) -> str:
        """The command line that repeats the comparison."""
        return str(self.summary["command"])


def write_compare_report(folder: Path, shown: ComparedRuns) -> Path:
    """Write FOLDER/compare.svg and FOLDER/compare.html, each complete in itself; return the path of the page."""
    summary, mask = shown.summary, shown.mask
    pixel_size = float(summary["pixel_size_A"])
    inside = [1 / run["local"][mask > 0.5].astype(np.float64) for run in shown.runs]
    ends = common_scale([Scale(float(low), float(high))
                         for low, high in (np.percentile(one, COLOURED) for one in inside)])
    scale = Scale(1 / ends.coarse, 1 / ends.fine)
    runs = list(zip(summary["runs"], shown.runs, strict=True))
    bodies = [enclosed(run["map"] * mask, facts["surface_level"]) for facts, run in runs]
    window = window_around(np.logical_or.reduce(bodies).astype(np.float32), mask.shape[0])
    slices, bar, views = _slices(shown, window), scale_bar(window, pixel_size), framed(bodies)
    surfaces = [surface_pictures(np.asarray(run["map"] * mask), float(facts["surface_level"]), run["local"], scale,
                                 views, PIXELS) for facts, run in runs]
    drawn = figure(summary, [Shown(*pair) for pair in zip(surfaces, slices, strict=True)], ends, bar)
    with replaced_atomically(folder / "compare.svg") as stream:
        stream.write(drawn.encode())
    return write_page(folder, "compare.html", _contents(shown, slices, bar) | {"figure": drawn}, "compare.html")


def _contents(shown: ComparedRuns, slices: list[list[Picture]], bar: ScaleBar) -> dict[str, Any]:
    """Everything that the template shows but the figure. slices: of each run."""
    summary, names = shown.summary, [run["name"] for run in shown.summary["runs"]]
    charts = [fsc_chart(summary), truth_chart(summary), difference_chart(summary, "angle"),
              difference_chart(summary, "shift")]
    fsc, truth = (None if chart is None else draw(chart) for chart in charts[:2])
    angles, shifts = (None if chart is None else stepped(chart) for chart in charts[2:])
    return {
        "name": " · ".join(names), "shown": shown, "written": now(), "headline": _headline(summary),
        "checks": [Warned(findings.sentence(_angstrom(note["text"])), note["run"]) for note in summary["notes"]],
        "readings": [],
        "verdict": [findings.sentence(_angstrom(text)) for text in summary["verdict"]],
        "fsc": fsc, "truth": truth, "angles": angles, "shifts": shifts,
        "rows": [[one[i] for one in slices] for i in range(len(PLANES))], "bar": bar, "cutoffs": _cutoffs(shown),
        "names": names, "numbers": _numbers(summary), "differing": summary["settings"], "chimerax": _chimerax(summary),
        "settings": findings.setting_rows(shown.settings), "methods": _methods(shown),
        "citations": [DISPLAY, LOCAL_RESOLUTION, THRESHOLD, RANDOMISED],
    }  # fmt: skip


def _angstrom(text: str) -> str:
    return re.sub(r"(\d) A\b", r"\1 Å", text)


def _slices(shown: ComparedRuns, window: Window) -> list[list[Picture]]:
    """The central slices of each run within the mask. Maps are scaled alike, so that all share one scale of grey."""
    inside = shown.mask > 0.5
    maps = [run["map"] * shown.mask / max(float(run["map"][inside].std()), 1e-30) for run in shown.runs]
    cuts = [crop(central(volume, plane.axis), window) for volume in maps for plane in PLANES]
    greys = iter(grey_levels(cuts))
    return [[slice_picture(str(facts["name"]), plane, next(greys), outline(central(shown.mask, plane.axis), window))
             for plane in PLANES] for facts in shown.summary["runs"]]


def _cutoffs(shown: ComparedRuns) -> list[tuple[str, LocalCutoff]]:
    """Name and local cut-off of each run whose regulariser has one."""
    pixel_size = float(shown.summary["pixel_size_A"])
    found = [(str(facts["name"]), local_cutoff(run["theta"], shown.mask, pixel_size))
             for facts, run in zip(shown.summary["runs"], shown.runs, strict=True)]
    return [(name, cutoff) for name, cutoff in found if cutoff is not None]


def _headline(summary: Mapping[str, Any]) -> Headline:
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
    return Headline(hero, tiles)


def _own_bfactor(summary: Mapping[str, Any]) -> bool:
    """Whether the B factor is the mean of those of the runs, and not given."""
    return "--bfactor" not in str(summary["command"])


@dataclass(frozen=True)
class NumberRow:
    """A row of the table of numbers. by_run: the value of each run."""

    what: str
    unit: str
    by_run: list[str]


def _numbers(summary: Mapping[str, Any]) -> list[NumberRow]:
    """The table of numbers, without rows that no run has a value for."""
    runs, nyquist = summary["runs"], f"< {2 * summary['pixel_size_A']:.2f}"
    rows = [NumberRow(f"FSC {threshold}, {said}", "Å",
                      [nyquist if (v := run["resolution_A"][kind][threshold]) is None else f"{v:.2f}" for run in runs])
            for threshold in ("0.143", "0.5")
            for kind, said in (("unmasked", "unmasked"), ("masked", "masked"), ("corrected", "masked, corrected"))]
    if summary["truth"]:
        rows.append(NumberRow("FSC 0.5 with the truth", "Å",
                              [findings.figure(run["truth_resolution_A"]) for run in runs]))
    rows += [
        NumberRow("local resolution, 5 / 50 / 95 %", "Å", [_percentiles(run["local_resolution_A"]) for run in runs]),
        NumberRow("local cut-off, 5 / 50 / 95 %", "Å", [_percentiles(run["local_cutoff_A"]) for run in runs]),
        NumberRow("own B factor, within the mask", "Å²", [_with_error(run) for run in runs]),
        NumberRow("regulariser", "", [str(run["regulariser"]) for run in runs]),
        NumberRow("symmetry", "", [str(run["symmetry"]) for run in runs]),
        NumberRow("particles", "", [findings.grouped(run["particles"]) for run in runs]),
        NumberRow("iterations", "", [_iterations(run) for run in runs]),
        NumberRow("CPU time", "", [" ".join(findings.duration(run["cpu_seconds"])) for run in runs]),
        NumberRow("crosses between half sets", "", [str(run["crosses"] or "not recorded") for run in runs]),
        NumberRow("level of the surface", "", [f"{run['surface_level']:.4g}" for run in runs]),
    ]  # fmt: skip
    return [row for row in rows if set(row.by_run) != {"–"}]


def _percentiles(percentiles: Mapping[str, float] | None) -> str:
    return "–" if percentiles is None else " / ".join(f"{value:.1f}" for value in percentiles.values())


def _with_error(run: Mapping[str, Any]) -> str:
    """The B factor of a run with its standard error; an en dash if none was fitted."""
    if run["bfactor_A2"] is None:
        return "–"
    return f"{findings.figure(run['bfactor_A2'], 0)} ± {run['bfactor_error_A2']:.0f}"


def _iterations(run: Mapping[str, Any]) -> str:
    return findings.grouped(run["iterations"]) + ("" if run["finished"] else ", not finished")


def _chimerax(summary: Mapping[str, Any]) -> str:
    """A command that shows the surfaces as in the figure, once the sharpened maps are open in their order."""
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
