"""The page of `halfmap tune-ssri`: what every value of every parameter was judged by, and what was taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.report.pages import findings
from halfmap.report.pages.findings import Tile, Warned, duration, figure, grouped
from halfmap.report.pages.methods import RANDOMISED, SPARSE_SMOOTH, THRESHOLD
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.charts import (
    Axis,
    Chart,
    Drawing,
    Guide,
    Series,
    draw,
    linear_ticks,
    resolution_ticks,
    value_axis,
)
from halfmap.report.record_values import Record

SIGNS = {"alpha": "α", "beta": "β", "gamma": "γ", "eps_gradient": "ε′"}
MEANINGS = {
    "alpha": "strength of sparseness", "beta": "strength of smoothness",
    "gamma": "pull towards the last iteration's map", "eps_gradient": "gradient above which smoothness is given up",
}  # fmt: skip
UNITS = {"alpha": "rms", "beta": "rms", "gamma": "mean weight", "eps_gradient": "mask level"}
MEASURES = {"corrected": "within the mask, corrected", "unmasked": "unmasked"}
STYLES = {"corrected": "c2", "unmasked": "c3"}
ROOM = 0.08  # of the axis, beside the outermost values
FEW_TICKS = 3  # below that, a resolution axis is ticked linearly


@dataclass(frozen=True)
class TuneSsriPage:
    """What the page is drawn from: the content of tune_ssri.json; settings and version as in `Snapshot`."""

    summary: Record
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class Searched:
    """One parameter on the page: its sign and meaning, how it was chosen in words, and its charts."""

    sign: str
    meaning: str
    said: str
    judged: Drawing
    resolution: Drawing | None
    truth: Drawing | None


def write_tune_ssri_page(folder: Path, shown: TuneSsriPage) -> Path:
    """Write FOLDER/tune_ssri.html, complete in itself; returns its path. InputError where the folder refuses it."""
    summary = shown.summary
    hero, tiles = _headline(summary)
    run = Path(summary["run"]).name
    contents = {
        "name": run, "shown": shown, "summary": summary, "written": now(), "hero": hero, "tiles": tiles,
        "checks": [Warned(findings.sentence(text), SIGNS.get(_parameter(sign), sign))
                   for sign, text in summary["notes"]],
        "caution": [findings.sentence(text) for text in summary["caution"]],
        "searches": [_searched(sweep) for sweep in summary["sweeps"]],
        "columns": [*SIGNS.values(), "judged by", *(f"{name}, Å" for name in MEASURES.values()),
                    *(["truth, mean FSC"] if _has_truth(summary) else []), "CPU"],
        "rows": [_row(trial, summary) for trial in summary["trials"]],
        "criterion": _criterion(summary), "settings": findings.setting_rows(shown.settings), "methods": _methods(shown),
        "citations": [SPARSE_SMOOTH, THRESHOLD, RANDOMISED],
    }  # fmt: skip
    return write_page(folder, "tune_ssri.html", contents, "tune_ssri.html")


def _parameter(sign: str) -> str:
    return "eps_gradient" if sign == "eps'" else sign


def _has_truth(summary: Record) -> bool:
    return summary["best"]["truth"] is not None


def _criterion(summary: Record) -> str:
    return str(summary["criterion"]).replace(" A,", " Å,")


def _number(value: float) -> str:
    return f"{value:.3g}"


def _headline(summary: Record) -> tuple[Tile, list[Tile]]:
    best = summary["best"]
    found = best["resolutions_A"]["corrected"]
    subset = f"{grouped(summary['particles'])} particles with the values taken, within the mask"
    hero = Tile("Resolution", figure(found), "Å" if found else "", subset if found else f"{subset}: beyond Nyquist")
    swept = {sweep["parameter"]: sweep for sweep in summary["sweeps"]}
    tiles = []
    for name, sign in SIGNS.items():
        tried = [trial["values"][name] for trial in swept[name]["trials"]] if name in swept else []
        note = f"of {len(tried)} from {_number(tried[0])} to {_number(tried[-1])}" if tried else "given, not searched"
        tiles.append(Tile(f"{sign} · {MEANINGS[name]}", _number(best["values"][name]), "", note))
    count = Tile("Trials", grouped(len(summary["trials"])), "", "each a whole refinement")
    judged = Tile("Judged by", f"{best['judged']:.4f}", "", f"± {best['error']:.4f}: {_criterion(summary)}")
    return hero, [*tiles, count, Tile("CPU time", *duration(summary["cpu_seconds"])), judged]


def _searched(sweep: Record) -> Searched:
    name = sweep["parameter"]
    low, high = sweep["published"]
    best = max(sweep["trials"], key=lambda trial: trial["judged"])["values"][name]
    why = f"{_number(best)} is best"
    if sweep["undecided"]:
        why = "all values are within the error of the best, and the weakest was taken"
    elif best != sweep["chosen"]:
        why = f"{_number(best)} is best, and {_number(sweep['chosen'])}, weaker, is within its error"
    said = f"{SIGNS[name]} = {_number(sweep['chosen'])}: {why}. Published: {_number(low)} to {_number(high)}."
    return Searched(SIGNS[name], MEANINGS[name], said, draw(_judged_chart(sweep)), _resolution_drawing(sweep),
                    _truth_drawing(sweep))


def _values(sweep: Record) -> list[float]:
    return [trial["values"][sweep["parameter"]] for trial in sweep["trials"]]


def _axis(sweep: Record) -> Axis:
    """The values tried, ticked where they are and, of neighbours too close for two labels, at the first."""
    name, values = sweep["parameter"], _values(sweep)
    room = ROOM * (values[-1] - values[0])
    ticks: list[float] = []
    for value in values:
        if not ticks or value - ticks[-1] >= ROOM * (values[-1] - values[0]):
            ticks.append(value)
    labels = tuple((value, _number(value)) for value in ticks)
    return Axis(values[0] - room, values[-1] + room, f"{SIGNS[name]} ({UNITS[name]})", "linear", labels)


def _published(sweep: Record, x: Axis) -> list[tuple[float, float, str]]:
    """The published range shaded, as the second of two stretches."""
    low, high = (min(max(x.fraction(value), 0.0), 1.0) for value in sweep["published"])
    return [(0.0, low, ""), (low, high, "published range")] if high > low else []


def _chart(sweep: Record, title: str, y: Axis, series: Sequence[Series], more: dict[str, Any]) -> Chart:
    x, values = _axis(sweep), _values(sweep)
    titles = [f"{SIGNS[sweep['parameter']]} = {_number(value)}" for value in values]
    return Chart(title, x, y, [x.fraction(value) for value in values], titles, series, stages=_published(sweep, x),
                 dots=True, **more)


def _judged_chart(sweep: Record) -> Chart:
    trials = sweep["trials"]
    judged = [trial["judged"] for trial in trials]
    errors = [[trial["judged"] + way * trial["error"] for trial in trials] for way in (-1, 1)]
    at = _values(sweep).index(sweep["chosen"])
    y = value_axis([judged, *errors], "mean FSC of half maps")
    return _chart(sweep, "What trials are judged by", y, [Series("judged by", judged, "c1")], {
        "faint": errors, "guides": [Guide(sweep["level"], "")],
        "points": [(sweep["chosen"], judged[at], "taken", "c1")],
    })  # fmt: skip


def _truth_drawing(sweep: Record) -> Drawing | None:
    """Mean FSC with the truth, where it is known."""
    found = [trial["truth"] for trial in sweep["trials"]]
    if None in found:
        return None
    y = value_axis([found], "mean FSC with the truth")
    return draw(_chart(sweep, "Agreement with the truth", y, [Series("with the truth", found, "c4")], {}))


def _resolution_drawing(sweep: Record) -> Drawing | None:
    """Resolution against value; None where half maps agree to Nyquist in all trials."""
    trials = sweep["trials"]
    series = [Series(title, [trial["resolutions_A"][name] for trial in trials], STYLES[name], "Å")
              for name, title in MEASURES.items()]
    found = [1 / d for one in series for d in one.values if d is not None]
    if not found:
        return None
    room = 0.15 * (max(found) - min(found)) or 0.05 * max(found)
    coarsest, finest = 1 / (min(found) - room), 1 / (max(found) + room)
    ticks = resolution_ticks(coarsest, finest, gap=0.15)
    if len(ticks) < FEW_TICKS:
        ticks = linear_ticks(finest, coarsest, 4)
    y = Axis(coarsest, finest, "resolution at FSC 0.143 (Å)", "inverse", ticks)
    taken = trials[_values(sweep).index(sweep["chosen"])]["resolutions_A"]["corrected"]
    points = [(sweep["chosen"], taken, "taken", "c2")] if taken is not None else []
    return draw(_chart(sweep, "Resolution", y, series, {"points": points}))


def _row(trial: Record, summary: Record) -> tuple[bool, list[str]]:
    """A trial of the table, and whether it is the one taken."""
    cells = [_number(trial["values"][name]) for name in SIGNS]
    cells.append(f"{trial['judged']:.4f} ± {trial['error']:.4f}")
    cells += [figure(trial["resolutions_A"][name]) for name in MEASURES]
    if _has_truth(summary):
        cells.append(figure(trial["truth"], 4))
    return trial["values"] == summary["best"]["values"], [*cells, " ".join(duration(trial["cpu_seconds"]))]


def _methods(shown: TuneSsriPage) -> str:
    summary, name = shown.summary, f"Halfmap {shown.version}".strip()
    best = summary["best"]["values"]
    order = ", ".join(SIGNS[sweep["parameter"]] for sweep in summary["sweeps"])
    values = ", ".join(f"{sign} = {_number(best[key])}" for key, sign in SIGNS.items())
    return (
        f"Parameters of the sparse and smooth prior ({SPARSE_SMOOTH.short}) were searched for with {name} in the "
        f"order {order}, over {len(summary['trials'])} refinements of {grouped(summary['particles'])} particles, "
        f"judged by the {_criterion(summary)}; among values within one standard error of the best the weakest was "
        f"taken: {values}. The choice is shared by both half sets."
    )
