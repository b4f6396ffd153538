"""Line charts and stacked bars as inline SVG.

A plot area is an SVG stretched over its box with strokes that do not scale; all text is HTML laid over it in
percent. So charts keep readable labels from a phone to a projector, and need no script to be seen. The
values also travel as JSON for the hover read-out (script.html).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Values = Sequence[float | None]
SCALE = 1000.0  # side of the stretched SVG view box
ROUND_RESOLUTIONS = (
    *(10.0, 5.0, 20.0, 4.0, 3.0, 7.0, 6.0, 2.0, 2.5, 8.0, 15.0, 30.0, 3.5, 4.5, 1.5, 1.0, 12.0, 9.0, 1.2),
    *(1.8, 2.2, 40.0, 60.0, 100.0, 25.0, 50.0, 35.0, 5.5, 6.5, 7.5, 2.8, 3.2, 3.8, 2.1, 2.3, 1.6, 1.7, 1.9),
    *(1.3, 1.4, 1.1, 0.9, 0.8, 0.5),
)


@dataclass(frozen=True)
class Axis:
    """A value axis, lo at the left or bottom; `inverse` axes hold lengths in A, drawn as 1/length."""

    lo: float
    hi: float
    label: str
    kind: Literal["linear", "log", "inverse"] = "linear"
    ticks: tuple[tuple[float, str], ...] = ()

    def _place(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value) if value > 0 else -math.inf
        if self.kind == "inverse":
            return 1.0 / value if value > 0 else math.inf
        return value

    def fraction(self, value: float) -> float:
        """Position of a value along the axis, 0 at lo and 1 at hi."""
        lo, hi = self._place(self.lo), self._place(self.hi)
        return (self._place(value) - lo) / (hi - lo)

    def drawn_ticks(self) -> list[tuple[float, str]]:
        """(percent along the axis, label) of the ticks that fall on the axis."""
        placed = [(100 * self.fraction(value), label) for value, label in self.ticks]
        return [(round(at, 3), label) for at, label in placed if -0.01 <= at <= 100.01]


@dataclass(frozen=True)
class Series:
    """One curve: values at the chart's positions, style classes of style.html (c1..c8, dashed)."""

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
class Chart:
    """A chart over common positions (fractions of the x axis, 0 to 1), each with a title for the read-out."""

    title: str
    x: Axis
    y: Axis
    positions: Sequence[float]
    titles: Sequence[str]
    series: Sequence[Series]
    faint: Sequence[Values] = ()
    guides: Sequence[Guide] = ()
    points: Sequence[tuple[float, float, str, str]] = ()  # x value, y value, label, style
    stages: Sequence[tuple[float, float, str]] = ()  # shaded stretch of x: from, to, name
    dots: bool = False
    size: str = ""
    stacked: bool = False


def resolution_ticks(coarsest: float, finest: float, gap: float = 0.065) -> tuple[tuple[float, str], ...]:
    """Round resolutions in A between the ends (coarsest may be infinite), `gap` of the 1/d axis apart."""
    span = 1.0 / finest - 1.0 / coarsest
    chosen: list[float] = []
    for value in ROUND_RESOLUTIONS:
        inside = 1.0 / coarsest <= 1.0 / value <= 1.0 / finest + 1e-9
        if inside and all(abs(1.0 / value - 1.0 / other) >= gap * span for other in chosen):
            chosen.append(value)
    return tuple((value, f"{value:g}") for value in sorted(chosen, reverse=True))


def linear_ticks(lo: float, hi: float, count: int = 5) -> tuple[tuple[float, str], ...]:
    """Ticks at multiples of 1, 2 or 5 times a power of ten, about `count` of them."""
    step = 10.0 ** math.floor(math.log10((hi - lo) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (hi - lo) / (factor * step) <= count + 0.5)
    first, last = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9)
    return tuple((i * step, f"{i * step:.10g}") for i in range(first, last + 1))


def log_ticks(lo: float, hi: float) -> tuple[tuple[float, str], ...]:
    """Ticks of a logarithmic axis: decades, with 2 and 5 between them where the span is short."""
    decades = range(math.floor(math.log10(lo)), math.ceil(math.log10(hi)) + 1)
    span = math.log10(hi / lo)
    factors = (1, 2, 5) if span < 2.6 else (1,)
    every = max(1, math.ceil(span / 6))
    values = [factor * 10.0**decade for decade in decades if decade % every == 0 for factor in factors]
    return tuple((value, f"{value:g}") for value in values if lo * 0.999 <= value <= hi * 1.001)


def value_axis(series: Sequence[Values], label: str, log: bool = False, zero: bool = False) -> Axis:
    """A y axis that holds all values with a margin; `zero` makes it start at 0."""
    found = [value for values in series for value in values if value is not None and (value > 0 or not log)]
    lo, hi = (min(found), max(found)) if found else (0.0, 1.0) if not log else (0.1, 1.0)
    if log:
        lo, hi = lo / 1.35, hi * 1.35
        return Axis(lo, hi, label, "log", log_ticks(lo, hi))
    margin = 0.12 * (hi - lo) or 0.1 * abs(hi) or 1.0
    lo, hi = (min(0.0, lo), hi + margin) if zero else (lo - margin, hi + margin)
    return Axis(lo, hi, label, "linear", linear_ticks(lo, hi, 4))


def _path(chart: Chart, values: Values) -> str:
    """SVG path of one curve, broken where a value is missing; values off the scale are held at its edge."""
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
    """Zero-length strokes: with round caps that do not scale they are circles on a stretched SVG."""
    placed = ((at, v) for at, v in zip(chart.positions, values, strict=False) if v is not None)
    heights = ((at, min(max(chart.y.fraction(v), 0), 1)) for at, v in placed)
    return "".join(f"M{SCALE * at:.0f} {SCALE * (1 - height):.1f}h0" for at, height in heights)


def _bars(chart: Chart) -> Markup:
    """Stacked bars, first series at the bottom."""
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
    """JSON read by script.html: positions, titles and, per series, name, style, unit and values."""
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
class Drawing:
    """A chart ready for the template (chart.html): paths, tick positions in percent, read-out JSON."""

    chart: Chart
    lines: list[tuple[str, str, str]]  # name, style, path
    dots: list[tuple[str, str]]  # style, path
    faint: list[str]
    bars: Markup
    guides: list[tuple[Guide, float]]
    points: list[tuple[float, float, str, str]]  # percent from the left, percent from the top, label, style
    stages: list[tuple[float, float, str]]
    data: Markup


def draw(chart: Chart) -> Drawing:
    """Lay the chart out in percent of its plot area."""
    lines = [] if chart.stacked else [(s.name, s.style, _path(chart, s.values)) for s in chart.series]
    dots = [(s.style, _dots(chart, s.values)) for s in chart.series] if chart.dots else []
    axes = [(guide, chart.x if guide.upright else chart.y) for guide in chart.guides]
    guides = [(guide, 100 * axis.fraction(guide.value)) for guide, axis in axes]
    points = [
        (100 * chart.x.fraction(x), 100 * (1 - chart.y.fraction(y)), label, style)
        for x, y, label, style in chart.points
    ]
    return Drawing(
        chart=chart,
        lines=lines,
        dots=dots,
        faint=[_path(chart, values) for values in chart.faint],
        bars=_bars(chart) if chart.stacked else Markup(""),
        guides=[(guide, at) for guide, at in guides if -1 <= at <= 101],
        points=[point for point in points if -1 <= point[0] <= 101],
        stages=[(100 * lo, 100 * (hi - lo), name) for lo, hi, name in chart.stages],
        data=_hover_data(chart),
    )
