"""What `halfmap deposit` draws: the image of the entry, and a ChimeraX script that shows its files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.maps.mrc import replaced_atomically
from halfmap.report.pictures.chimerax import Scene, write_chimerax
from halfmap.report.pictures.png import png
from halfmap.report.pictures.surface import render_surface
from halfmap.report.record_values import Array

SIDE = 500  # pixels: what the archive shows on the entry's page


def write_deposit_pictures(folder: Path, volume: Array, mask: Array, level: float, hidden: list[Path]) -> list[Path]:
    """Write FOLDER/image.png, a map [z,y,x] at its contour level within its mask [z,y,x], on white, and FOLDER/map.cxc,
    which opens FOLDER/map.mrc at that level and the `hidden` files; returns both paths."""
    picture = render_surface(np.asarray(volume) * np.clip(2 * np.asarray(mask), 0, 1), level, width=SIDE)
    image = folder / "image.png"
    with replaced_atomically(image) as stream:
        stream.write(png(_on_white(picture)))
    return [image, write_chimerax(folder / "map.cxc", Scene(folder / "map.mrc", level, hidden=hidden))]


def _on_white(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB [y,x,3] of RGBA [y,x,4] laid on white."""
    opaque = picture[..., 3:] / 255
    return np.rint(picture[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
