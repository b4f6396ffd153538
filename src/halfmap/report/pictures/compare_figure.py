"""The figure of `halfmap compare` as one SVG for a slide or a paper: FSC curves, pose differences, surfaces, slices.

A white background and plain attributes make browsers, vector editors and slide programs draw it alike. A fill is a
style, because the style sheet of the page would win over an attribute. Lengths are in units of the view box, which is
WIDTH across.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from halfmap.report.pictures.axes import Axis, resolution_ticks
from halfmap.report.pictures.charts import Chart, Guide
from halfmap.report.pictures.colours import css_colour
from halfmap.report.pictures.compare_charts import SHOWN_IN_FIGURE, difference_chart, fsc_chart, style_of, truth_chart
from halfmap.report.pictures.local_cutoff import Scale
from halfmap.report.pictures.slices import Picture, ScaleBar

WIDTH, MARGIN, GAP = 1200.0, 24.0, 34.0
PLOT_HEIGHT, TITLE = 250.0, 44.0
INK, SOFT, LINE, PALE = "#17191d", "#5c6066", "#b9b5ad", "#e6e3dd"
COLOURS = {"c1": "#1b5fb8", "c2": "#0b8573", "c3": "#c2660a", "c4": "#a8325a", "c5": "#6a3fb0", "c6": "#4d7a1e",
           "c7": "#2d8cc4", "c8": "#7d8188"}  # of style.html's light page
FONT = "font-family=\"'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif\""


@dataclass(frozen=True)
class Shown:
    """The pictures of a run: surfaces as data URIs, one for each view, and central slices."""

    surfaces: Sequence[str]
    slices: Sequence[Picture]


@dataclass(frozen=True)
class ResolutionScale:
    """The ends of the colour scale of local resolution (A)."""

    coarse: float
    fine: float


@dataclass(frozen=True)
class _Frame:
    """The plot area of a chart in the figure."""

    left: float
    top: float
    width: float
    height: float

    def x(self, fraction: float) -> float:
        return self.left + self.width * fraction

    def y(self, fraction: float) -> float:
        return self.top + self.height * (1 - min(max(fraction, 0.0), 1.0))


def figure(summary: Mapping[str, Any], shown: Sequence[Shown], scale: ResolutionScale, bar: ScaleBar) -> Markup:
    """The whole figure.

    summary: the content of compare.json; shown: the pictures of each run; scale: of the surfaces' colours; bar: of the
    slices.
    """
    charts = [fsc_chart(summary, SHOWN_IN_FIGURE), truth_chart(summary), difference_chart(summary, "angle")]
    letters = iter("abcdefgh")
    drawn, parts = [chart for chart in charts if chart], []
    width = (WIDTH - 2 * MARGIN - (len(drawn) - 1) * GAP) / len(drawn)
    for i, chart in enumerate(drawn):
        left = MARGIN + i * (width + GAP)
        parts.append(_heading(next(letters), chart.title, left, MARGIN + 12))
        frame = _Frame(left + 40, MARGIN + TITLE, width - 44, PLOT_HEIGHT)
        bars = chart is drawn[-1] and charts[2] is not None
        parts += [_axes(chart, frame), _steps(chart, frame) if bars else _lines(chart, frame)]
        parts.append(_pose_key(chart, frame, summary) if bars else _key(chart, frame, summary, i == 0))
    top = MARGIN + TITLE + PLOT_HEIGHT + 112
    columns = len(shown)
    side = (WIDTH - 2 * MARGIN - GAP - 8 * (columns - 1)) / (columns + 2 * columns / 3)
    parts += _surfaces(summary, shown, side, top, next(letters))
    height = top + 2 * side + 70
    parts.append(_colour_bar(scale, MARGIN, top + 2 * side + 22, columns * side))
    parts += _slices(summary, shown, side, top, next(letters), bar)
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="{WIDTH:.0f}" '
        f'height="{height:.0f}" {FONT} font-size="13" fill="{INK}"><title>{_title(summary)}</title>'
        f'<rect width="{WIDTH:.0f}" height="{height:.0f}" fill="#fff"/>' + "".join(parts) + "</svg>"
    )


def _title(summary: Mapping[str, Any]) -> str:
    return str(escape(" and ".join(run["name"] for run in summary["runs"]) + ", compared by Halfmap"))


def _text(x: float, y: float, text: str, **style: Any) -> str:
    given = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{given}>{escape(text)}</text>'


def _heading(letter: str, title: str, left: float, top: float) -> str:
    """The letter and the title of a panel."""
    return (_text(left, top, letter, font_size=20, font_weight=700)
            + _text(left + 24, top, title, font_size=14.5, font_weight=600))


def _axes(chart: Chart, frame: _Frame) -> str:
    """Grid, axes, ticks, titles of the axes, and horizontal guides."""
    bottom, right = frame.top + frame.height, frame.left + frame.width
    parts = []
    for tick in chart.y.drawn_ticks():
        y = frame.y(tick.percent / 100)
        parts.append(f'<path d="M{frame.left:.1f} {y:.1f}H{right:.1f}" stroke="{PALE}" fill="none"/>')
        parts.append(_text(frame.left - 8, y + 4.5, tick.label, text_anchor="end", fill=SOFT))
    parts.append(f'<path d="M{frame.left:.1f} {frame.top:.1f}V{bottom:.1f}H{right:.1f}" stroke="{LINE}" fill="none"/>')
    for tick in chart.x.drawn_ticks():
        x = frame.x(tick.percent / 100)
        parts.append(f'<path d="M{x:.1f} {bottom:.1f}v5" stroke="{LINE}" fill="none"/>')
        parts.append(_text(x, bottom + 19, tick.label, text_anchor="middle", fill=SOFT))
    parts.append(_text(right, bottom + 40, chart.x.label, text_anchor="end", fill=SOFT))
    if "correlation" not in chart.y.label:
        parts.append(_text(frame.left - 30, frame.top - 9, chart.y.label, fill=SOFT))
    return "".join(parts) + "".join(_guide(chart, guide, frame) for guide in chart.guides if not guide.upright)


def _guide(chart: Chart, guide: Guide, frame: _Frame) -> str:
    y, right = frame.y(chart.y.fraction(guide.value)), frame.left + frame.width
    return (f'<path d="M{frame.left:.1f} {y:.1f}H{right:.1f}" stroke="{SOFT}" stroke-dasharray="2 3" fill="none"/>'
            + _text(frame.left + 5, y - 5, guide.label, fill=SOFT, font_size=12))


def _lines(chart: Chart, frame: _Frame) -> str:
    """Curves, the first series on top, and the marks."""
    parts = []
    for series in reversed(chart.series):
        points = [f"{frame.x(at):.1f} {frame.y(chart.y.fraction(value)):.1f}"
                  for at, value in zip(chart.positions, series.values, strict=True) if value is not None]
        colour, *kind = series.style.split()
        dash = ' stroke-dasharray="6 4" stroke-width="1.6"' if kind else ' stroke-width="2.6"'
        parts.append(f'<path d="M{"L".join(points)}" stroke="{COLOURS[colour]}"{dash} stroke-linejoin="round" '
                     'stroke-linecap="round" fill="none"/>')
    for mark in chart.points:
        x, y = frame.x(chart.x.fraction(mark.x)), frame.y(chart.y.fraction(mark.y))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="#fff" stroke="{COLOURS[mark.style]}" '
                     'stroke-width="2.2"/>')
    return "".join(parts)


def _steps(chart: Chart, frame: _Frame) -> str:
    """Histograms as outlined steps over a pale fill, with a line at each median."""
    parts = []
    half = 0.5 / len(chart.positions)
    bottom = frame.top + frame.height
    for series in chart.series:
        colour = COLOURS[series.style]
        path = "".join(f"V{frame.y(chart.y.fraction(value or 0.0)):.1f}H{frame.x(at + half):.1f}"
                       for at, value in zip(chart.positions, series.values, strict=True))
        parts.append(f'<path d="M{frame.left:.1f} {bottom:.1f}{path}V{bottom:.1f}Z" '
                     f'style="fill:{colour};fill-opacity:.22" stroke="{colour}" stroke-width="1.6" '
                     'stroke-linejoin="round"/>')
    for guide, series in zip(chart.guides, chart.series, strict=True):
        x = frame.x(chart.x.fraction(guide.value))
        parts.append(f'<path d="M{x:.1f} {frame.top:.1f}V{bottom:.1f}" stroke="{COLOURS[series.style]}" '
                     'stroke-width="1.6" stroke-dasharray="5 3" fill="none"/>')
    return "".join(parts)


def _key(chart: Chart, frame: _Frame, summary: Mapping[str, Any], kinds: bool) -> str:
    """Names of the runs with their resolutions. kinds: say also which stroke is which curve."""
    right, top, parts = frame.left + frame.width, frame.top + 8, []
    for i, (run, found) in enumerate(zip(summary["runs"], _crossed(chart, summary), strict=True)):
        y = top + 20 * i
        value = f"{found:.2f} Å" if found else "beyond Nyquist"
        parts.append(_text(right, y, f"{_short(run['name'])}  {value}", text_anchor="end", font_size=14,
                           font_weight=600, fill=COLOURS[style_of(i)]))
    if kinds:
        y = top + 20 * len(summary["runs"]) + 4
        for name, dash in (("masked, corrected", ""), ("unmasked", ' stroke-dasharray="6 4"')):
            parts.append(f'<path d="M{right - 26:.1f} {y - 4:.1f}h26" stroke="{SOFT}" stroke-width="2"{dash} '
                         'fill="none"/>')
            parts.append(_text(right - 33, y, name, text_anchor="end", fill=SOFT, font_size=12.5))
            y += 18
    return "".join(parts)


def _crossed(chart: Chart, summary: Mapping[str, Any]) -> list[float | None]:
    """The resolution (A) of each run by the curves of the chart."""
    if "truth" in chart.title:
        return [run["truth_resolution_A"] for run in summary["runs"]]
    return [run["resolution_A"]["corrected"]["0.143"] for run in summary["runs"]]


def _pose_key(chart: Chart, frame: _Frame, summary: Mapping[str, Any]) -> str:
    """Names of the runs with median and outliers of their pose differences, beside the histograms."""
    right, y, parts = frame.left + frame.width, frame.top + 8, []
    for i, run in enumerate(summary["runs"]):
        poses = run["poses"]
        if poses is None:
            continue
        beyond = poses["angle_histogram"]["beyond"]
        lines = [f"median {poses['angle_median_deg']:.2g}°", f"{100 * poses['share_above_10_deg']:.2g} % beyond 10°"]
        if beyond and poses["angle_histogram"]["to"] != 10:
            lines.append(f"{100 * beyond / poses['common']:.2g} % off the axis")
        parts.append(_text(right, y, _short(run["name"]), text_anchor="end", font_size=14, font_weight=600,
                           fill=COLOURS[style_of(i)]))
        if len(chart.series) > 2:
            lines = [", ".join(lines[:2])]
        for line in lines:
            y += 18
            parts.append(_text(right, y, line, text_anchor="end", fill=SOFT))
        y += 22
    return "".join(parts)


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _picture(uri: str, x: float, y: float, side: float) -> str:
    return f'<image x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" href="{uri}"/>'


def _surfaces(summary: Mapping[str, Any], shown: Sequence[Shown], side: float, top: float, letter: str) -> list[str]:
    """The panel of surfaces, one column for each run, one row for each view."""
    title = f"Maps sharpened alike, surfaces around {_volume(summary['enclosed_volume_A3'])}"
    parts = [_heading(letter, title, MARGIN, top - 34)]
    for i, (run, pictures) in enumerate(zip(summary["runs"], shown, strict=True)):
        left = MARGIN + i * side
        parts.append(_text(left + side / 2, top - 6, _short(run["name"], round(side / 8)), text_anchor="middle",
                           font_size=14, font_weight=600, fill=COLOURS[style_of(i)]))
        parts += [_picture(uri, left, top + row * side, side) for row, uri in enumerate(pictures.surfaces)]
    return [*parts, _turn(MARGIN + 20, top + side)]


def _turn(x: float, y: float) -> str:
    """A sign for the quarter turn about the upright axis between the rows of surfaces."""
    return (f'<g stroke="{SOFT}" stroke-width="1.4" fill="none"><path d="M{x:.1f} {y - 15:.1f}v12m0 9v9"/>'
            f'<path d="M{x - 14:.1f} {y - 3:.1f}a14 5.5 0 0 0 28 0"/>'
            f'<path d="M{x + 9.5:.1f} {y:.1f}l4.5 -4.5l4 5"/></g>'
            + _text(x + 24, y + 5, "90°", fill=SOFT))


def _volume(cubic_angstrom: float) -> str:
    return f"{cubic_angstrom / 1000:.0f} nm³"


def _colour_bar(scale: ResolutionScale, left: float, top: float, width: float) -> str:
    """The colours of local resolution from coarse to fine, even in 1/d."""
    length, height = min(0.62 * width, 340.0), 11.0
    left += (width - length) / 2
    stops = "".join(f'<stop offset="{i / 16:.4f}" stop-color="{css_colour(i / 16)}"/>' for i in range(17))
    axis = Axis(scale.coarse, scale.fine, "", "inverse", resolution_ticks(scale.coarse, scale.fine, 0.11))
    parts = [f'<defs><linearGradient id="scale">{stops}</linearGradient></defs>',
             f'<rect x="{left:.1f}" y="{top:.1f}" width="{length:.1f}" height="{height}" rx="2" fill="url(#scale)"/>']
    for tick in axis.drawn_ticks():
        x = left + length * tick.percent / 100
        parts.append(_text(x, top + height + 15, tick.label, text_anchor="middle", fill=SOFT))
    parts.append(_text(left - 10, top + height - 1, "local resolution (Å)", text_anchor="end", fill=SOFT))
    return "".join(parts)


def _slices(summary: Mapping[str, Any], shown: Sequence[Shown], side: float, top: float,
            letter: str, bar: ScaleBar) -> list[str]:
    """The panel of central slices, a column for each run, as high as the surfaces."""
    rows = max(len(one.slices) for one in shown)
    inner = (2 * side - 8 * (rows - 1)) / rows
    left = MARGIN + len(shown) * side + GAP
    parts = [_heading(letter, "Central slices", left, top - 34)]
    for i, (run, pictures) in enumerate(zip(summary["runs"], shown, strict=True)):
        x = left + i * (inner + 8)
        parts.append(_text(x + inner / 2, top - 6, _short(run["name"], round(inner / 8)), text_anchor="middle",
                           font_size=14, font_weight=600, fill=COLOURS[style_of(i)]))
        for row, picture in enumerate(pictures.slices):
            y = top + row * (inner + 8)
            parts.append(_picture(picture.uri, x, y, inner))
            if i == 0:
                parts.append(_text(x + 7, y + 18, picture.across + picture.down, fill="#fff", font_weight=600))
    if bar.label:
        length, x, y = inner * bar.percent / 100, left + inner - 10, top + 2 * side - 11
        parts.append(f'<path d="M{x:.1f} {y:.1f}h{-length:.1f}" stroke="#fff" stroke-width="2.5" fill="none"/>')
        parts.append(_text(x - length / 2, y - 6, bar.label, text_anchor="middle", fill="#fff", font_size=12.5))
    return parts


def common_scale(ranges: Sequence[Scale]) -> ResolutionScale:
    """One scale for runs whose local resolution lies in these ranges of spatial frequency."""
    low, high = min(one.lo for one in ranges), max(one.hi for one in ranges)
    if not math.isfinite(low + high) or high - low < 0.02 * high:
        low, high = 0.98 * low, 1.02 * high
    return ResolutionScale(1 / low, 1 / high)
