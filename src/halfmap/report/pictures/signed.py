"""Values about zero as pictures: orange above, blue below, nothing at zero; they read on light and dark pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfmap.report.pictures.png import png_uri

ABOVE, BELOW = (216, 106, 12), (38, 103, 190)  # sRGB
STOPS = 9  # of the gradient


def signed_uri(values: NDArray[np.floating], limit: float) -> str:
    """Values [y, x] as a data: URI of a picture, row 0 at the bottom.

    limit: the value of full colour. NaN is drawn as nothing.
    """
    strength = np.nan_to_num(np.abs(values) / max(limit, 1e-30)).clip(0, 1)
    colour = np.where((np.nan_to_num(values) > 0)[..., None], ABOVE, BELOW)
    pixels = np.concatenate([colour, np.rint(255 * strength)[..., None]], axis=-1).astype(np.uint8)
    return png_uri(np.ascontiguousarray(pixels[::-1]))


def signed_gradient() -> str:
    """The colours from -limit to limit, from left to right, as a CSS gradient."""
    shades = []
    for at in np.linspace(-1, 1, STOPS):
        red, green, blue = ABOVE if at > 0 else BELOW
        shades.append(f"rgb({red} {green} {blue} / {abs(at):.3f})")
    return f"linear-gradient(90deg,{','.join(shades)})"
