"""Charts of a classification by iteration and by class, and slices of where classes differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from halfmap.report.pictures.axes import Axis, linear_ticks, resolution_ticks
from halfmap.report.pictures.charts import Abscissa, Chart, Drawing, Guide, Series, draw, shell_titles
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.run_charts import iteration_abscissa
from halfmap.report.pictures.slices import PLANES, Picture, Window, crop, crop_linear, outline
from halfmap.report.record_values import Array, Record, curve, number
from halfmap.validation.class_differences import SURE, ClassDifference, class_difference

STYLES = 8  # of curves in style.html
DARKEST = 2.0  # times SURE: where a difference has its full colour
LESS, MORE, NONE = (34, 94, 168), (200, 62, 30), (246, 246, 243)  # colours of less, more and equal density


def style_of(place: int) -> str:
    """The style of a class's curve, by its number from 0."""
    return f"c{place % STYLES + 1}" + (" dashed" if place >= STYLES else "")


def share_chart(records: Sequence[Record]) -> Drawing:
    """The share of every class by iteration, as bars on top of each other."""
    x = iteration_abscissa(records)
    series = [Series(f"class {k + 1}", [100 * record["classes"][k]["share"] for record in records], style_of(k), "%")
              for k in range(len(records[-1]["classes"]))]
    y = Axis(0.0, 100.0, "share of the images (%)", "linear", linear_ticks(0, 100, 4))
    return draw(Chart("Share of each class", x.axis, y, x.positions, x.titles, series, stacked=True))


def moving_chart(records: Sequence[Record]) -> Drawing:
    """The share of images that moved to another class, and the mean share of their best class, by iteration."""
    x = iteration_abscissa(records)
    moved = [None if "moved" not in record else 100 * float(record["changed"]) for record in records]
    sure = [None if record.get("drawn") else 100 * float(record["sure"]) for record in records]
    y = Axis(0.0, 100.0, "images (%)", "linear", linear_ticks(0, 100, 4))
    series = [Series("moved to another class", moved, "c2", "%"),
              Series("mean share of the best class", sure, "c1", "%")]
    return draw(Chart("How sure classes are", x.axis, y, x.positions, x.titles, series, dots=True))


def class_fsc_chart(record: Record) -> Drawing | None:
    """The FSC between the half maps of every class: within the mask, corrected."""
    box, pixel_size = number(record, "box"), number(record, "pixel_size")
    found = [(k, curve(one, "fsc_corrected")) for k, one in enumerate(record["classes"])]
    series = [Series(f"class {k + 1}", values, style_of(k)) for k, values in found if values]
    if not series or not box or not pixel_size:
        return None
    shells = max(len(one.values) for one in series)
    axis = Axis(float("inf"), 2 * pixel_size, "resolution (Å)", "inverse",
                resolution_ticks(float("inf"), 2 * pixel_size))
    x = Abscissa(axis, [shell / (box / 2) for shell in range(shells)], shell_titles(box * pixel_size, shells))
    y = Axis(-0.1, 1.03, "Fourier shell correlation", "linear", linear_ticks(0, 1, 5))
    return draw(Chart("FSC between the half maps of each class", x.axis, y, x.positions, x.titles, series,
                      guides=[Guide(0.143, "0.143"), Guide(0.5, "0.5")], size="tall"))


@dataclass(frozen=True)
class ShownDifference:
    """One class less another: their numbers, pictures of three slices through the strongest place, and a sentence."""

    first: int
    second: int
    pictures: list[Picture]
    said: str


def shown_difference(
    numbers: Sequence[int], halves: Sequence[Sequence[Array]], mask: Array, pixel_size: float, resolution: float,
    window: Window,
) -> ShownDifference:  # fmt: skip
    """The first of two classes less the second. numbers: theirs, from 1; halves: their raw half maps [z,y,x];
    resolution: of the worse one, in A."""
    maps = [tuple(torch.from_numpy(np.ascontiguousarray(half)) for half in pair) for pair in halves]
    within = torch.from_numpy(np.ascontiguousarray(mask))
    found = class_difference(maps[0], maps[1], within, pixel_size, resolution)
    x, y, z = (pixel_size * float(n) for n in found.strongest)
    side = "more" if found.peak > 0 else "less"
    if found.share == 0:
        said = (f"Nowhere beyond {SURE:g} standard deviations (strongest: {abs(found.peak):.1f}): no difference that "
                "is more than noise.")
    else:
        said = (f"Beyond {SURE:g} standard deviations in {100 * found.share:.1f} % of the mask; strongest: "
                f"{abs(found.peak):.1f}, {side} density in class {numbers[0]}, at ({x:.0f}, {y:.0f}, {z:.0f}) Å off "
                f"the centre. Filtered to {found.resolution:.1f} Å.")
    return ShownDifference(numbers[0], numbers[1], _pictures(found, mask, window), said)


def _pictures(found: ClassDifference, mask: Array, window: Window) -> list[Picture]:
    made = []
    for plane in PLANES:
        at = int(found.strongest[2 - plane.axis]) + mask.shape[0] // 2
        sds = crop(found.sds.numpy().take(at, axis=plane.axis), window)
        inside = crop_linear(mask.take(at, axis=plane.axis).astype(np.float32), window)
        edge = outline(mask.take(at, axis=plane.axis), window)
        offset = at - mask.shape[0] // 2
        made.append(Picture("difference", f"{plane.name} slice, {plane.normal} = {offset:+d}",
                            png_uri(_coloured(sds, inside)), edge, plane.across, plane.down))
    return made


def _coloured(sds: Array, inside: Array) -> NDArray[np.uint8]:
    """Colours [y,x,3] of a difference in standard deviations: faint up to SURE, full at DARKEST times that."""
    size = np.abs(sds)
    strength = np.where(size < SURE, 0.25 * size / SURE, 0.25 + 0.75 * (size - SURE) / ((DARKEST - 1) * SURE))
    strength = np.clip(strength, 0, 1)[..., None] * np.clip(inside, 0, 1)[..., None]
    colour = np.where(sds[..., None] > 0, np.array(MORE), np.array(LESS))
    return np.rint(np.array(NONE) * (1 - strength) + colour * strength).astype(np.uint8)
