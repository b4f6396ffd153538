"""A resolution that differs from place to place: slices in colour, and how much of the molecule has which.

It is the local cut-off theta of a regulariser, or the local resolution of two half maps (`Words`).

Colours and the histogram's axis are even in 1/theta, as the resolution axis of every other chart, finer to the right.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from halfmap.report.pictures.charts import (
    SCALE,
    Axis,
    Chart,
    Drawing,
    Guide,
    Series,
    draw,
    linear_ticks,
    resolution_ticks,
)
from halfmap.report.pictures.colours import coloured, css_colour, css_gradient
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import (
    VIEWS,
    Picture,
    Window,
    central,
    crop_linear,
    outline,
    scale_bar,
    usable,
    window_around,
)
from halfmap.report.record_values import Array

BINS = 36
MOST_CANDIDATES = 64  # different values up to which each has its own bar: a method tries that many cut-offs
OUTSIDE = 0.22  # brightness of the colours outside the mask


@dataclass(frozen=True)
class Words:
    """What is shown: its name, and what it says of a part of the volume."""

    name: str
    said: str


CUTOFF = Words("local cut-off", "is cut off at")
RESOLUTION = Words("local resolution", "is resolved to")


@dataclass(frozen=True)
class LocalCutoff:
    """The section's pictures and numbers.

    slices: coloured central slices, in the order of volumes.VIEWS; gradient: the colour bar in CSS, with ticks as
    (percent, label); finest, median, coarsest: 5 %, 50 % and 95 % of the voxels inside the mask have a theta below (A);
    scale: place of 1/theta on the colours.
    """

    slices: list[Picture]
    bar_percent: float
    bar_label: str
    gradient: str
    ticks: list[tuple[float, str]]
    histogram: Drawing
    finest: float
    median: float
    coarsest: float
    scale: "Scale"
    words: Words = CUTOFF


@dataclass(frozen=True)
class Scale:
    """The stretch of spatial frequencies (1/A) that the colours span."""

    lo: float
    hi: float

    def fraction(self, frequency: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray((frequency - self.lo) / (self.hi - self.lo), dtype=np.float64)


def local_cutoff(theta: Array | None, mask: Array | None, pixel_size: float | None,
                 words: Words = CUTOFF) -> LocalCutoff | None:
    """The section of theta [z,y,x] (A) under a mask [z,y,x]; None where they cannot be shown.

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
    slices = [_slice(frequency, mask, window, view, scale, words) for view in range(len(VIEWS))]
    axis = Axis(1 / scale.lo, 1 / scale.hi, "", "inverse", resolution_ticks(1 / scale.lo, 1 / scale.hi, 0.11))
    coarsest, median, finest = (float(1 / f) for f in np.percentile(inside, (5, 50, 95)))
    return LocalCutoff(
        slices, *scale_bar(window, pixel_size), css_gradient(), axis.drawn_ticks(),
        _histogram(inside, scale, median, words), finest, median, coarsest, scale, words,
    )  # fmt: skip


def _slice(frequency: Array, mask: Array, window: Window, view: int, scale: Scale, words: Words) -> Picture:
    """One central slice in the colours of theta, faded where the mask is below one half."""
    plane, _, axis = VIEWS[view]
    known = crop_linear(central((frequency > 0).astype(np.float32), axis), window)
    values = crop_linear(central(frequency, axis), window) / np.maximum(known, 1e-6)
    ramp = np.clip((crop_linear(central(mask, axis), window) - 0.4) / 0.2, 0, 1)
    strength = (OUTSIDE + (1 - OUTSIDE) * ramp) * np.clip(known, 0, 1)
    pixels = np.rint(255 * coloured(scale.fraction(values)) * strength[..., None]).astype(np.uint8)
    edge = outline(central(mask, axis), window)
    return Picture(words.name, f"{plane} slice", png_uri(pixels), edge, plane[0], plane[1])


def _histogram(inside: NDArray[np.float64], scale: Scale, median: float, words: Words) -> Drawing:
    """Share of the masked volume by theta, each bar in the colour that its voxels have in the pictures."""
    middles, edges, shares = _shares(inside)
    lo, hi = min(edges[0], scale.lo), max(edges[-1], scale.hi)
    lo, hi = max(lo - 0.015 * (hi - lo), 1e-9), hi + 0.015 * (hi - lo)
    top = 1.12 * float(shares.max())
    x = Axis(1 / lo, 1 / hi, f"{words.name} (Å)", "inverse", resolution_ticks(1 / lo, 1 / hi))
    y = Axis(0.0, top, "share of the volume inside the mask (%)", "linear", linear_ticks(0, top, 4))
    positions = [x.fraction(1 / middle) for middle in middles]
    titles = [_title(middle, low, high) for middle, low, high in zip(middles, edges, edges[1:], strict=False)]
    series = [Series("inside the mask", shares.tolist(), "c1", "%")]
    guide = Guide(median, f"median {median:.1f} Å", upright=True)
    drawing = draw(Chart(f"{words.name.capitalize()} inside the mask", x, y, positions, titles, series, guides=[guide]))
    width = min(0.86 * SCALE * float(np.diff(edges).min()) / (hi - lo), 0.09 * SCALE)
    bars = "".join(
        f'<rect fill="{css_colour(float(scale.fraction(middle)))}" x="{SCALE * at - width / 2:.1f}" '
        f'y="{SCALE * (1 - y.fraction(share)):.1f}" width="{width:.1f}" height="{SCALE * y.fraction(share):.1f}"/>'
        for at, middle, share in zip(positions, middles, shares.tolist(), strict=True) if share > 0
    )  # fmt: skip
    return dataclasses.replace(drawing, lines=[], bars=Markup(bars))


def _shares(inside: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Middles [i] and edges [i+1] of the bars in 1/A, and the percentage of the voxels in each.

    A method that tries few candidates leaves few values: bars that do not fit their spacing would make a comb of them.
    """
    values, counts = np.unique(inside, return_counts=True)
    if len(values) == 1:
        values, counts = values[0] * np.array([0.99, 1.0, 1.01]), np.array([0, counts[0], 0])
    gaps = np.diff(values)
    if len(values) <= MOST_CANDIDATES and gaps.min() > 0.2 * np.median(gaps):
        first, last = max(values[0] - gaps.min() / 2, values[0] / 2), values[-1] + gaps.min() / 2
        edges = np.concatenate([[first], (values[1:] + values[:-1]) / 2, [last]])
        return values, edges, 100 * counts / counts.sum()
    counts, edges = np.histogram(inside, BINS)
    return (edges[1:] + edges[:-1]) / 2, edges, 100 * counts / counts.sum()


def _title(middle: float, low: float, high: float) -> str:
    return f"{1 / middle:.2f} Å ({1 / low:.2f} to {1 / high:.2f})"
