"""The pictures of maps on the page of a refinement: slices, projections, half maps and reference."""

from dataclasses import dataclass

import numpy as np

from halfmap.report.pages.snapshot import Snapshot
from halfmap.report.pictures.png import png_uri
from halfmap.report.pictures.slices import (
    PLANES,
    Picture,
    ScaleBar,
    Window,
    central,
    central_greys,
    crop,
    grey_levels,
    outline,
    scale_bar,
    usable,
    window_around,
)
from halfmap.report.record_values import Array


@dataclass(frozen=True)
class Gallery:
    """Rows of pictures on one scale of length. side: in words, how wide a picture is."""

    slices: list[Picture]
    projections: list[Picture]
    others: list[Picture]
    bar: ScaleBar
    side: str


def gallery(snapshot: Snapshot, pixel_size: float | None) -> Gallery | None:
    """All pictures of a snapshot, pixel_size in A; None if it has no map."""
    volume = usable(snapshot.map)
    if volume is None:
        return None
    box = volume.shape[0]
    mask = usable(snapshot.mask, box)
    window = window_around(mask, box)
    slices, projections = [], []
    cuts = central_greys(volume, window)
    sums = grey_levels([crop(volume.sum(axis=plane.axis, dtype=np.float32), window) for plane in PLANES])
    for plane, cut, total in zip(PLANES, cuts, sums, strict=True):
        edge = "" if mask is None else outline(central(mask, plane.axis), window)
        shadow = "" if mask is None else outline(mask.max(axis=plane.axis), window)
        depth, seen = f"{plane.normal} = {box // 2}", f"seen along {plane.normal}"
        slices.append(Picture(f"{plane.name} slice", depth, png_uri(cut), edge, plane.across, plane.down))
        projections.append(Picture("projection", seen, png_uri(total), shadow, plane.across, plane.down))
    others = _others(snapshot, box, window, mask)
    side = f"{window.width} voxels" + (f", {window.width * pixel_size:.0f} Å" if pixel_size else "")
    return Gallery(slices, projections, others, scale_bar(window, pixel_size), side)


def _others(snapshot: Snapshot, box: int, window: Window, mask: Array | None) -> list[Picture]:
    """Central slices of the raw half maps, on one grey scale, and of the regularised reference."""
    edge = "" if mask is None else outline(central(mask, 0), window)
    halves = [usable(snapshot.half1, box), usable(snapshot.half2, box)]
    raw = [crop(central(half, 0), window) for half in halves if half is not None]
    names = [f"half map {i + 1}" for i, half in enumerate(halves) if half is not None]
    pictures = [
        Picture(name, "raw, xy slice", png_uri(grey), edge, "x", "y")
        for name, grey in zip(names, grey_levels(raw) if raw else [], strict=True)
    ]
    reference = usable(snapshot.reference, box)
    if reference is not None:
        (grey,) = grey_levels([crop(central(reference, 0), window)])
        pictures.append(Picture("reference", "regularised, xy slice", png_uri(grey), edge, "x", "y"))
    return pictures
