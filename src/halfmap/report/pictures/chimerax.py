"""ChimeraX scripts beside the maps: `open map.cxc` shows a map as the report does and opens its other files hidden.

A script names files relative to its own folder, because ChimeraX makes that folder the current one while it runs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfmap.maps.levels import contour_level
from halfmap.maps.mrc import read_map, replaced_atomically
from halfmap.report.pictures.colours import css_colour
from halfmap.report.pictures.local_cutoff import LocalCutoff
from halfmap.report.pictures.surface import PLAIN

STOPS = 5  # colours named in a palette


@dataclass(frozen=True)
class Scene:
    """What a script shows. Files are paths from the current folder or absolute ones.

    map: file of the map; level: its contour level; paint: file of lengths in A that colours the surface (None: one
    colour); palette: the colours for it; hidden: files that are opened but not shown.
    """

    map: Path
    level: float
    paint: Path | None = None
    palette: str = ""
    hidden: Sequence[Path] = ()


def palette(cutoff: LocalCutoff | None) -> str:
    """The colours of the pictures as a ChimeraX palette, empty without a cut-off.

    Its stops, `A,colour`, go from the finest to the coarsest value of nine tenths of the mask.
    """
    if cutoff is None:
        return ""
    fine, coarse = 1 / cutoff.finest, 1 / cutoff.coarsest
    stops = [fine + (coarse - fine) * i / (STOPS - 1) for i in range(STOPS)]
    return ":".join(f"{1 / stop:.2f},{css_colour(float(cutoff.scale.fraction(np.array(stop))))}" for stop in stops)


def write_chimerax(path: Path, scene: Scene) -> Path:
    """Write a .cxc script and return its path. Files that do not exist are left out.

    Raises InputError if it cannot be written.
    """
    paint = scene.paint if scene.paint is not None and scene.paint.is_file() and scene.palette else None
    hidden = [file for file in scene.hidden if file.is_file()]
    files = [scene.map, *([paint] if paint else []), *hidden]
    lines = [f"# Halfmap: in ChimeraX, open {path.name}"]
    lines += [f'open "{os.path.relpath(file, path.parent)}" id {i}' for i, file in enumerate(files, start=1)]
    plain = ",".join(f"{round(100 * part)}" for part in PLAIN)
    lines.append(f"volume #1 style surface step 1 level {scene.level:.5g} color {plain}")
    if len(files) > 1:
        lines.append(f"volume #2-{len(files)} hide" if len(files) > 2 else "volume #2 hide")
    if paint:
        lines.append(f"color sample #1 map #2 palette {scene.palette} key true")
    lines += ["surface dust #1 size 6", "set bgColor white", "lighting soft", "graphics silhouettes true", "view #1"]
    with replaced_atomically(path) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
    return path


def level_of(path: Path, mask: Path | None) -> float:
    """The recommended contour level of a map file within a mask file. InputError if a file cannot be read.

    A mask that does not exist, or is not on the grid of the map, is ignored.
    """
    inside = read_map(mask).data if mask is not None and mask.is_file() else None
    data = read_map(path).data
    return contour_level(data, inside if inside is not None and inside.shape == data.shape else None)
