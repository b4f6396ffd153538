"""The page of `halfmap tune-ssri`: how the values of each parameter were judged, and which were taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halfmap.report.pages import findings
from halfmap.report.pages.findings import Headline, Tile, Warned, duration, figure, grouped
from halfmap.report.pages.methods import RANDOMISED, SPARSE_SMOOTH, THRESHOLD
from halfmap.report.pages.page import now, write_page
from halfmap.report.pictures.charts import Drawing
from halfmap.report.pictures.tune_charts import MEASURES, SIGNS, judged_chart, resolution_chart, short, truth_chart
from halfmap.report.record_values import Record

MEANINGS = {
    "alpha": "strength of sparseness", "beta": "strength of smoothness",
    "gamma": "pull towards the last iteration's map", "eps_gradient": "gradient above which smoothness is given up",
}  # fmt: skip


@dataclass(frozen=True)
class TuneSsriPage:
    """The contents of the page. summary: the content of tune_ssri.json; settings and version as in `Snapshot`."""

    summary: Record
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class Searched:
    """One parameter on the page: sign, meaning, how its value was chosen in words, and charts."""

    sign: str
    meaning: str
    said: str
    judged: Drawing
    resolution: Drawing | None
    truth: Drawing | None


def write_tune_ssri_page(folder: Path, shown: TuneSsriPage) -> Path:
    """Write FOLDER/tune_ssri.html, complete in itself, and return its path. InputError if it cannot be written."""
    summary = shown.summary
    run = Path(summary["run"]).name
    contents = {
        "name": run, "shown": shown, "summary": summary, "written": now(), "headline": _headline(summary),
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
    """The parameter that a note of the summary is about."""
    return "eps_gradient" if sign == "eps'" else sign


def _has_truth(summary: Record) -> bool:
    return summary["best"]["truth"] is not None


def _criterion(summary: Record) -> str:
    return str(summary["criterion"]).replace(" A,", " Å,")


def _headline(summary: Record) -> Headline:
    best = summary["best"]
    found = best["resolutions_A"]["corrected"]
    subset = f"{grouped(summary['particles'])} particles with the values taken, within the mask"
    hero = Tile("Resolution", figure(found), "Å" if found else "", subset if found else f"{subset}: beyond Nyquist")
    swept = {sweep["parameter"]: sweep for sweep in summary["sweeps"]}
    tiles = []
    for name, sign in SIGNS.items():
        tried = [trial["values"][name] for trial in swept[name]["trials"]] if name in swept else []
        note = f"of {len(tried)} from {short(tried[0])} to {short(tried[-1])}" if tried else "given, not searched"
        tiles.append(Tile(f"{sign} · {MEANINGS[name]}", short(best["values"][name]), "", note))
    count = Tile("Trials", grouped(len(summary["trials"])), "", "each a whole refinement")
    judged = Tile("Judged by", f"{best['judged']:.4f}", "", f"± {best['error']:.4f}: {_criterion(summary)}")
    return Headline(hero, [*tiles, count, Tile("CPU time", *duration(summary["cpu_seconds"])), judged])


def _searched(sweep: Record) -> Searched:
    name = sweep["parameter"]
    low, high = sweep["published"]
    best = max(sweep["trials"], key=lambda trial: trial["judged"])["values"][name]
    why = f"{short(best)} is best"
    if sweep["undecided"]:
        why = "all values are within the error of the best, and the weakest was taken"
    elif best != sweep["chosen"]:
        why = f"{short(best)} is best, and {short(sweep['chosen'])}, weaker, is within its error"
    said = f"{SIGNS[name]} = {short(sweep['chosen'])}: {why}. Published: {short(low)} to {short(high)}."
    return Searched(SIGNS[name], MEANINGS[name], said, judged_chart(sweep), resolution_chart(sweep),
                    truth_chart(sweep))


@dataclass(frozen=True)
class TrialRow:
    """A row of the table of trials. taken: it is the one whose values were taken."""

    taken: bool
    cells: list[str]


def _row(trial: Record, summary: Record) -> TrialRow:
    cells = [short(trial["values"][name]) for name in SIGNS]
    cells.append(f"{trial['judged']:.4f} ± {trial['error']:.4f}")
    cells += [figure(trial["resolutions_A"][name]) for name in MEASURES]
    if _has_truth(summary):
        cells.append(figure(trial["truth"], 4))
    cells.append(" ".join(duration(trial["cpu_seconds"])))
    return TrialRow(trial["values"] == summary["best"]["values"], cells)


def _methods(shown: TuneSsriPage) -> str:
    summary, name = shown.summary, f"Halfmap {shown.version}".strip()
    best = summary["best"]["values"]
    order = ", ".join(SIGNS[sweep["parameter"]] for sweep in summary["sweeps"])
    values = ", ".join(f"{sign} = {short(best[key])}" for key, sign in SIGNS.items())
    return (
        f"Parameters of the sparse and smooth prior ({SPARSE_SMOOTH.short}) were searched for with {name} in the "
        f"order {order}, over {len(summary['trials'])} refinements of {grouped(summary['particles'])} particles, "
        f"judged by the {_criterion(summary)}; among values within one standard error of the best the weakest was "
        f"taken: {values}. The choice is shared by both half sets."
    )
