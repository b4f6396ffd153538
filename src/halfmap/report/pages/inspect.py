"""The page of `halfmap inspect`: what is in a file, in words, pictures and curves."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from halfmap.refinement.memory_plan import gigabytes
from halfmap.report.pages import findings
from halfmap.report.pages.findings import Tile, Warned, duration, figure, grouped
from halfmap.report.pages.page import now, write_page
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
    value_axis,
)
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import fourier_resize
from halfmap.workflows.inspect import Inspection
from halfmap.workflows.inspect_images import GroupSpectra, Looked

COLUMNS, TILE, GAP = 8, 96, 4  # of the montage: tiles in a row, their side and distance in pixels
GREY = 3.0  # standard deviations from black to the middle grey
NAMED = 4  # optics groups with curves of their own
STYLES = ("c1", "c3", "c2", "c5")
BINS = 40


@dataclass(frozen=True)
class InspectedPage:
    """What the page is drawn from; settings, version and command as in `Snapshot`."""

    found: Inspection
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    command: str = ""


def write_inspected_page(folder: Path, shown: InspectedPage) -> Path:
    """Write FOLDER/inspect.html, complete in itself, and return its path."""
    found, looked = shown.found, shown.found.looked
    folder.mkdir(parents=True, exist_ok=True)
    spectra = looked.spectra[:NAMED] if looked is not None else []
    known = [group for group in spectra if group.with_ctf]
    hero, tiles = _headline(found)
    contents = {
        "name": found.name, "shown": shown, "written": now(), "hero": hero, "tiles": tiles,
        "checks": [Warned(findings.sentence(text), "stops a refinement") for text in found.faults]
        + [Warned(findings.sentence(text), "worth a look") for text in found.notes],
        "facts": found.facts, "montage": None if looked is None else _montages(looked),
        "power": _power_chart(spectra) if spectra else None,
        "contrast": _contrast_chart(known) if known else None,
        "rings": [_ring_chart(group) for group in known if group.rings.reach],
        "defocus": _defocus(found), "micrographs": _micrographs(found), "memory": _memory(found),
        "time": [(stage, " ".join(duration(seconds))) for stage, seconds in found.seconds.items()],
        "settings": findings.setting_rows(shown.settings),
    }  # fmt: skip
    return write_page(folder, "inspect.html", contents, "inspect.html")


def _headline(found: Inspection) -> tuple[Tile, list[Tile]]:
    facts, tiles = dict(found.facts), []
    if found.table is None:
        hero = Tile(found.kind.capitalize(), facts.get("map", facts.get("stack", "–")).split(",")[0], "", "")
    else:
        hero = Tile("Particles", grouped(len(found.table)), "", facts["particles"].split(" of ", 1)[1])
        largest = found.table.optics[0]
        tiles.append(Tile("Images", f"{largest.box}", "px", f"of {largest.pixel_size:.4g} Å: "
                          f"{largest.box * largest.pixel_size:.0f} Å across"))
        tiles.append(Tile("Half sets", facts["half sets"].split(";")[0], "", "poses: " + facts["poses"].split(";")[0]))
    if found.looked is not None:
        bad = sum(found.looked.faulty.values())
        tiles.append(Tile("Faulty images", grouped(bad), "", f"of {grouped(found.looked.count)} looked at; "
                          f"{found.looked.doubtful} stand out"))
        rings = [g.box * g.pixel_size / g.rings.reach for g in found.looked.spectra if g.with_ctf and g.rings.reach]
        if any(g.with_ctf for g in found.looked.spectra):
            tiles.append(Tile("Thon rings", f"{min(rings):.1f}" if rings else "not seen", "Å" if rings else "",
                              "the finest, where the CTF says they are"))
    if found.plan is not None:
        tiles.append(Tile("Memory", gigabytes(found.plan.peak), "GB",
                          f"for a refinement; {gigabytes(found.plan.available)} GB are available"))
        tiles.append(Tile("Time", *duration(sum(found.seconds.values())), "for a refinement here, estimated"))
    return hero, tiles


@dataclass(frozen=True)
class Montage:
    """A picture of several images, and its caption."""

    uri: str
    caption: str


def _montages(looked: Looked) -> list[Montage]:
    side = looked.raw.shape[-1] * looked.pixel_size
    return [
        Montage(png_uri(montage(looked.raw, GREY)), f"as they are, background of mean 0 and sd 1; {side:.0f} Å across"),
        Montage(png_uri(montage(looked.low, None)), "the same, low-passed at 20 Å"),
    ]


def montage(images: NDArray[np.float32], sd: float | None) -> NDArray[np.uint8]:
    """Images [i, y, x] in rows of COLUMNS, each TILE pixels wide at most, on a clear ground [y, x, 4].

    Grey spans sd standard deviations of the background to either side of 0 (None: of each image's own values).
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


def _shells(group: GroupSpectra, finest: float) -> tuple[list[float], list[str]]:
    """Positions on an axis that ends at ``finest`` A, and titles, of every shell."""
    length = group.box * group.pixel_size
    count = len(group.power)
    titles = [f"{length / s:.2f} Å · shell {s}" if s else "shell 0" for s in range(count)]
    return [s * finest / length for s in range(count)], titles


def _resolution_axis(finest: float) -> Axis:
    return Axis(math.inf, finest, "resolution (Å)", "inverse", resolution_ticks(math.inf, finest))


def _curves(
    spectra: list[GroupSpectra], values: Callable[[GroupSpectra], Tensor], shown: Callable[[float], bool]
) -> tuple[Axis, list[float], list[str], list[Series]]:
    """Axis, positions and titles of the shells of the group that reaches furthest, and the values of every group there,
    but for shell 0 and what is not to be shown."""
    finest = min(2 * group.pixel_size for group in spectra)
    longest = max(spectra, key=lambda group: len(group.power) / (group.box * group.pixel_size))
    positions, titles = _shells(longest, finest)
    length = longest.box * longest.pixel_size
    series = []
    for group, style in zip(spectra, STYLES, strict=False):
        at = np.arange(1, len(positions)) * (group.box * group.pixel_size / length)
        own = np.interp(at, np.arange(len(group.power)), values(group).numpy(), right=np.nan)
        series.append(Series(group.name, [None, *(v if shown(v) else None for v in own.tolist())], style))
    return _resolution_axis(finest), positions, titles, series


def _power_chart(spectra: list[GroupSpectra]) -> Drawing:
    """Mean power of an image's coefficients, white background 1, by resolution."""
    x, positions, titles, series = _curves(spectra, lambda group: group.power, lambda v: v > 0)
    y = value_axis([s.values for s in series], "mean power, white background 1", log=True)
    return draw(Chart("Power spectrum of the images", x, y, positions, titles, series, size="tall"))


def _contrast_chart(spectra: list[GroupSpectra]) -> Drawing:
    """Mean |CTF| of all images by resolution: what no image sees is missing from any map."""
    x, positions, titles, series = _curves(spectra, lambda group: group.mean_ctf, math.isfinite)
    y = Axis(0.0, 1.0, "mean |CTF|", "linear", linear_ticks(0, 1, 4))
    return draw(Chart("Mean CTF of the images", x, y, positions, titles, series))


def _ring_chart(group: GroupSpectra) -> Drawing:
    """CTF^2 as images near one defocus show it, over what the CTF says, as far as rings are seen."""
    reach, length = group.rings.reach, group.box * group.pixel_size
    last = min(len(group.power) - 1, reach + 2)
    finest = length / last
    positions = [s / last for s in range(last + 1)]
    titles = [f"{length / s:.2f} Å · shell {s}" if s else "shell 0" for s in range(last + 1)]
    # Power of these images is N + S c, with N and S from all images: what is left is the ring's height.
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
    title = f"Thon rings of {group.name}: {grouped(group.alike.images)} images near {1e-4 * group.defocus:.2f} µm"
    return draw(Chart(title, _resolution_axis(finest), y, positions, titles, series, size="tall"))


def histogram(values: NDArray[np.floating], label: str, counted: str, unit: str) -> Drawing:
    """How often values occur, with the median."""
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
    width = 0.9 * SCALE * float(edges[1] - edges[0]) / (x.hi - x.lo)
    bars = Markup("").join(
        Markup(f'<rect class="c1" x="{SCALE * at - width / 2:.1f}" y="{SCALE * (1 - y.fraction(n)):.1f}" '
               f'width="{width:.1f}" height="{SCALE * y.fraction(n):.1f}"/>')
        for at, n in zip(positions, counts.tolist(), strict=True) if n
    )  # fmt: skip
    return dataclasses.replace(draw(chart), lines=[], bars=bars)


def _defocus(found: Inspection) -> Drawing | None:
    if found.table is None:
        return None
    mean = 0.5e-4 * (found.table.defocus.u + found.table.defocus.v).numpy()
    return histogram(mean, "underfocus", "particles", "µm")


def _micrographs(found: Inspection) -> Drawing | None:
    if found.table is None:
        return None
    counts = np.bincount(found.table.micrograph)
    counts = counts[counts > 0]
    if counts.min() == counts.max():
        return None
    return histogram(counts.astype(float), "particles on a micrograph", "micrographs", "")


def _memory(found: Inspection) -> list[tuple[str, str, str]]:
    """Rows of the memory table: what, GB, remark."""
    plan = found.plan
    if plan is None:
        return []
    where = "in files, one quarter set at a time in memory" if plan.on_disk else "all in memory"
    return [
        ("available", gigabytes(plan.available), "what the machine and its limits leave now"),
        ("search", gigabytes(plan.expectation), f"the last iteration, {plan.batch} images at once"),
        ("solve", gigabytes(plan.solve), f"{plan.demand.regulariser}, padding {plan.demand.padding}"),
        ("sums of a quarter set", gigabytes(plan.sums), f"four of them, {where}"),
        ("files", figure(plan.scratch / 1e9, 1), "while a run lasts"),
    ]
