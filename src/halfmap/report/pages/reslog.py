"""The page of `halfmap reslog`: resolution against the number of particles, with fitted lines and B factors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, Warned, figure, grouped
from halfmap.report.pages.methods import RANDOMISED, THRESHOLD, Citation
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.reslog_plot import FittedLine, Plotted, Point, reslog_svg, write_reslog_svg
from halfmap.report.record_values import Record

RESLOG = Citation(
    "Resolution against the number of particles",
    "Stagg SM, Noble AJ, Spilman M, Chapman MS.",
    "ResLog plots as an empirical metric of the quality of cryo-EM reconstructions.",
    "J. Struct. Biol. 185, 418–426 (2014).",
    "10.1016/j.jsb.2013.12.010",
)
BFACTOR = Citation("B factor, and resolution at FSC 0.143", *[getattr(THRESHOLD, name) for name in (
    "authors", "title", "source", "doi")])
TITLES = {"corrected": "Within the mask, corrected", "unmasked": "Unmasked"}


@dataclass(frozen=True)
class ResLogPage:
    """The contents of the page. summary: the content of reslog.json; settings and version as in `Snapshot`."""

    summary: Record
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def command(self) -> str:
        """The command line that repeats this."""
        return str(self.summary["command"])


def write_reslog_page(folder: Path, shown: ResLogPage) -> Path:
    """Write FOLDER/reslog.svg and FOLDER/reslog.html, complete in itself; return the path of the page.

    Raises InputError if they cannot be written.
    """
    summary = shown.summary
    panels = {title: _plotted(summary, measure) for measure, title in TITLES.items()}
    write_reslog_svg(folder / "reslog.svg", panels, f"Poses {summary['poses']}; FSC {summary['threshold']}")
    contents = {
        "name": _name(folder.resolve()), "shown": shown, "written": now(), "headline": _headline(summary),
        "checks": [Warned(findings.sentence(text), where) for where, text in summary["notes"]],
        "caution": findings.sentence(summary["caution"]),
        "plots": {measure: Markup(reslog_svg({"": _plotted(summary, measure)}, standalone=False))
                  for measure in TITLES},
        "comparison": {measure: [_comparison(row) for row in summary["comparison"][measure]] for measure in TITLES},
        "lines": _lines(summary), "points": _points(summary), "settings": findings.setting_rows(shown.settings),
        "methods": _methods(shown), "citations": [BFACTOR, RESLOG, RANDOMISED],
    }  # fmt: skip
    return write_page(folder, "reslog.html", contents, "reslog.html")


def _name(folder: Path) -> str:
    """The name of the folder, with that of the run before it if its own name says nothing."""
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("reslog") else folder.name


def _plotted(summary: Record, measure: str) -> list[Plotted]:
    """All curves by one measure, with their B factors as notes. Bars are standard deviations of one subset."""
    curves = []
    for one in summary["curves"]:
        found, line = one[measure], one[measure]["line"]
        points = [Point(p["particles"], p["inverse_square"], p["inverse_square"] - (p["spread_inverse_square"] or 0.0),
                        p["inverse_square"] + (p["spread_inverse_square"] or 0.0)) for p in found["points"]]
        fitted = None if line is None else FittedLine(line["fewest"], line["most"], *line["ends"])
        said = f"B {_bfactor(line)} Å²" if line and line["bfactor_A2"] else "no B factor"
        curves.append(Plotted(one["name"], points, fitted, said))
    return curves


def _bfactor(line: Record | None) -> str:
    """The B factor of a line with its standard error; an en dash if there is none."""
    if line is None or line["bfactor_A2"] is None:
        return "–"
    return f"{line['bfactor_A2']:.0f} ± {line['bfactor_error_A2']:.0f}"


def _headline(summary: Record) -> Headline:
    first = summary["curves"][0]
    line = first["corrected"]["line"]
    value = line["bfactor_A2"] if line else None
    error = f" ± {line['bfactor_error_A2']:.0f} Å²" if value else ""
    hero = Tile("B factor", figure(value, 0), "Å²" if value else "", f"{first['name']}, within the mask{error}")
    tiles = [Tile("B factor", _bfactor(one["corrected"]["line"]), "Å²", f"{one['name']}, within the mask")
             for one in summary["curves"][1:]]
    for one in summary["curves"]:
        points = one["corrected"]["points"]
        if points:
            last = points[-1]
            tiles.append(Tile("Resolution", figure(last["resolution_A"]), "Å",
                              f"{one['name']}, {grouped(last['particles'])} particles, within the mask"))
    more = first["corrected"]["one_A_better"]
    if more is not None:
        tiles.append(Tile("1 Å better, extrapolated", f"{more['times']:.3g}", "times",
                          f"as many particles for {more['resolution_A']:.2f} Å, if the line of {first['name']} goes "
                          f"on: {_range(more)}"))
    poses = "kept from all particles" if summary["poses"] == "fixed" else "refined for each subset"
    return Headline(hero, [*tiles, Tile("Poses", poses, "", "see below what that means")])


def _range(more: Record) -> str:
    """How many times more particles an extrapolation says, within its standard error."""
    high = f"{more['times_high']:.3g}" if more["times_high"] else "any number"
    return f"{more['times_low']:.3g} to {high} within its standard error"


def _comparison(row: Record) -> str:
    few = {"": "", "<": "fewer than ", ">": "more than "}[row["bound"]]
    return (f"{row['higher']} reaches the {row['resolution_A']:.2f} Å of {row['lower']} with {few}"
            f"{grouped(round(row['particles']))} of its {grouped(row['of'])} particles (interpolated).")


def _lines(summary: Record) -> list[list[str]]:
    """Rows of the table of lines: curve, FSC, slope, B factor, range of particles, particles for 1 A better."""
    rows: list[list[str]] = []
    for one in summary["curves"]:
        for measure, title in TITLES.items():
            line, more = one[measure]["line"], one[measure]["one_A_better"]
            slope = "–" if line is None else f"{1e3 * line['slope']:.2f} ± {1e3 * line['slope_error']:.2f}"
            span = "–" if line is None else f"{grouped(line['fewest'])} to {grouped(line['most'])}"
            further = "–" if more is None else f"{more['resolution_A']:.2f} Å: × {more['times']:.3g} ({_range(more)})"
            rows.append([one["name"], title.lower(), slope, _bfactor(line), span, further])
    return rows


def _points(summary: Record) -> list[list[str]]:
    """Rows of the table of points: curve, particles, subsets, resolution by both measures."""
    rows: list[list[str]] = []
    for one in summary["curves"]:
        found = {measure: {p["particles"]: p for p in one[measure]["points"]} for measure in TITLES}
        for n in sorted({n for points in found.values() for n in points}, reverse=True):
            seen = [found[measure].get(n) for measure in TITLES]
            draws = max(len(p["draws_A"]) for p in seen if p)
            rows.append([one["name"], grouped(n), str(draws), *(_resolution(p) for p in seen)])
    return rows


def _resolution(point: Record | None) -> str:
    """The resolution (A) of a point with its spread; an en dash if there is none."""
    if point is None:
        return "–"
    spread = point["spread_A"]
    return figure(point["resolution_A"]) + (f" ± {spread:.2f}" if spread is not None else "")


def _methods(shown: ResLogPage) -> str:
    summary, name = shown.summary, f"Halfmap {shown.version}".strip()
    how = ("reconstructed at the poses found with all particles" if summary["poses"] == "fixed" else
           "refined anew from the same starting map")
    values = "; ".join(f"{one['name']}: {_bfactor(one['corrected']['line'])} Å²" for one in summary["curves"])
    return (
        "Random subsets of the particles, each half as large as the last and divided as the two half sets are, were "
        f"{how} with {name}. The resolution of their plain half maps, at FSC {summary['threshold']} within a soft mask "
        "and corrected by phase randomisation, was fitted as 1/d² = a + (2/B) ln N (Rosenthal & Henderson 2003), which "
        f"gives B factors (standard error from the scatter about the line) of {values}."
    )
