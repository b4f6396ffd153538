"""A perceptually even colour map for ordered values, from dark violet over blue and green to light yellow.

It runs through the OKLab colour space (Ottosson 2020, bottosson.github.io/posts/oklab) at constant speed, so equal
steps of the value look like equal steps of colour. Its lightness only rises, so it also reads in grey.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Lightness, chroma and hue (degrees) of the corners, all within sRGB. Neither end vanishes on a light or a dark page.
_PATH = ((0.36, 0.135, 300), (0.44, 0.125, 272), (0.54, 0.105, 240), (0.64, 0.10, 205), (0.74, 0.13, 160),
         (0.83, 0.17, 125), (0.90, 0.165, 103))  # fmt: skip
_TO_CONE = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
                     [1, -0.0894841775, -1.2914855480]])  # fmt: skip
_TO_RGB = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                    [-0.0041960863, -0.7034186147, 1.7076147010]])  # fmt: skip


@lru_cache(maxsize=1)
def scale_colours() -> NDArray[np.float64]:
    """The colour map as 256 sRGB colours [i,3] in [0, 1], from the lowest value to the highest."""
    fine = np.linspace(0, 1, 4001)
    corners = np.linspace(0, 1, len(_PATH))
    lightness, chroma, hue = (np.interp(fine, corners, values) for values in np.array(_PATH).T)
    angle = np.radians(hue)
    oklab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=1)
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(oklab, axis=0), axis=1))])
    even = np.linspace(0, way[-1], 256)
    linear = (np.stack([np.interp(even, way, values) for values in oklab.T], axis=1) @ _TO_CONE.T) ** 3 @ _TO_RGB.T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def coloured(fraction: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colours [..,3] in [0, 1] of fractions [..] of the scale. A fraction beyond an end takes the colour of the end."""
    return scale_colours()[np.rint(255 * np.asarray(fraction).clip(0, 1)).astype(int)]


def css_colour(fraction: float) -> str:
    """The colour of one fraction of the scale for a style sheet, as #rrggbb."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in coloured(np.array(fraction)))


def css_gradient(stops: int = 17) -> str:
    """The whole scale from left to right as a CSS gradient."""
    return f"linear-gradient(90deg,{','.join(css_colour(i / (stops - 1)) for i in range(stops))})"
