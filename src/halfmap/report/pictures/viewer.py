"""A map as a surface that a reader can turn in the browser: a still picture, and the map made small.

The map is cropped to the molecule, sampled on about a hundred voxels along its longest side and stored in eight bits.
viewer.html draws it in the browser (WebGL 2). Where that is not possible, the still picture stays.
"""

import base64
import gzip
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from halfmap.fourier.transform import resize_map
from halfmap.maps.levels import CUBIC_ANGSTROM_PER_DALTON, contour_level, level_for_volume
from halfmap.report.pictures.colours import coloured, scale_colours
from halfmap.report.pictures.local_cutoff import LocalCutoff
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import usable
from halfmap.report.pictures.surface import PLAIN, SIDE, render_surface
from halfmap.report.record_values import Array

LONGEST = 108  # voxels along the longest side of what the browser draws
FINEST = 2.0  # most voxels of the browser to one of the map: more show nothing new
COLOUR_SHARE = 2  # voxels of the small map to one of its colours, along each axis
STILL = 640  # pixels
# Ends of the slider: the lowest level as a share of the one shown, the highest by the share of the volume it encloses.
FAINTEST, DENSEST = 0.3, 0.04


@dataclass(frozen=True)
class Viewer:
    """A surface for viewer.html.

    still: the picture as data URI; level: grey value of the map at which it is drawn; facts: JSON for the script;
    volume: the small map, gzipped uint8 [z,y,x] in base64; colours: the place of each voxel on the colour scale, coded
    alike on a coarser grid; palette: 256 RGB colours, coded alike; cutoff: the meaning of the colours. The last three
    are empty or None if the surface has one colour.
    """

    still: str
    level: float
    facts: Markup
    volume: str
    colours: str
    palette: str
    cutoff: LocalCutoff | None


def viewer(volume: Array | None, mask: Array | None, pixel_size: float | None, theta: Array | None = None,
           cutoff: LocalCutoff | None = None) -> Viewer | None:
    """The surface of a map [z,y,x] within its mask [z,y,x], coloured by theta [z,y,x] (A) on the scale of `cutoff`.

    pixel_size in A. None if there is no map, no pixel size, or nothing to draw.
    """
    volume = usable(volume)
    if volume is None or not pixel_size:
        return None
    mask = usable(mask, volume.shape[0])
    data = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    inside = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))
    level = contour_level(data, inside)
    if inside is not None:
        data = data * (2 * inside).clamp(0, 1)
    if not level > 0 or not bool((data >= level).any()):
        return None
    frequency = _frequency(theta, volume) if cutoff is not None else None
    still = _still(data, level, frequency, cutoff)
    small = _Small.of(data, level)
    low, high = _slider(small.data, level)
    coded = _coded(small.data, level, high)
    colours = "" if frequency is None or cutoff is None else _packed(_coloured(frequency, small, cutoff))
    size = coded.values.shape[::-1]
    facts = {
        "size": list(size), "coloursize": [math.ceil(n / COLOUR_SHARE) for n in size],
        "base": coded.base, "peak": coded.peak, "level": level, "low": low, "high": high, "axes": SIDE.axes,
        "plain": PLAIN, "nm3": (pixel_size * small.ratio) ** 3 / 1000, "kda": CUBIC_ANGSTROM_PER_DALTON,
    }  # fmt: skip
    palette = np.rint(255 * scale_colours()).astype(np.uint8)
    return Viewer(
        still, level, Markup(json.dumps(facts, separators=(",", ":"))), _packed(coded.values), colours,
        _packed(palette) if colours else "", cutoff if colours else None,
    )  # fmt: skip


def _frequency(theta: Array | None, volume: Array) -> Tensor | None:
    """1/theta [z,y,x] (1/A), 0 where theta is not finite or not positive; None if it does not fit the map."""
    if theta is None or np.shape(theta) != volume.shape:
        return None
    found = torch.from_numpy(np.ascontiguousarray(theta, dtype=np.float32))
    return torch.where((found > 0) & torch.isfinite(found), 1 / found, 0.0)


