"""Resolution against the number of particles: how many particles one method saves, and the plot that shows it.

Stagg et al. 2014, J. Struct. Biol. 185, 418: the inverse square of the resolution grows linearly with the logarithm of
the number of particles; the curve that lies higher aligns them better (Punjani et al. 2020, figure 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

# method -> number of particles -> resolutions (A) of the seeds
Curves = Mapping[str, Mapping[int, Sequence[float]]]

COLOURS = ("#4477aa", "#cc3311", "#228833", "#aa7700", "#882288", "#555555")  # all told apart by the colour-blind
WIDTH, HEIGHT, LEFT, TOP, GAP = 250.0, 220.0, 52.0, 34.0, 58.0
# Resolutions (A) that may get a label, the roundest first.
TICKS = (*range(3, 21), *(n / 2 for n in range(5, 20, 2)), *(n / 5 for n in range(11, 50)))
TICK_DISTANCE = 25.0


@dataclass(frozen=True)
class Needed:
    """How many particles reach a resolution. `bound` is "" for an interpolated number, "<" where the smallest number
    tried does better already, ">" where the largest falls short."""

    particles: float
    bound: str


def needed(level: float, curve: Mapping[int, Sequence[float]]) -> Needed:
    """The particles with which a curve (number -> resolutions of the seeds, A) reaches `level` (1/A^2), linear in the
    logarithm of their number between neighbours. Never extrapolated."""
    counts = sorted(curve)
    heights = [inverse_square(curve[n]) for n in counts]
    if heights[0] >= level:
        return Needed(counts[0], "" if math.isclose(heights[0], level) else "<")
    for i in range(1, len(counts)):
        if heights[i] >= level:
            share = (level - heights[i - 1]) / (heights[i] - heights[i - 1])
            return Needed(counts[i - 1] * (counts[i] / counts[i - 1]) ** share, "")
    return Needed(counts[-1], ">")


def inverse_square(resolutions: Sequence[float]) -> float:
    """The mean of 1 / d^2 (1/A^2)."""
    return sum(d ** -2 for d in resolutions) / len(resolutions)


def write_reslog(path: Path, panels: Mapping[str, Curves], label: str) -> None:
    """An SVG file with one panel for each data set: 1 / d^2 over the logarithm of the number of particles, a line
    through the means of the seeds and a bar over their spread. `label` says what resolution is meant."""
    names = list(dict.fromkeys(method for curves in panels.values() for method in curves))
    width = LEFT + len(panels) * (WIDTH + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {TOP + HEIGHT + 64:.0f}" '
             'font-family="sans-serif" font-size="11">',
             '<rect width="100%" height="100%" fill="white"/>']
    for i, (title, curves) in enumerate(panels.items()):
        parts += _panel(title, curves, {n: COLOURS[j % len(COLOURS)] for j, n in enumerate(names)},
                        LEFT + i * (WIDTH + GAP))
    x = LEFT
    for j, name in enumerate(names):
        y = TOP + HEIGHT + 50
        parts.append(f'<line x1="{x:.0f}" x2="{x + 18:.0f}" y1="{y - 4:.0f}" y2="{y - 4:.0f}" stroke-width="2" '
                     f'stroke="{COLOURS[j % len(COLOURS)]}"/>' + _text(x + 23, y, name))
        x += 40 + 7 * len(name)
    parts.append(_text(width - GAP + 44, TOP + HEIGHT + 50, label, "end"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(title: str, curves: Curves, colours: Mapping[str, str], left: float) -> list[str]:
    """One panel, its frame's left edge at `left`."""
    counts = sorted({n for curve in curves.values() for n in curve})
    heights = [d ** -2 for curve in curves.values() for seeds in curve.values() for d in seeds]
    margin = 0.1 * (max(heights) - min(heights)) or 0.1 * max(heights)
    low, high = min(heights) - margin, max(heights) + margin
    first, last = math.log(counts[0]) - 0.15, math.log(counts[-1]) + 0.15

    def x(n: float) -> float:
        return left + WIDTH * (math.log(n) - first) / (last - first)

    def y(height: float) -> float:
        return TOP + HEIGHT * (high - height) / (high - low)

    parts = [_text(left, TOP - 10, title, weight="bold"),
             f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
    for n in counts:
        parts.append(_text(x(n), TOP + HEIGHT + 15, f"{n:,}", "middle"))
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 30, "particles", "middle"))
    drawn: list[float] = []
    for tick in TICKS:
        at = y(tick ** -2)
        if TOP <= at <= TOP + HEIGHT and all(abs(at - other) > TICK_DISTANCE for other in drawn):
            drawn.append(at)
            parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
                         + _text(left - 5, at + 4, f"{tick:g} Å", "end"))
    for name, curve in curves.items():
        means = [(x(n), y(inverse_square(curve[n])), n) for n in sorted(curve)]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in means)
        parts.append(f'<polyline points="{line}" fill="none" stroke-width="2" stroke="{colours[name]}"/>')
        for px, py, n in means:
            ends = [y(d ** -2) for d in curve[n]]
            parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{min(ends):.1f}" y2="{max(ends):.1f}" '
                         f'stroke="{colours[name]}"/>'
                         f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colours[name]}"/>')
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
