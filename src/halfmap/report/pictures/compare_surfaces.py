"""The surfaces of `halfmap compare`: maps of several runs, framed alike and coloured on one scale."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from halfmap.report.pictures.colours import coloured
from halfmap.report.pictures.local_cutoff import Scale
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.surface import View, render_surface, turned
from halfmap.report.record_values import Array

TURNS = (turned(25.0, 12.0), turned(115.0, 12.0))  # a quarter of a turn apart
SPECK = 0.02  # share of the largest piece below which a piece is not drawn


def enclosed(volume: Array, level: float) -> NDArray[np.bool_]:
    """Voxels [z,y,x] that the surface of a map [z,y,x] encloses, without the specks that are not drawn."""
    label, number = ndimage.label(volume >= level)
    sizes = np.bincount(label.ravel(), minlength=number + 1)
    sizes[0] = 0
    inside: NDArray[np.bool_] = (sizes > SPECK * sizes.max())[label]
    return inside


def framed(bodies: Sequence[NDArray[np.bool_]]) -> list[View]:
    """The views of TURNS, framed alike around all bodies [z,y,x]."""
    points = np.argwhere(np.logical_or.reduce(bodies))[:, ::-1].astype(np.float64)
    if not len(points):
        return list(TURNS)
    middle = (points.min(0) + points.max(0)) / 2
    reach = max(float(np.abs((points - middle) @ np.array(turn.axes)[:2].T).max()) for turn in TURNS)
    centre = (middle[0], middle[1], middle[2])
    return [replace(turn, centre=centre, reach=1.03 * reach + 1) for turn in TURNS]


def surface_pictures(volume: Array, level: float, local: Array, scale: Scale, views: Sequence[View],
                     width: int) -> list[str]:
    """Pictures of a map [z,y,x] at a level from each view, `width` pixels square, as data URIs.

    local: local resolution in A [z,y,x], which colours the surface on the scale.
    """

    def colours(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return coloured(scale.fraction(1 / values.clip(1e-3)))

    return [png_uri(render_surface(volume, level, view=view, values=local, colours=colours, width=width, dust=SPECK))
            for view in views]
