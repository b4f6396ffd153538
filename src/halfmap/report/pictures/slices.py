"""Pictures of maps: central slices and projections in grey, with the outline of the mask."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfmap.report.pictures.png import png_uri
from halfmap.report.record_values import Array

PICTURE = 256  # pixels along the side of a picture
ROUND_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # A, of a scale bar


@dataclass(frozen=True)
class Plane:
    """A plane through the box. across, down: axes of its picture; axis: number of the axis of [z,y,x] normal to it."""

    across: str
    down: str
    axis: int

    @property
    def name(self) -> str:
        """xy, xz or yz."""
        return self.across + self.down

    @property
    def normal(self) -> str:
        """Name of the axis normal to the plane: z, y or x."""
        return "zyx"[self.axis]


PLANES = (Plane("x", "y", 0), Plane("x", "z", 1), Plane("y", "z", 2))


@dataclass(frozen=True)
class Picture:
    """One square picture with its caption.

    title, note: the caption; uri: PNG as data URI; outline: SVG path of the mask's outline in a box 1000 units wide;
    across, down: names of the axes.
    """

    title: str
    note: str
    uri: str
    outline: str
    across: str
    down: str


@dataclass(frozen=True)
class Window:
    """The central cube that pictures show, in voxels: [low, low + width) along every axis."""

    low: int
    width: int


@dataclass(frozen=True)
class ScaleBar:
    """A scale bar: its length in percent of a picture's width, and its label, empty if there is no bar."""

    percent: float
    label: str


def slice_picture(title: str, plane: Plane, pixels: NDArray[np.uint8], edge: str) -> Picture:
    """The picture of a central slice. pixels: as `png` takes them; edge: the outline of the mask."""
    return Picture(title, f"{plane.name} slice", png_uri(pixels), edge, plane.across, plane.down)


def window_around(mask: Array | None, box: int) -> Window:
    """The smallest central cube that holds the mask with a margin, so that the molecule fills the picture.

    The whole box if there is no mask.
    """
    if mask is None or not np.any(mask > 0.5):
        return Window(0, box)
    reach = 0
    for axis in range(3):
        hit = np.flatnonzero(mask.max(axis=tuple(a for a in range(3) if a != axis)) > 0.5)
        reach = max(reach, abs(int(hit[0]) - box // 2), abs(int(hit[-1]) - box // 2))
    half = min(math.ceil(1.18 * reach) + 2, box // 2)
    return Window(box // 2 - half, min(2 * half, box))


def fourier_resize(image: Array, size: int) -> Array:
    """Resample a square periodic picture [y,x] to size x size by cropping or padding its Fourier transform."""
    n = image.shape[0]
    if size == n:
        return image
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    kept = min(n, size)
    result = np.zeros((size, size), dtype=complex)
    start, source = size // 2 - kept // 2, n // 2 - kept // 2
    region, origin = slice(start, start + kept), slice(source, source + kept)
    result[region, region] = spectrum[origin, origin]
    resized: Array = np.fft.ifft2(np.fft.ifftshift(result)).real * (size / n) ** 2
    return resized


def crop(image: Array, window: Window) -> Array:
    """The window of a full-size picture [y,x], Fourier resampled to about PICTURE pixels across."""
    size, low = _resampling(image.shape[0], window)
    return fourier_resize(image, size)[low : low + PICTURE, low : low + PICTURE]


def crop_linear(image: Array, window: Window) -> Array:
    """The same pixels as `crop` by linear interpolation, for values with steps, where a Fourier transform rings."""
    n = image.shape[0]
    size, low = _resampling(n, window)
    at = (np.arange(low, min(low + PICTURE, size)) * n / size).clip(0, n - 1)
    first = np.minimum(at.astype(int), n - 2)
    part = (at - first).astype(image.dtype)
    rows = image[first] * (1 - part)[:, None] + image[first + 1] * part[:, None]
    pixels: Array = rows[:, first] * (1 - part) + rows[:, first + 1] * part
    return pixels


def _resampling(n: int, window: Window) -> tuple[int, int]:
    """Side of the full picture [n,n] once it is resampled, and where the window begins in it."""
    size = 2 * round(PICTURE * n / window.width / 2)
    return size, round(window.low * size / n)


def grey_levels(images: Sequence[Array], low: float = 0.4, high: float = 99.85) -> list[NDArray[np.uint8]]:
    """Pictures [y,x] on one common grey scale between two percentiles of their values. Protein is light."""
    values = np.concatenate([image[::2, ::2].ravel() for image in images])
    bottom, top = np.percentile(values, (low, high))
    span = float(top - bottom) or 1.0
    return [np.clip(255 * (image - bottom) / span + 0.5, 0, 255).astype(np.uint8) for image in images]


def central_greys(volume: Array, window: Window) -> list[NDArray[np.uint8]]:
    """The central slices of a volume [z,y,x], one for each of PLANES, on one grey scale."""
    return grey_levels([crop(central(volume, plane.axis), window) for plane in PLANES])


def outline(mask: Array, window: Window, level: float = 0.5) -> str:
    """SVG path of the contour of a picture [y,x] at a level by marching squares, in a window 1000 units wide.

    A cell between four pixel centres contributes one segment (two at a saddle). Neighbours share end points.
    """
    part = mask[window.low : window.low + window.width, window.low : window.low + window.width]
    corner = [part[:-1, :-1], part[:-1, 1:], part[1:, 1:], part[1:, :-1]]
    inside = [values > level for values in corner]
    case = sum(flag.astype(int) << i for i, flag in enumerate(inside))
    steps = ((0, 0), (0, 1), (1, 1), (1, 0))  # (y, x) of the corners in drawing order
    unit = 1000 / window.width
    centre = 0.5 * window.width / PICTURE  # a voxel lies at the centre of the first of its resampled pixels
    segments: list[str] = []
    for y, x in np.argwhere((case > 0) & (case < 15)):
        ends: list[str] = []
        for i in range(4):
            j = (i + 1) % 4
            a, b = float(corner[i][y, x]), float(corner[j][y, x])
            if (a > level) != (b > level):
                along = (level - a) / (b - a)
                px = x + centre + steps[i][1] + along * (steps[j][1] - steps[i][1])
                py = y + centre + steps[i][0] + along * (steps[j][0] - steps[i][0])
                ends.append(f"{px * unit:.0f} {py * unit:.0f}")
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            segments.append(f"M{first}L{last}")
    return "".join(segments)


def central(volume: Array, axis: int) -> Array:
    """The slice [y,x], [z,x] or [z,y] through the centre of a volume [z,y,x], across axis 0, 1 or 2."""
    return np.asarray(volume.take(volume.shape[axis] // 2, axis=axis), dtype=np.float32)


def usable(volume: Array | None, box: int | None = None) -> Array | None:
    """The array if it is a finite cube (of the given box), else None, because a report never stops a refinement."""
    if volume is None:
        return None
    array = np.asarray(volume)
    cubic = array.ndim == 3 and len(set(array.shape)) == 1 and array.shape[0] >= 4
    if not cubic or (box is not None and array.shape[0] != box):
        return None
    return array if math.isfinite(float(array.sum(dtype=np.float64))) else None


def scale_bar(window: Window, pixel_size: float | None) -> ScaleBar:
    """A scale bar of a round length, about a quarter of the picture; none without a pixel size (A)."""
    if not pixel_size:
        return ScaleBar(0.0, "")
    width = window.width * pixel_size
    length = max((size for size in ROUND_LENGTHS if size <= 0.3 * width), default=ROUND_LENGTHS[0])
    return ScaleBar(100 * length / width, f"{length} Å")
