"""Resolution against the number of particles as an SVG picture, for a page or a file of its own.

Colours are attributes, which any program reads. The style sheet of a page overrides them by class, so the same picture
follows the light or dark theme of the page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from halfmap.maps.mrc import replaced_atomically
from halfmap.report.pictures.axes import ROUND_RESOLUTIONS, linear_ticks, log_ticks

COLOURS = ("#1b5fb8", "#c2660a", "#0b8573", "#a8325a", "#6a3fb0", "#4d7a1e", "#2d8cc4", "#7d8188")
CLASSES = ("c1", "c3", "c2", "c4", "c5", "c6", "c7", "c8")  # of style.html; colour-blind readers tell neighbours apart
INK, SOFT, LINE, FAINT, PAPER = "#17191d", "#5c6066", "#cfcbc3", "#e6e3dd", "#ffffff"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 470.0, 320.0, 62.0, 50.0, 40.0, 48.0
# SVG paths of the marks, drawn about the origin.
MARKS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z", "M-3.7 -3.7H3.7V3.7H-3.7Z", "M0 -5L4.6 3.5H-4.6Z",
         "M0 -5L5 0L0 5L-5 0Z")
FINE = tuple(n / 10 for n in range(11, 100))  # A: for an axis too short for round resolutions
TICK_GAP, ENOUGH_TICKS = 26.0, 4  # least distance of two resolution ticks; with so many, no fine ones are added
LEGEND_LETTERS = 40  # a longer name is cut


@dataclass(frozen=True)
class Point:
    """Mean 1/d^2 (1/A^2) of subsets with this number of particles. low, high: ends of the error bar (1/A^2)."""

    particles: float
    height: float
    low: float
    high: float


@dataclass(frozen=True)
class FittedLine:
    """A straight line from `fewest` to `most` particles; start, end: its 1/d^2 (1/A^2) at these."""

    fewest: float
    most: float
    start: float
    end: float


@dataclass(frozen=True)
class Plotted:
    """One curve. line: fitted to the points (None: the points are joined); note: follows the name in the legend."""

    name: str
    points: Sequence[Point]
    line: FittedLine | None = None
    note: str = ""


def reslog_svg(panels: Mapping[str, Sequence[Plotted]], standalone: bool = True, caption: str = "") -> str:
    """Draw the curves of each title in a panel of its own, side by side. A curve has one colour and mark in all panels.

    standalone: draw a white background and give the size in pixels, as a file needs.
    """
    names = list(dict.fromkeys(one.name for curves in panels.values() for one in curves))
    width, height = len(panels) * (LEFT + WIDTH + RIGHT), TOP + HEIGHT + BOTTOM + (18 if caption else 0)
    size = f'width="{width:.0f}" height="{height:.0f}" ' if standalone else ""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
             f'aria-label="Resolution against number of particles" font-family="sans-serif" font-size="12">']
    if standalone:
        parts.append(f'<rect width="100%" height="100%" fill="{PAPER}"/>')
    for i, (title, curves) in enumerate(panels.items()):
        if any(one.points for one in curves):
            parts += _panel(title, curves, names, i * (LEFT + WIDTH + RIGHT) + LEFT)
    if caption:
        parts.append(_text(LEFT, height - 10, caption, "soft"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_reslog_svg(path: Path, panels: Mapping[str, Sequence[Plotted]], caption: str = "") -> None:
    """Write the panels to a file, which appears whole or not at all. InputError if it cannot be written."""
    with replaced_atomically(path) as stream:
        stream.write(reslog_svg(panels, caption=caption).encode("utf-8"))


@dataclass(frozen=True)
class _Frame:
    """The plot area of a panel. left: its left edge; first, last: ends of ln N; low, high: ends of 1/d^2 (1/A^2)."""

    left: float
    first: float
    last: float
    low: float
    high: float

    def x(self, particles: float) -> float:
        return self.left + WIDTH * (math.log(particles) - self.first) / (self.last - self.first)

    def y(self, height: float) -> float:
        return TOP + HEIGHT * (self.high - height) / (self.high - self.low)


def _frame(curves: Sequence[Plotted], left: float) -> _Frame:
    """A frame around all points, bars and lines, with room for the legend above."""
    counts = [math.log(p.particles) for one in curves for p in one.points]
    heights = [h for one in curves for p in one.points for h in (p.low, p.high)]
    heights += [height for one in curves if one.line for height in (one.line.start, one.line.end)]
    span = max(heights) - min(heights) or 0.2 * max(heights)
    side = 0.06 * (max(counts) - min(counts)) or 0.5
    low = max(min(heights) - 0.08 * span, 0.0)
    room = (18.0 * len(curves) + 16) / HEIGHT  # share of the frame
    high = low + (max(heights) + 0.06 * span - low) / (1 - min(room, 0.5))
    return _Frame(left, min(counts) - side, max(counts) + side, low, high)


def _panel(title: str, curves: Sequence[Plotted], names: Sequence[str], left: float) -> list[str]:
    frame = _frame(curves, left)
    right, bottom = left + WIDTH, TOP + HEIGHT
    parts = _axes(frame) + ([_text(left, TOP - 25, title, weight="600")] if title else [])
    for one in curves:
        j = names.index(one.name) % len(COLOURS)
        parts += _curve(one, frame, j)
    parts.append(f'<rect class="frame" x="{left:.1f}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
                 f'stroke="{LINE}"/>')
    for i, one in enumerate(curves):
        j = names.index(one.name) % len(COLOURS)
        y = TOP + 20 + 18 * i
        short = one.name if len(one.name) <= LEGEND_LETTERS else one.name[: LEGEND_LETTERS - 1] + "…"
        parts += [_mark(left + 18, y - 4, j), _text(left + 30, y, f"{short} · {one.note}" if one.note else short)]
    parts += [_text(left - 50, TOP - 7, "1/d² (Å⁻²)", "soft"), _text(right + 8, TOP - 7, "d (Å)", "soft"),
              _text(right, bottom + 38, "particles", "soft", "end")]
    return parts


def _axes(frame: _Frame) -> list[str]:
    """Ticks of 1/d^2 at the left, resolutions with grid lines at the right, numbers of particles below."""
    left, right, bottom = frame.left, frame.left + WIDTH, TOP + HEIGHT
    parts = []
    for tick in linear_ticks(frame.low, frame.high, 5):
        y = frame.y(tick.value)
        if y < TOP + 8:  # the title of the axis stands there
            continue
        parts += [_line(left - 4, y, left, y, LINE, "tick"), _text(left - 8, y + 4, tick.label, "soft", "end")]
    drawn: list[float] = []
    for d in (*ROUND_RESOLUTIONS, *FINE):
        y = frame.y(d**-2)
        if d not in ROUND_RESOLUTIONS and len(drawn) >= ENOUGH_TICKS:
            break
        if TOP + 4 <= y <= bottom and all(abs(y - other) >= TICK_GAP for other in drawn):
            drawn.append(y)
            parts += [_line(left, y, right, y, FAINT, "grid"), _text(right + 8, y + 4, f"{d:g}", "soft")]
    for tick in log_ticks(math.exp(frame.first), math.exp(frame.last)):
        x = frame.x(tick.value)
        parts += [_line(x, bottom, x, bottom + 4, LINE, "tick"),
                  _text(x, bottom + 18, f"{tick.value:,.0f}".replace(",", "\u2009"), "soft", "middle")]
    return parts


def _curve(one: Plotted, frame: _Frame, j: int) -> list[str]:
    """A curve in the j-th colour and mark."""
    colour, name, line = COLOURS[j], CLASSES[j], one.line
    ends = [(line.fewest, line.start), (line.most, line.end)] if line else [(p.particles, p.height) for p in one.points]
    path = "L".join(f"{frame.x(n):.1f} {frame.y(h):.1f}" for n, h in ends)
    parts = [f'<path class="line {name}" d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for p in one.points:
        x = frame.x(p.particles)
        if p.high > p.low:
            low, high = frame.y(p.low), frame.y(p.high)
            parts.append(f'<path class="{name}" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} '
                         f'{high:.1f}h8" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        said = f"{one.name}: {p.particles:,.0f} particles, {p.height**-0.5:.2f} Å"
        parts.append(_mark(x, frame.y(p.height), j, said))
    return parts


def _mark(x: float, y: float, j: int, said: str = "") -> str:
    """The j-th mark at a point. said: text under the pointer."""
    title = f"<title>{escape(said)}</title>" if said else ""
    return (f'<path class="mark {CLASSES[j]}" transform="translate({x:.1f} {y:.1f})" d="{MARKS[j % len(MARKS)]}" '
            f'fill="{PAPER}" stroke="{COLOURS[j]}" stroke-width="1.8">{title}</path>')


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, name: str) -> str:
    return f'<path class="{name}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" fill="none" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, name: str = "", anchor: str = "start", weight: str = "400") -> str:
    colour = SOFT if name == "soft" else INK
    return (f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="{colour}">{escape(text)}</text>')
