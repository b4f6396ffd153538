"""The pictures of `halfmap inspect`: a montage of images, spectra and Thon rings, histograms."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from halfmap.particles.table import ParticleTable
from halfmap.report.pictures.axes import Axis, linear_ticks, resolution_ticks, value_axis
from halfmap.report.pictures.charts import Abscissa, Chart, Drawing, Guide, Series, draw, draw_histogram, shell_titles
from halfmap.report.pictures.slices import fourier_resize
from halfmap.workflows.inspect_images import GroupSpectra

COLUMNS, TILE, GAP = 8, 96, 4  # of the montage: tiles in a row, their side and distance in pixels
GREY = 3.0  # standard deviations from black to the middle grey
STYLES = ("c1", "c3", "c2", "c5")  # of the optics groups that have curves of their own
BINS = 40


def montage(images: NDArray[np.float32], sd: float | None) -> NDArray[np.uint8]:
    """Images [i,y,x] in rows of COLUMNS, each TILE pixels wide at most, on a transparent background [y,x,4].

    sd: grey spans so many standard deviations of the background to either side of 0 (None: GREY standard deviations of
    each image to either side of its median).
    """
    size = min(TILE, images.shape[-1])
    rows = math.ceil(len(images) / COLUMNS)
    step = size + GAP
    sheet = np.zeros((rows * step - GAP, min(COLUMNS, len(images)) * step - GAP, 4), np.uint8)
    for i, image in enumerate(np.nan_to_num(images)):
        small = fourier_resize(image, size)
        half = GREY * float(small.std()) if sd is None else sd * size / image.shape[-1] * 1.5
        grey = np.clip(0.5 + 0.5 * (small - (float(np.median(small)) if sd is None else 0.0)) / max(half, 1e-9), 0, 1)
        y, x = (i // COLUMNS) * step, (i % COLUMNS) * step
        sheet[y : y + size, x : x + size, :3] = np.rint(255 * grey[..., None]).astype(np.uint8)
        sheet[y : y + size, x : x + size, 3] = 255
    return sheet


def _shell_abscissa(group: GroupSpectra, finest: float) -> Abscissa:
    """Every shell of a group on a resolution axis that ends at `finest` A."""
    length = group.box * group.pixel_size
    count = len(group.power)
    positions = [s * finest / length for s in range(count)]
    return Abscissa(_resolution_axis(finest), positions, shell_titles(length, count))


def _resolution_axis(finest: float) -> Axis:
    return Axis(math.inf, finest, "resolution (Å)", "inverse", resolution_ticks(math.inf, finest))


def _curves(
    spectra: list[GroupSpectra], values: Callable[[GroupSpectra], Tensor], shown: Callable[[float], bool]
) -> tuple[Abscissa, list[Series]]:
    """The shells of the group that reaches furthest, and a curve of every group on them.

    values: of a group by its own shells [s]. Shell 0, and values for which `shown` is false, are left out.
    """
    finest = min(2 * group.pixel_size for group in spectra)
    longest = max(spectra, key=lambda group: len(group.power) / (group.box * group.pixel_size))
    x = _shell_abscissa(longest, finest)
    length = longest.box * longest.pixel_size
    series = []
    for group, style in zip(spectra, STYLES, strict=False):
        at = np.arange(1, len(x.positions)) * (group.box * group.pixel_size / length)
        own = np.interp(at, np.arange(len(group.power)), values(group).numpy(), right=np.nan)
        series.append(Series(group.name, [None, *(v if shown(v) else None for v in own.tolist())], style))
    return x, series


def power_chart(spectra: list[GroupSpectra]) -> Drawing:
    """Mean power of an image's coefficients by resolution, in units of a white background."""
    x, series = _curves(spectra, lambda group: group.power, lambda v: v > 0)
    y = value_axis([s.values for s in series], "mean power, white background 1", log=True)
    return draw(Chart("Power spectrum of the images", x.axis, y, x.positions, x.titles, series, size="tall"))


def contrast_chart(spectra: list[GroupSpectra]) -> Drawing:
    """Mean |CTF| of all images by resolution. What no image sees is missing from any map."""
    x, series = _curves(spectra, lambda group: group.mean_ctf, math.isfinite)
    y = Axis(0.0, 1.0, "mean |CTF|", "linear", linear_ticks(0, 1, 4))
    return draw(Chart("Mean CTF of the images", x.axis, y, x.positions, x.titles, series))


def ring_chart(group: GroupSpectra, title: str) -> Drawing:
    """CTF^2 measured on images near one defocus, over CTF^2 by the CTF parameters, as far as Thon rings are seen."""
    reach, length = group.rings.reach, group.box * group.pixel_size
    last = min(len(group.power) - 1, reach + 2)
    finest = length / last
    positions = [s / last for s in range(last + 1)]
    # The power of these images is N + S c, with N and S from all images. What is left, c, is the height of the rings.
    signal = group.rings.signal
    smooth = np.convolve(signal.numpy(), np.ones(5) / 5, mode="same")
    power = group.alike.noise + group.alike.signal * group.alike.contrast
    shown: list[float | None] = []
    for s in range(last + 1):
        value = float(power[s] - group.rings.noise[s]) / max(float(smooth[s]), 1e-12)
        shown.append(value if 2 <= s <= reach and smooth[s] > 0 else None)
    said: list[float | None] = [None, *group.alike.contrast[1 : last + 1].tolist()]
    series = [Series("from the images", shown, "c1"), Series("as the CTF says", said, "c3 dashed")]
    y = Axis(-0.25, 1.5, "CTF²", "linear", linear_ticks(0, 1.5, 3))
    return draw(Chart(title, _resolution_axis(finest), y, positions, shell_titles(length, last + 1), series,
                      size="tall"))


def _histogram(values: NDArray[np.floating], label: str, counted: str, unit: str) -> Drawing:
    """A histogram of values [i] with their median. label, unit: of the values; counted: what a bar counts."""
    low, high = float(values.min()), float(values.max())
    whole = np.allclose(values, np.rint(values))
    bins = BINS if not whole else int(min(BINS, max(1, high - low + 1)))
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins, (low, high))
    margin = 0.02 * (high - low)
    x = Axis(low - margin, high + margin, f"{label} ({unit})" if unit else label, "linear", linear_ticks(low, high, 6))
    top = 1.12 * float(counts.max())
    y = Axis(0.0, top, counted, "linear", linear_ticks(0, top, 4))
    middles = 0.5 * (edges[1:] + edges[:-1])
    positions = [x.fraction(float(m)) for m in middles]
    titles = [f"{a:.4g} to {b:.4g} {unit}".strip() for a, b in pairwise(edges)]
    median = float(np.median(values))
    chart = Chart(label, x, y, positions, titles, [Series(counted, counts.tolist(), "c1")],
                  guides=[Guide(median, f"median {median:.3g}", upright=True)])
    return draw_histogram(chart, 0.9 * float(edges[1] - edges[0]))


def defocus_chart(table: ParticleTable) -> Drawing:
    """A histogram of the particles' mean underfocus."""
    mean = 0.5e-4 * (table.defocus.u + table.defocus.v).numpy()
    return _histogram(mean, "underfocus", "particles", "µm")


def micrograph_chart(table: ParticleTable) -> Drawing | None:
    """A histogram of the numbers of particles on a micrograph; None if all are equal."""
    counts = np.bincount(table.micrograph)
    counts = counts[counts > 0]
    if counts.min() == counts.max():
        return None
    return _histogram(counts.astype(float), "particles on a micrograph", "micrographs", "")
