"""Positions in a plane as an SVG picture, in the colours of their groups."""

from collections.abc import Sequence
from html import escape

from halfmap.report.pictures.axes import linear_ticks

COLOURS = 8  # of style.html, c1 to c8
SIDE, LEFT, RIGHT, TOP, BOTTOM = 420.0, 64.0, 20.0, 16.0, 48.0
MARGIN = 0.06  # of the extent


def places_svg(places: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """Draw places [i, 3] (x, y, number of the group), in equal scales along both axes; labels: of the columns, one or
    two. Each group has its number at its middle."""
    x, y = ([place[axis] for place in places] for axis in (0, 1))
    span = max(max(x) - min(x), max(y) - min(y)) * (1 + 2 * MARGIN) or 1.0
    lows = [0.5 * (min(values) + max(values) - span) for values in (x, y)]

    def at(place: Sequence[float]) -> str:
        return (f"{LEFT + (place[0] - lows[0]) / span * SIDE:.1f} "
                f"{TOP + (1 - (place[1] - lows[1]) / span) * SIDE:.1f}")

    width, height = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
             f'aria-label="Positions of images and their groups" font-size="12">',
             f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none"/>']
    for tick in linear_ticks(lows[0], lows[0] + span, 5):
        across = LEFT + (tick.value - lows[0]) / span * SIDE
        parts.append(f'<text class="soft" x="{across:.1f}" y="{TOP + SIDE + 18}" text-anchor="middle">{tick.label}'
                     '</text>')
    for tick in linear_ticks(lows[1], lows[1] + span, 5) if len(labels) > 1 else ():
        down = TOP + (1 - (tick.value - lows[1]) / span) * SIDE
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{tick.label}</text>')
    parts.append(f'<text class="soft" x="{LEFT + SIDE}" y="{TOP + SIDE + 38}" text-anchor="end">{escape(labels[0])}'
                 '</text>')
    if len(labels) > 1:
        parts.append(f'<text class="soft" x="{LEFT + 8}" y="{TOP + 16}">{escape(labels[1])}</text>')
    groups = sorted({int(place[2]) for place in places})
    for group in groups:
        own = [place for place in places if int(place[2]) == group]
        dots = "".join(f"M{at(place)}h0" for place in own)
        parts.append(f'<path class="dots c{group % COLOURS + 1}" d="{dots}"/>')
    for group in groups:
        own = [place for place in places if int(place[2]) == group]
        middle = [sum(place[axis] for place in own) / len(own) for axis in (0, 1)]
        x_at, y_at = at(middle).split()
        parts.append(f'<text x="{x_at}" y="{float(y_at) - 7:.1f}" text-anchor="middle">{group + 1}</text>')
    return "\n".join([*parts, "</svg>"])
