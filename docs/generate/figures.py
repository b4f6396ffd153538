"""Drawings as SVG in the page itself, in the colours of the page: dots in rows, and curves."""

import html
from collections.abc import Mapping, Sequence

COLOURS = ("#7f8793", "#3f7fe0", "#e08326", "#2fa36b", "#b266d6", "#c9a227", "#d65a6f")
_WIDTH, _LEFT, _RIGHT = 640, 150, 20


def _figure(svg: Sequence[str], height: float, caption: str) -> str:
    drawn = "".join(svg)
    return (
        f'<figure class="drawn"><svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{html.escape(caption)}">'
        f"{drawn}</svg><figcaption>{html.escape(caption)}</figcaption></figure>\n"
    )


def _legend(names: Sequence[str], y: float) -> list[str]:
    """Names beside dots of their colours, in lines; `_legend_lines` of them."""
    svg, x = [], 10.0
    for name, colour in zip(names, COLOURS, strict=False):
        if x + 24 + 6.2 * len(name) > _WIDTH:
            x, y = 10.0, y + 18
        svg.append(
            f'<circle cx="{x + 5:g}" cy="{y - 4:g}" r="5" fill="{colour}"/>'
            f'<text x="{x + 15:g}" y="{y:g}">{html.escape(name)}</text>'
        )
        x += 34 + 6.2 * len(name)
    return svg


def _legend_lines(names: Sequence[str]) -> int:
    lines, x = 1, 10.0
    for name in names:
        if x + 24 + 6.2 * len(name) > _WIDTH:
            lines, x = lines + 1, 10.0
        x += 34 + 6.2 * len(name)
    return lines


def _ticks(low: float, high: float) -> list[float]:
    """Round values within the range, about six."""
    span = high - low
    step = next(s * 10.0**p for p in range(-4, 5) for s in (1, 2, 5) if span / (s * 10.0**p) <= 7)
    first = -(-low // step)
    return [round((first + i) * step, 6) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def dots(rows: Mapping[str, Mapping[str, float]], unit: str, caption: str) -> str:
    """Values as dots, a line for each row, a colour for each name; rows: values by row and name."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = [v for row in rows.values() for v in row.values()]
    pad = 0.06 * (max(values) - min(values))
    low, high = min(values) - pad, max(values) + pad
    top = 18 * _legend_lines(names) + 12
    bottom = top + 34 * len(rows)

    def at(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    svg = _legend(names, 14)
    for tick in _ticks(low, high):
        svg.append(
            f'<path class="axis" d="M{at(tick):.1f} {top}V{bottom}"/>'
            f'<text x="{at(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>'
        )
    svg.append(f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 32}" text-anchor="end">{html.escape(unit)}</text>')
    for i, (label, row) in enumerate(rows.items()):
        y = top + 34 * i + 17
        svg.append(
            f'<path class="axis" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{html.escape(label)}</text>'
        )
        for j, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
            if name in row:  # a little below one another, so that none hides another
                height = y + 3.6 * (j - (len(names) - 1) / 2)
                svg.append(
                    f'<circle cx="{at(row[name]):.1f}" cy="{height:.1f}" r="4.5" fill="{colour}">'
                    f"<title>{html.escape(name)}: {row[name]:.3g} {html.escape(unit)}</title></circle>"
                )
    return _figure(svg, bottom + 40, caption)


def curves(lines: Mapping[str, Sequence[float]], side: float, label: str, caption: str, band: float | None = None,
           first: int = 1) -> str:  # fmt: skip
    """Values by shell against resolution; lines: by name; side: of the box in A; band: half its height about zero;
    first: the first shell drawn."""
    names, left, height = list(lines), 46, 260
    top = 18 * _legend_lines(names) + 10
    values = [v for line in lines.values() for v in line[first:]] + ([-band, band] if band else [0.0, 1.0])
    low, high = min(values), max(values)
    last = max(len(line) for line in lines.values()) - 1

    def x(shell: float) -> float:
        return left + (shell - first) / (last - first) * (_WIDTH - left - _RIGHT)

    def y(value: float) -> float:
        return top + (high - value) / (high - low) * height

    svg = _legend(names, 14)
    if band:
        svg.append(
            f'<rect class="band" x="{left}" y="{y(band):.1f}" width="{_WIDTH - left - _RIGHT}" '
            f'height="{y(-band) - y(band):.1f}"/>'
        )
    for tick in _ticks(low, high):
        svg.append(
            f'<path class="axis" d="M{left} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    svg.append(f'<path class="zero" d="M{left} {y(0):.1f}H{_WIDTH - _RIGHT}"/>')
    for resolution in (40, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.5, 2):
        if first <= side / resolution <= last:
            svg.append(
                f'<text x="{x(side / resolution):.1f}" y="{top + height + 16}" text-anchor="middle">{resolution}</text>'
            )
    svg.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{top + height + 32}" text-anchor="end">resolution, A</text>'
        f'<text x="{left}" y="{top + height + 32}">{html.escape(label)}</text>'
    )
    for (_, line), colour in zip(lines.items(), COLOURS, strict=False):
        points = " ".join(f"{x(s):.1f},{y(line[s]):.1f}" for s in range(first, len(line)))
        svg.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return _figure(svg, top + height + 40, caption)
