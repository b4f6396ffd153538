"""Pictures of a resolution that varies over the volume: slices in colour, and a histogram over the molecule.

It is either the local cut-off theta of a regulariser or the local resolution of two half maps (`Words`). Colours and
the axis of the histogram are even in 1/theta, as is the resolution axis of every other chart, with finer values to the
right.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from halfmap.report.pictures.axes import Axis, PlacedTick, linear_ticks, resolution_ticks
from halfmap.report.pictures.charts import SCALE, Chart, Drawing, Guide, Series, draw
from halfmap.report.pictures.colours import coloured, css_colour, css_gradient
from halfmap.report.pictures.slices import (
    PLANES,
    Picture,
    Plane,
    ScaleBar,
    Window,
    central,
    crop_linear,
    outline,
    scale_bar,
    slice_picture,
    usable,
    window_around,
)
from halfmap.report.record_values import Array

BINS = 36
MOST_CANDIDATES = 64  # up to so many different values, each has its own bar: a method tries that many cut-offs
OUTSIDE = 0.22  # brightness of the colours outside the mask


@dataclass(frozen=True)
class Words:
    """The name of the shown quantity, and the verb for a part of the volume, as in `is cut off at 4 Å`."""

    name: str
    said: str


CUTOFF = Words("local cut-off", "is cut off at")
RESOLUTION = Words("local resolution", "is resolved to")


@dataclass(frozen=True)
class LocalCutoff:
    """The pictures and numbers of theta.

    slices: coloured central slices in the order of slices.PLANES; bar: their scale bar; gradient, ticks: the colour bar
    in CSS and its ticks; finest, median, coarsest: the theta (A) below which 5 %, 50 % and 95 % of the voxels inside
    the mask lie; scale: where 1/theta lies on the colours.
    """

    slices: list[Picture]
    bar: ScaleBar
    gradient: str
    ticks: list[PlacedTick]
    histogram: Drawing
    finest: float
    median: float
    coarsest: float
    scale: "Scale"
    words: Words = CUTOFF


@dataclass(frozen=True)
class Scale:
    """The range of spatial frequencies (1/A) that the colours span."""

    lo: float
    hi: float

    def fraction(self, frequency: NDArray[np.floating]) -> NDArray[np.float64]:
        """Place of frequencies (1/A) on the colours, 0 at lo and 1 at hi; not clipped."""
        return np.asarray((frequency - self.lo) / (self.hi - self.lo), dtype=np.float64)


def local_cutoff(theta: Array | None, mask: Array | None, pixel_size: float | None,
                 words: Words = CUTOFF) -> LocalCutoff | None:
    """Draw theta [z,y,x] (A) inside a mask [z,y,x]; pixel_size in A. None if they cannot be shown.

    Voxels without a cut-off (not finite, or not positive) are left out.
    """
    mask = usable(mask)
    if theta is None or mask is None or np.shape(theta) != mask.shape:
        return None
    theta = np.asarray(theta, dtype=np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency = np.where(np.isfinite(theta) & (theta > 0), 1 / theta, 0).astype(np.float32)
    inside = frequency[(mask > 0.5) & (frequency > 0)].astype(np.float64)
    if not len(inside):
        return None
    lo, hi = np.percentile(inside, (0.2, 99.8))
    margin = 0.02 * hi if hi - lo < 0.002 * hi else 0.0
    scale = Scale(float(lo - margin), float(hi + margin))
    window = window_around(mask, mask.shape[0])
    slices = [_slice(frequency, mask, window, plane, scale, words) for plane in PLANES]
    axis = Axis(1 / scale.lo, 1 / scale.hi, "", "inverse", resolution_ticks(1 / scale.lo, 1 / scale.hi, 0.11))
    coarsest, median, finest = (float(1 / f) for f in np.percentile(inside, (5, 50, 95)))
    return LocalCutoff(
        slices, scale_bar(window, pixel_size), css_gradient(), axis.drawn_ticks(),
        _histogram(inside, scale, median, words), finest, median, coarsest, scale, words,
    )  # fmt: skip


def _slice(frequency: Array, mask: Array, window: Window, plane: Plane, scale: Scale, words: Words) -> Picture:
    """One central slice of 1/theta [z,y,x] in colour, faded where the mask is below one half."""
    known = crop_linear(central((frequency > 0).astype(np.float32), plane.axis), window)
    values = crop_linear(central(frequency, plane.axis), window) / np.maximum(known, 1e-6)
    ramp = np.clip((crop_linear(central(mask, plane.axis), window) - 0.4) / 0.2, 0, 1)
    strength = (OUTSIDE + (1 - OUTSIDE) * ramp) * np.clip(known, 0, 1)
    pixels = np.rint(255 * coloured(scale.fraction(values)) * strength[..., None]).astype(np.uint8)
    return slice_picture(words.name, plane, pixels, outline(central(mask, plane.axis), window))


def _histogram(inside: NDArray[np.float64], scale: Scale, median: float, words: Words) -> Drawing:
    """Percent of the masked voxels by theta, each bar in the colour that its voxels have in the slices.

    inside: 1/theta [i] (1/A) of the voxels inside the mask; median: of theta (A).
    """
    bins = _bins(inside)
    edges, shares = bins.edges, bins.shares
    lo, hi = min(edges[0], scale.lo), max(edges[-1], scale.hi)
    lo, hi = max(lo - 0.015 * (hi - lo), 1e-9), hi + 0.015 * (hi - lo)
    top = 1.12 * float(shares.max())
    x = Axis(1 / lo, 1 / hi, f"{words.name} (Å)", "inverse", resolution_ticks(1 / lo, 1 / hi))
    y = Axis(0.0, top, "share of the volume inside the mask (%)", "linear", linear_ticks(0, top, 4))
    positions = [x.fraction(1 / middle) for middle in bins.middles]
    titles = [_title(middle, low, high) for middle, low, high in zip(bins.middles, edges, edges[1:], strict=False)]
    series = [Series("inside the mask", shares.tolist(), "c1", "%")]
    guide = Guide(median, f"median {median:.1f} Å", upright=True)
    drawing = draw(Chart(f"{words.name.capitalize()} inside the mask", x, y, positions, titles, series, guides=[guide]))
    width = min(0.86 * SCALE * float(np.diff(edges).min()) / (hi - lo), 0.09 * SCALE)
    bars = "".join(
        f'<rect fill="{css_colour(float(scale.fraction(middle)))}" x="{SCALE * at - width / 2:.1f}" '
        f'y="{SCALE * (1 - y.fraction(share)):.1f}" width="{width:.1f}" height="{SCALE * y.fraction(share):.1f}"/>'
        for at, middle, share in zip(positions, bins.middles, shares.tolist(), strict=True) if share > 0
    )  # fmt: skip
    return dataclasses.replace(drawing, lines=[], bars=Markup(bars))


@dataclass(frozen=True)
class _Bins:
    """Bins of a histogram: middles [i] and edges [i+1] (1/A), and shares [i], the percent of voxels in each."""

    middles: NDArray[np.float64]
    edges: NDArray[np.float64]
    shares: NDArray[np.float64]


def _bins(inside: NDArray[np.float64]) -> _Bins:
    """Bins for the frequencies [i] (1/A) of voxels: one for each value if there are few, else of even width.

    A method that tries few candidates leaves few values. Bins of another spacing would make a comb of them.
    """
    values, counts = np.unique(inside, return_counts=True)
    if len(values) == 1:
        values, counts = values[0] * np.array([0.99, 1.0, 1.01]), np.array([0, counts[0], 0])
    gaps = np.diff(values)
    if len(values) <= MOST_CANDIDATES and gaps.min() > 0.2 * np.median(gaps):
        first, last = max(values[0] - gaps.min() / 2, values[0] / 2), values[-1] + gaps.min() / 2
        edges = np.concatenate([[first], (values[1:] + values[:-1]) / 2, [last]])
        return _Bins(values, edges, 100 * counts / counts.sum())
    counts, edges = np.histogram(inside, BINS)
    return _Bins((edges[1:] + edges[:-1]) / 2, edges, 100 * counts / counts.sum())


def _title(middle: float, low: float, high: float) -> str:
    return f"{1 / middle:.2f} Å ({1 / low:.2f} to {1 / high:.2f})"
