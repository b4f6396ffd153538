"""The charts of `halfmap compare`, for its page and its figure: FSC curves and histograms of pose differences."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from halfmap.report.pictures.axes import Axis, linear_ticks, resolution_ticks
from halfmap.report.pictures.charts import SCALE, Chart, Drawing, Guide, Line, Mark, Series, draw, shell_titles

Summary = Mapping[str, Any]  # the content of compare.json

# Styles of the runs in their order. The first two are far apart in hue, because two runs are usual.
STYLES = ("c1", "c3", "c2", "c4", "c5", "c6", "c7", "c8")
# Curves of the half maps: key in the summary, name, further style.
KINDS = (("corrected", "masked, corrected", ""), ("masked", "masked", "dotted"), ("unmasked", "unmasked", "dashed"))
ALL_KINDS = ("corrected", "masked", "unmasked")
SHOWN_IN_FIGURE = ("corrected", "unmasked")


def style_of(index: int) -> str:
    """The colour class of the run with this index."""
    return STYLES[index % len(STYLES)]


def fsc_chart(summary: Summary, kinds: Sequence[str] = ALL_KINDS) -> Chart:
    """Half-map curves of all runs. Circles mark where the corrected ones fall to 0.143."""
    series, points = [], []
    for i, run in enumerate(summary["runs"]):
        series += [Series(f"{run['name']}, {name}", run["fsc"][key], f"{style_of(i)} {style}".strip())
                   for key, name, style in KINDS if key in kinds]
        found = run["resolution_A"]["corrected"]["0.143"]
        if found:
            points.append(Mark(found, 0.143, "", style_of(i)))
    return _correlations("Fourier shell correlation of the half maps", summary, series, (0.143, 0.5), points)


def truth_chart(summary: Summary) -> Chart | None:
    """Curves of all runs against the truth; None if no truth was given."""
    if not summary["truth"]:
        return None
    runs = summary["runs"]
    series = [Series(run["name"], run["fsc_truth"], style_of(i)) for i, run in enumerate(runs)]
    points = [Mark(run["truth_resolution_A"], 0.5, "", style_of(i)) for i, run in enumerate(runs)
              if run["truth_resolution_A"]]
    return _correlations("Fourier shell correlation with the truth", summary, series, (0.5,), points)


def _correlations(title: str, summary: Summary, series: list[Series], levels: Sequence[float],
                  points: Sequence[Mark]) -> Chart:
    finest, length = 2 * summary["pixel_size_A"], summary["box"] * summary["pixel_size_A"]
    shells = len(series[0].values)
    x = Axis(math.inf, finest, "resolution (Å)", "inverse", resolution_ticks(math.inf, finest, 0.085))
    low = min((value for one in series for value in one.values if value is not None), default=0.0)
    y = Axis(max(-0.3, min(-0.05, low - 0.03)), 1.03, "Fourier shell correlation", "linear", linear_ticks(0, 1, 5))
    return Chart(title, x, y, [2 * s / summary["box"] for s in range(shells)], shell_titles(length, shells), series,
                 guides=[Guide(level, f"{level:g}") for level in levels], points=points, size="tall")


def difference_chart(summary: Summary, kind: str) -> Chart | None:
    """Histograms of how far poses differ from those of the first run: percent of the particles in each bin.

    kind: `angle` or `shift`. None if poses were compared in no run.
    """
    runs = [(i, run) for i, run in enumerate(summary["runs"]) if run["poses"]]
    if not runs:
        return None
    unit, what = {"angle": ("°", "orientation difference (degrees)"), "shift": ("Å", "shift difference (Å)")}[kind]
    found = [run["poses"][f"{kind}_histogram"] for _, run in runs]
    widest, bins = found[0]["to"], len(found[0]["particles"])
    series = []
    for (i, run), one in zip(runs, found, strict=True):
        shares = [100 * count / run["poses"]["common"] for count in one["particles"]]
        series.append(Series(run["name"], shares, style_of(i), "%"))
    top = 1.12 * max(value for one in series for value in one.values if value is not None)
    x = Axis(0.0, widest, what, "linear", linear_ticks(0, widest, 5))
    y = Axis(0.0, top, "particles (%)", "linear", linear_ticks(0, top, 4))
    step = widest / bins
    titles = [f"{i * step:.3g} to {(i + 1) * step:.3g} {unit}" for i in range(bins)]
    medians = [run["poses"]["angle_median_deg" if kind == "angle" else "shift_median_A"] for _, run in runs]
    label, mark = "median " if len(runs) == 1 else "", "°" if kind == "angle" else " Å"
    guides = [Guide(median, f"{label}{median:.2g}{mark}", upright=True) for median in medians]
    name = f"{kind.capitalize() if kind == 'shift' else 'Orientation'} differences from {summary['runs'][0]['name']}"
    return Chart(name, x, y, [(i + 0.5) / bins for i in range(bins)], titles, series, guides=guides)


def stepped(chart: Chart) -> Drawing:
    """The drawing of a histogram: steps over a pale fill."""
    half = 0.5 / len(chart.positions)
    lines, fills = [], []
    for series in chart.series:
        steps = "".join(f"V{SCALE * (1 - chart.y.fraction(value or 0.0)):.1f}H{SCALE * (at + half):.1f}"
                        for at, value in zip(chart.positions, series.values, strict=True))
        path = f"M0 {SCALE:.0f}{steps}V{SCALE:.0f}"
        lines.append(Line(series.name, series.style, path))
        fills.append(f'<path style="stroke:none;fill:var(--{series.style});opacity:.2" d="{path}Z"/>')
    return dataclasses.replace(draw(chart), lines=lines, bars=Markup("".join(fills)))
