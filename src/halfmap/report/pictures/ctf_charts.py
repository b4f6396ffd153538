"""The pictures of `halfmap ctf-refine`: phase errors in the Fourier plane, changes of defocus, values by micrograph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfmap.ctf_refinement.fit import Fitted, PhaseMap
from halfmap.ctf_refinement.parameters import Per
from halfmap.imaging.optics import OpticsGroup
from halfmap.report.pictures.axes import Axis, linear_ticks, value_axis
from halfmap.report.pictures.charts import Chart, Drawing, Guide, Series, draw, draw_histogram
from halfmap.report.pictures.signed import signed_uri
from halfmap.workflows.specimen_tilt import Places

Float = NDArray[np.float64]
BLUR = 1 / 18  # width of the window over measured phases, relative to the radius of the plane
FULL, MOST = 0.98, 0.9  # quantiles of the fitted and of the measured phases that have full colour at most
LEAST_LIMIT = 0.02  # rad of full colour, so that next to nothing looks like it
BINS = 48  # of the histogram
MANY = 4  # optics groups beyond which their values are drawn
FEWEST_IN_CELL, USUAL_IN_CELL, MOST_ACROSS = 3, 12, 32  # particles in a cell of a micrograph; cells across it


def shown_unit(unit: str) -> str:
    """A unit as pages write it."""
    return unit.replace("A", "Å").replace("deg", "°").replace("^2", "²").replace("^3", "³").replace("^4", "⁴")


@dataclass(frozen=True)
class PhasePicture:
    """Phase errors of an optics group, measured, fitted and what the fit leaves, as pictures of the Fourier plane.

    limit: phase of full colour in radians; finest: resolution in A at the rim; spread: root mean square of the fitted
    phases, weighted as they were measured.
    """

    title: str
    measured: str
    fitted: str
    left: str
    limit: float
    finest: float
    spread: float


def phase_pictures(maps: Sequence[PhaseMap], optics: Sequence[OpticsGroup], most: int) -> list[PhasePicture]:
    """Pictures of the phase maps with the largest fitted phases, ``most`` of each kind."""
    shown = []
    for kind, what in (("odd", "beam tilt and trefoil"), ("even", "defocus, Cs and tetrafoil")):
        own = sorted((one for one in maps if one.kind == kind), key=_spread, reverse=True)
        shown += [_picture(one, optics[one.group], f"{kind} phases ({what}) of {optics[one.group].name}")
                  for one in own[:most]]
    return shown


def _spread(one: PhaseMap) -> float:
    weight = one.weight.double()
    return math.sqrt(float((weight * one.fitted.double().square()).sum() / weight.sum().clamp_min(1e-30)))


def _picture(one: PhaseMap, optics: OpticsGroup, title: str) -> PhasePicture:
    radius = int(one.kxy.abs().max())
    weight = _plane(one, one.weight, radius, odd=False)
    odd = one.kind == "odd"
    measured, fitted = (_plane(one, values, radius, odd) for values in (one.phase, one.fitted))
    seen = weight > 0
    smooth = _blurred(weight * measured, radius) / np.maximum(_blurred(weight, radius), 1e-30)
    smooth_fit = _blurred(weight * fitted, radius) / np.maximum(_blurred(weight, radius), 1e-30)
    limit = LEAST_LIMIT
    if seen.any():
        limit = max(limit, *(float(np.quantile(np.abs(values[seen]), share))
                             for values, share in ((fitted, FULL), (smooth, MOST))))
    was, fit, left = (signed_uri(np.where(seen, values, np.nan), limit)
                      for values in (smooth, fitted, smooth - smooth_fit))
    return PhasePicture(title, was, fit, left, limit, optics.box_length / radius, _spread(one))


def _plane(one: PhaseMap, values: object, radius: int, odd: bool) -> Float:
    """Values [k] and those of their Friedel mates on the whole plane [y, x], its origin in the middle."""
    plane = np.zeros((2 * radius + 1, 2 * radius + 1))
    x, y = one.kxy.cpu().numpy().T
    plane[radius - y, radius - x] = (-1 if odd else 1) * np.asarray(values, dtype=np.float64)
    plane[radius + y, radius + x] = np.asarray(values, dtype=np.float64)
    return plane


def _blurred(plane: Float, radius: int) -> Float:
    """The plane under a Gaussian window, which takes in nothing from beyond it."""
    side = len(plane)
    axis = np.fft.fftfreq(2 * side)
    window = np.exp(-2 * (math.pi * max(1.0, BLUR * radius) * axis) ** 2)
    padded = np.fft.fft2(plane, (2 * side, 2 * side)) * window[:, None] * window[None, :]
    return np.fft.ifft2(padded).real[:side, :side]


def change_histogram(fitted: Fitted, component: int) -> Drawing | None:
    """How far values of particles were moved, beside what their errors alone would make; None where all are alike."""
    change, unit = fitted.change[:, component].double().numpy(), shown_unit(fitted.units[component])
    name = fitted.components[component]
    change = change[np.isfinite(change)]
    if not len(change) or not np.ptp(change) > 0:
        return None
    reach = max(abs(float(np.quantile(change, q))) for q in (0.001, 0.999)) * 1.05
    counts, edges = np.histogram(change.clip(-reach, reach), BINS, (-reach, reach))
    middles, width = 0.5 * (edges[1:] + edges[:-1]), float(edges[1] - edges[0])
    error = float(fitted.error[:, component].double().nanmedian())
    area = width * len(change)
    curves = [Series(f"if all were error, {error:.3g} {unit}", _normal(middles, error, area), "c3 dashed")]
    if fitted.prior is not None and component == 0:
        curves.append(Series(f"prior, {fitted.prior:.3g} {unit}", _normal(middles, fitted.prior, area), "c2"))
    x = Axis(-reach, reach, f"change of {name} ({unit})", "linear", linear_ticks(-reach, reach, 6))
    top = 1.12 * max(float(counts.max()), *(value for curve in curves for value in curve.values if value is not None))
    y = Axis(0.0, top, "particles", "linear", linear_ticks(0, top, 4))
    titles = [f"{a:.4g} to {b:.4g} {unit}" for a, b in pairwise(edges)]
    series = [Series("particles", counts.tolist(), "c1"), *curves]
    chart = Chart(f"Change of {name}", x, y, [x.fraction(float(m)) for m in middles], titles, series,
                  guides=[Guide(0.0, "", upright=True)], size="tall")
    return replace(draw_histogram(chart, 0.9 * width), lines=draw(chart).lines[1:])


def _normal(values: Float, sd: float, total: float) -> list[float | None]:
    """A normal curve about 0 with the area ``total``; nothing without a spread."""
    if not 0 < sd < math.inf:
        return [None] * len(values)
    return (np.exp(-0.5 * (values / sd) ** 2) * (total / (sd * math.sqrt(2 * math.pi)))).tolist()


@dataclass(frozen=True)
class PlacePicture:
    """Mean values by position on the micrograph, as a picture. limit: value of full colour; cell: side of a cell
    in A."""

    title: str
    uri: str
    limit: float
    cell: float


def place_picture(places: Places, values: Float, title: str) -> PlacePicture | None:
    """The mean of values [b] of particles in cells of the micrographs, all laid on each other; None without any."""
    reach = 1.001 * max(float(np.abs(places.x).max()), float(np.abs(places.y).max()))
    if not reach > 0:
        return None
    across = int(np.clip(math.sqrt(len(values) / USUAL_IN_CELL), 4, MOST_ACROSS))
    at = [np.floor((axis / reach + 1) / 2 * across).astype(int).clip(0, across - 1) for axis in (places.y, places.x)]
    cell = at[0] * across + at[1]
    counts = np.bincount(cell, minlength=across**2)
    means = np.bincount(cell, values, across**2) / np.maximum(counts, 1)
    if not (counts >= FEWEST_IN_CELL).any():
        return None
    means[counts < FEWEST_IN_CELL] = np.nan
    limit = max(float(np.nanquantile(np.abs(means), FULL)), 1e-6)
    return PlacePicture(title, signed_uri(means.reshape(across, across), limit), limit, 2 * reach / across)


def group_chart(fitted: Fitted, optics: Sequence[OpticsGroup], component: int) -> Drawing:
    """The values of all optics groups, those that were changed and those that were left, with those of before."""
    name, unit = fitted.components[component], shown_unit(fitted.units[component])
    before, now = (values[:, component].tolist() for values in (fitted.before, fitted.before + fitted.change))
    applied = fitted.applied.tolist()
    changed = [value if made else None for value, made in zip(now, applied, strict=True)]
    left = [None if made else value for value, made in zip(before, applied, strict=True)]
    x = Axis(0, len(now) + 1, "optics group", "linear", linear_ticks(0, len(now) + 1))
    y = value_axis([before, changed], f"{name} ({unit})" if unit else name)
    known = fitted.error[:, component].double()
    error = f"{float(known[known.isfinite()].nanmedian()):.2g} {unit}".strip()
    given = [value if made else None for value, made in zip(before, applied, strict=True)]
    chart = Chart(f"{fitted.name} of optics groups, {name}; error {error} (median)", x, y,
                  [x.fraction(i + 1) for i in range(len(now))], [optics[i].name for i in fitted.number.tolist()],
                  [Series("found and applied", changed, "c1", unit), Series("given before that", given, "c8", unit),
                   Series("left as it was", left, "c3", unit)], dots=True)
    return replace(draw(chart), lines=[])


@dataclass(frozen=True)
class _OfMicrographs:
    """Changes [n] with their errors of micrographs ``number`` [n], each seen by the half set ``half`` [n]."""

    number: NDArray[np.int64]
    half: NDArray[np.int64]
    change: Float
    error: Float

    @staticmethod
    def of(fitted: Fitted, component: int, micrograph: NDArray[np.int64]) -> _OfMicrographs:
        """Those of a fit; of particles, whose ``micrograph`` [b] are given, their means."""
        number, half = fitted.number.numpy(), fitted.half.numpy().clip(0)
        change, error = (values[:, component].double().numpy() for values in (fitted.change, fitted.error))
        if fitted.per is not Per.PARTICLE:
            return _OfMicrographs(number, half, change, error)
        units, unit = np.unique(2 * micrograph[number] + half, return_inverse=True)
        counts = np.bincount(unit)
        return _OfMicrographs(units // 2, units % 2, np.bincount(unit, change) / counts,
                             np.sqrt(np.bincount(unit, error**2)) / counts)


def micrograph_chart(fitted: Fitted, component: int, micrograph: NDArray[np.int64]) -> Drawing:
    """The change of every micrograph, of particles in the mean, as each half set says it by itself. micrograph [b]: of
    every particle."""
    seen = _OfMicrographs.of(fitted, component, micrograph)
    name, unit = fitted.components[component], shown_unit(fitted.units[component])
    what = f"{'mean ' if fitted.per is Per.PARTICLE else ''}change of {name}"
    numbers = np.unique(seen.number)
    place = np.searchsorted(numbers, seen.number)
    halves: list[list[float | None]] = [[None] * len(numbers) for _ in range(2)]
    for at, half, value in zip(place.tolist(), seen.half.tolist(), seen.change.tolist(), strict=True):
        halves[half][at] = value if math.isfinite(value) else None
    x = Axis(0, len(numbers) + 1, "micrograph, as they come in the file", "linear", linear_ticks(0, len(numbers) + 1))
    y = value_axis(halves, f"{what} ({unit})" if unit else what)
    positions = [x.fraction(i + 1) for i in range(len(numbers))]
    titles = [f"micrograph {i + 1}" for i in range(len(numbers))]
    error = f"{float(np.nanmedian(seen.error)):.3g} {unit}".strip()
    kept = "" if bool(fitted.applied.any()) else ", found and not applied"
    chart = Chart(f"{what[0].upper()}{what[1:]} by micrograph{kept}; error {error} (median)", x, y, positions, titles,
                  [Series("half set 1", halves[0], "c1", unit), Series("half set 2", halves[1], "c3", unit)],
                  guides=[Guide(0.0, "")], dots=True, size="tall")
    return replace(draw(chart), lines=[])
