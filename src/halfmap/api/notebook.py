"""Results as a notebook shows them: small pictures and curves in HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from halfmap.finding import Finding
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import PLANES, central_greys, usable, window_around

if TYPE_CHECKING:
    from halfmap.api.curves import Curves
    from halfmap.api.pairs import RegularisedMaps
    from halfmap.api.particles import Particles
    from halfmap.api.results import Results
    from halfmap.api.run import Run

SIDE = 150  # px, of a picture
WIDTH, HEIGHT, LEFT, FOOT = 360, 180, 34, 22  # px, of the plot
COLOURS = {"unmasked": "#4477aa", "masked": "#ccbb44", "corrected": "#aa3377"}
MOST = 8  # findings, files or columns that are listed


def run_html(run: Run) -> str:
    """A run: its map, its resolution and the FSC of its half maps."""
    reached = run.resolution
    facts = [f"{len(run.iterations)} iterations", "finished" if run.finished else "not finished"]
    if reached is not None:
        facts.insert(0, f"<b>{reached:.2f} &Aring;</b> (FSC 0.143, unmasked half maps)")
    curves = run.curves
    parts = [_slices(run.maps.get("map", run.maps.get("class001")), run.mask), "" if curves is None else _plot(curves)]
    return _card(f"Run {_text(run.path)}", facts, parts, run.findings)


def curves_html(curves: Curves) -> str:
    """FSC curves and where they fall."""
    return _card("Half-map FSC", _reached(curves), [_plot(curves)], curves.findings)


def filtered_html(maps: RegularisedMaps) -> str:
    """Filtered half maps: their mean, and the FSC of the raw ones."""
    return _card(f"Half maps filtered by {_text(maps.method)}", _reached(maps.curves),
                 [_slices(maps.map, maps.mask), _plot(maps.curves)], maps.findings)


def results_html(results: Results) -> str:
    """What a command left: its files and what it remarked."""
    folder = results.folder
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder is not None else []
    facts = [] if results.ok else ["<b>not ok</b>"]
    facts.append(_listed(names))
    shown = results.maps.get("map")
    return _card(f"{type(results).__name__} {_text(results.path or '')}", facts,
                 [] if shown is None else [_slices(shown, None)], results.findings)


def particles_html(particles: Particles) -> str:
    """A particle file: how many, and its columns."""
    facts = [f"<b>{particles.count:,}</b> particles", _listed(particles)]
    return _card(f"Particles {_text(particles.path)}", facts, [], particles.findings)


def _card(title: str, facts: Sequence[str], parts: Sequence[str], findings: Sequence[Finding]) -> str:
    """title, facts, parts: HTML already; findings: not yet."""
    told = "".join(f"<li>{_text(one.text)}</li>" for one in findings[:MOST])
    more = f"<li>and {len(findings) - MOST} more</li>" if len(findings) > MOST else ""
    return (f'<div style="font-family:sans-serif"><div><b>{title}</b></div><div>{"; ".join(filter(None, facts))}</div>'
            f'<div style="display:flex;gap:8px;flex-wrap:wrap;align-items:flex-end">{"".join(parts)}</div>'
            + (f"<ul>{told}{more}</ul>" if told else "") + "</div>")


def _slices(volume: NDArray[np.float32] | None, mask: NDArray[np.float32] | None) -> str:
    """Central slices of a map; nothing for what is no map."""
    density = usable(volume)
    if density is None:
        return ""
    window = window_around(usable(mask, density.shape[0]), density.shape[0])
    return "".join(f'<img alt="{plane.name} slice" title="{plane.name} slice" width="{SIDE}" height="{SIDE}" '
                   f'src="{png_uri(grey)}">'
                   for plane, grey in zip(PLANES, central_greys(density, window), strict=True))


def _plot(curves: Curves) -> str:
    """The curves against frequency as SVG."""
    finest, inner = float(curves.frequency[-1]), (WIDTH - LEFT - 6, HEIGHT - FOOT - 6)

    def x(frequency: float) -> float:
        return LEFT + inner[0] * frequency / finest

    def y(value: float) -> float:
        return 6 + inner[1] * (1 - min(max(value, -0.1), 1.0)) / 1.1

    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="'
        + " ".join(f"{x(f):.1f},{y(v):.1f}" for f, v in zip(curves.frequency, getattr(curves, name), strict=True)
                   if np.isfinite(v)) + '"/>' for name, colour in COLOURS.items())
    levels = "".join(f'<line x1="{LEFT}" x2="{WIDTH - 6}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#999" '
                     f'stroke-dasharray="3 3"/><text x="2" y="{y(v) + 4:.1f}">{v:g}</text>' for v in (0, 0.143, 0.5, 1))
    ticks = "".join(f'<text x="{x(f):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{1 / f:.1f}</text>'
                    for f in finest * np.arange(1, 5) / 4.2)
    names = "".join(f'<text x="{WIDTH - 70}" y="{20 + 13 * i}" fill="{colour}">{name}</text>'
                    for i, (name, colour) in enumerate(COLOURS.items()))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-size="10" role="img" '
            f'aria-label="FSC against resolution in A" style="background:#fff">{levels}{ticks}{lines}{names}</svg>')


def _reached(curves: Curves) -> list[str]:
    """Where curves fall below 0.143."""
    said = []
    for name in ("unmasked", "corrected"):
        reached = curves.resolution(name)
        text = f"&lt; {2 * curves.voxel_size:.2f}" if reached is None else f"{reached:.2f}"
        said.append(f"<b>{text} &Aring;</b> ({name})")
    return said


def _listed(names: Any) -> str:
    listed = list(names)
    more = f" and {len(listed) - MOST} more" if len(listed) > MOST else ""
    return _text(", ".join(listed[:MOST]) + more)


def _text(value: object) -> str:
    return escape(str(value))