def _still(data: Tensor, level: float, frequency: Tensor | None, cutoff: LocalCutoff | None) -> str:
    if frequency is None or cutoff is None:
        return png_uri(render_surface(data, level, width=STILL))
    picture = render_surface(data, level, width=STILL, values=frequency.numpy(),
                             colours=lambda values: coloured(cutoff.scale.fraction(values)))
    return png_uri(picture)


@dataclass(frozen=True)
class _Small:
    """A map sampled for the browser.

    data: [z,y,x]; ratio: its voxel size over that of the given map; origin: its first voxel in voxels (x, y, z) of the
    given map.
    """

    data: Tensor
    ratio: float
    origin: Tensor

    @classmethod
    def of(cls, data: Tensor, level: float) -> "_Small":
        box = data.shape[-1]
        # The slider goes below the level. The crop has room for what then appears.
        low, high = _reach(data >= FAINTEST * level, math.ceil(0.02 * box) + 2)
        ratio = max(float((high - low).max()) / LONGEST, 1 / FINEST)
        fine = resize_map(data, 1.0, ratio, math.ceil(box / ratio))
        centre = fine.shape[-1] // 2
        first = (centre + (low - box // 2) / ratio).floor().long().clamp(0, fine.shape[-1] - 1)
        last = (centre + (high - box // 2) / ratio).ceil().long().clamp(0, fine.shape[-1] - 1)
        (x, y, z), (u, v, w) = first.tolist(), last.tolist()
        return cls(fine[z : w + 1, y : v + 1, x : u + 1], ratio, box // 2 + (first - centre) * ratio)


def _reach(above: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """First and last voxel (x, y, z) of the true ones in a cube [z,y,x], with a margin in voxels."""
    where = torch.nonzero(above).flip(1)
    return ((where.min(0).values - margin).clamp(min=0).double(),
            (where.max(0).values + margin).clamp(max=above.shape[-1] - 1).double())  # fmt: skip


def _slider(data: Tensor, level: float) -> tuple[float, float]:
    """Lowest and highest level of the slider."""
    volume = float((data >= level).sum())
    return FAINTEST * level, max(level_for_volume(data, max(DENSEST * volume, 20.0), 1.0), 1.2 * level)


@dataclass(frozen=True)
class _Coded:
    """Grey values [z,y,x] in eight bits: the root of their place between `base` (0) and `peak` (255)."""

    values: NDArray[np.uint8]
    base: float
    peak: float


def _coded(data: Tensor, level: float, high: float) -> _Coded:
    """Code the small map. The root makes steps finer where levels usually are."""
    base, peak = 0.15 * level, 1.15 * high
    root = ((data - base) / (peak - base)).clamp(0, 1).sqrt()
    return _Coded((255 * root).round().to(torch.uint8).numpy(), base, peak)


def _coloured(frequency: Tensor, small: _Small, cutoff: LocalCutoff) -> NDArray[np.uint8]:
    """The place of 1/theta on the colour scale as 0 to 255, at every second voxel [z,y,x] of the small map."""
    size = torch.tensor([math.ceil(n / COLOUR_SHARE) for n in small.data.shape])
    axes = [small.origin[2 - a] + small.ratio * (COLOUR_SHARE * torch.arange(int(size[a])) + 0.5 * (COLOUR_SHARE - 1))
            for a in range(3)]  # fmt: skip
    last = frequency.shape[-1] - 1
    z, y, x = (axis.round().long().clamp(0, last) for axis in axes)
    values = frequency[z][:, y][:, :, x].double().numpy()
    return np.rint(255 * np.clip(cutoff.scale.fraction(values), 0, 1)).astype(np.uint8)


def _packed(values: NDArray[np.uint8]) -> str:
    """Gzipped and in base64, without a time, so that the same values give the same text."""
    return base64.b64encode(gzip.compress(values.tobytes(), 7, mtime=0)).decode("ascii")
