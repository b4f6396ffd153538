"""Line charts and stacked bars as inline SVG.

The plot area is an SVG that is stretched over its box with strokes that do not scale. All text is HTML laid over it in
percent. So labels stay readable from a phone to a projector, and a chart is seen without any script. The values also
travel as JSON for the read-out under the pointer (script.html).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from halfmap.report.pictures.axes import Axis, Values

SCALE = 1000.0  # side of the stretched SVG view box


@dataclass(frozen=True)
class Abscissa:
    """The x axis of a chart and the places on it that hold values.

    positions: fractions of the axis, 0 to 1; titles: what the read-out calls each position.
    """

    axis: Axis
    positions: Sequence[float]
    titles: Sequence[str]


@dataclass(frozen=True)
class Series:
    """One curve: a value for each position of the chart, and style classes of style.html (c1..c8, dashed)."""

    name: str
    values: Values
    style: str
    unit: str = ""


@dataclass(frozen=True)
class Guide:
    """A straight reference line across the plot, with a label at its end."""

    value: float
    label: str
    upright: bool = False


@dataclass(frozen=True)
class Mark:
    """A circle with a label at x and y, in the units of the axes; style: a colour class of style.html."""

    x: float
    y: float
    label: str
    style: str


@dataclass(frozen=True)
class Stage:
    """A named stretch of the x axis. Every second one is shaded. start, end: fractions of the axis, 0 to 1."""

    start: float
    end: float
    name: str


@dataclass(frozen=True)
class Chart:
    """Curves over common positions (fractions of the x axis, 0 to 1), each position with a title for the read-out.

    faint: curves behind the others; dots: mark every value; size: a class of style.html; stacked: draw the series as
    bars on top of each other instead of curves.
    """

    title: str
    x: Axis
    y: Axis
    positions: Sequence[float]
    titles: Sequence[str]
    series: Sequence[Series]
    faint: Sequence[Values] = ()
    guides: Sequence[Guide] = ()
    points: Sequence[Mark] = ()
    stages: Sequence[Stage] = ()
    dots: bool = False
    size: str = ""
    stacked: bool = False


def shell_titles(extent: float, shells: int) -> list[str]:
    """What the read-out calls shells 0 to `shells` - 1 of a box that is `extent` A wide."""
    return [f"{extent / s:.2f} Å · shell {s}" if s else "shell 0" for s in range(shells)]


def _path(chart: Chart, values: Values) -> str:
    """SVG path of one curve. It is broken where a value is missing, and values off the scale lie at its edge."""
    parts: list[str] = []
    pen_down = False
    for at, value in zip(chart.positions, values, strict=False):
        if value is None:
            pen_down = False
            continue
        height = min(max(chart.y.fraction(value), -0.02), 1.02)
        parts.append(f"{'L' if pen_down else 'M'}{SCALE * at:.0f} {SCALE * (1 - height):.1f}")
        pen_down = True
    return "".join(parts)


def _dots(chart: Chart, values: Values) -> str:
    """SVG path of zero-length strokes. Their round caps do not scale, so they are circles on a stretched SVG."""
    placed = ((at, v) for at, v in zip(chart.positions, values, strict=False) if v is not None)
    heights = ((at, min(max(chart.y.fraction(v), 0), 1)) for at, v in placed)
    return "".join(f"M{SCALE * at:.0f} {SCALE * (1 - height):.1f}h0" for at, height in heights)


def _bars(chart: Chart) -> Markup:
    """SVG rectangles of stacked bars, the first series at the bottom."""
    shapes: list[str] = []
    width = min(0.72 * SCALE * abs(chart.x.fraction(1.0) - chart.x.fraction(0.0)), 0.09 * SCALE)
    for i, at in enumerate(chart.positions):
        base = 0.0
        for series in chart.series:
            value = (series.values[i] or 0.0) if i < len(series.values) else 0.0
            low, high = chart.y.fraction(base), chart.y.fraction(base + value)
            left, top = SCALE * at - width / 2, SCALE * (1 - high)
            if value > 0:
                shapes.append(
                    f'<rect class="{series.style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                    f'height="{SCALE * (high - low):.1f}"/>'
                )
            base += value
    return Markup("".join(shapes))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _hover_data(chart: Chart) -> Markup:
    """JSON that script.html reads: positions and titles, and for each series its name, style, unit and values."""
    series = [
        {"n": s.name, "c": s.style, "u": s.unit, "v": [_short(value) for value in s.values]}
        for s in chart.series
    ]
    lo = None if math.isinf(chart.y.lo) else chart.y.lo
    axis = {"lo": lo, "hi": chart.y.hi, "kind": chart.y.kind}
    positions = [round(at, 4) for at in chart.positions]
    data = {"x": positions, "t": list(chart.titles), "s": series, "y": axis, "stacked": chart.stacked}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


@dataclass(frozen=True)
class Line:
    """The SVG path of a series, for its curve or its dots, with the name and style of the series."""

    name: str
    style: str
    path: str


@dataclass(frozen=True)
class PlacedGuide:
    """A guide and its place in percent, from the left if it is upright and from the bottom if not."""

    guide: Guide
    percent: float


@dataclass(frozen=True)
class PlacedMark:
    """A mark ready to be drawn: its place in percent from the left and from the top, label and style."""

    left: float
    top: float
    label: str
    style: str


@dataclass(frozen=True)
class PlacedStage:
    """A stage ready to be drawn: its left edge and width in percent, and its name."""

    left: float
    width: float
    name: str


@dataclass(frozen=True)
class Drawing:
    """A chart laid out for chart.html: SVG paths, places in percent of the plot area, JSON for the read-out.

    faint: SVG paths; bars: SVG elements.
    """

    chart: Chart
    lines: list[Line]
    dots: list[Line]
    faint: list[str]
    bars: Markup
    guides: list[PlacedGuide]
    points: list[PlacedMark]
    stages: list[PlacedStage]
    data: Markup


def draw(chart: Chart) -> Drawing:
    """Lay the chart out. Guides and marks beyond the plot area are left out."""
    lines = [] if chart.stacked else [Line(s.name, s.style, _path(chart, s.values)) for s in chart.series]
    dots = [Line(s.name, s.style, _dots(chart, s.values)) for s in chart.series] if chart.dots else []
    axes = [(guide, chart.x if guide.upright else chart.y) for guide in chart.guides]
    guides = [PlacedGuide(guide, 100 * axis.fraction(guide.value)) for guide, axis in axes]
    points = [
        PlacedMark(100 * chart.x.fraction(mark.x), 100 * (1 - chart.y.fraction(mark.y)), mark.label, mark.style)
        for mark in chart.points
    ]
    return Drawing(
        chart=chart,
        lines=lines,
        dots=dots,
        faint=[_path(chart, values) for values in chart.faint],
        bars=_bars(chart) if chart.stacked else Markup(""),
        guides=[placed for placed in guides if -1 <= placed.percent <= 101],
        points=[placed for placed in points if -1 <= placed.left <= 101],
        stages=[PlacedStage(100 * s.start, 100 * (s.end - s.start), s.name) for s in chart.stages],
        data=_hover_data(chart),
    )


def draw_histogram(chart: Chart, width: float) -> Drawing:
    """Lay the chart out with bars of this width (in units of x) in place of the curve of its first series.

    Bars stand on the lower end of y, which may be logarithmic. A value of None or 0 has no bar.
    """
    wide = SCALE * width / (chart.x.hi - chart.x.lo)
    series = chart.series[0]
    shapes = []
    for at, value in zip(chart.positions, series.values, strict=True):
        if value:
            left, height = SCALE * at - wide / 2, SCALE * chart.y.fraction(value)
            shapes.append(f'<rect class="{series.style}" x="{left:.1f}" y="{SCALE - height:.1f}" width="{wide:.1f}" '
                          f'height="{height:.1f}"/>')
    return replace(draw(chart), lines=[], bars=Markup("".join(shapes)))
