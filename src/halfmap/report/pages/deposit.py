"""What `halfmap deposit` draws instead of a page: the image of the entry, and a ChimeraX script for its files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfmap.maps.mrc import replaced_atomically
from halfmap.report.pictures.chimerax import Scene, write_chimerax
from halfmap.report.pictures.png import png
from halfmap.report.pictures.surface import render_surface
from halfmap.report.record_values import Array

SIDE = 500  # pixels, as the archive shows it on the page of the entry


def write_deposit_pictures(folder: Path, volume: Array, mask: Array, level: float, hidden: list[Path]) -> list[Path]:
    """Write FOLDER/image.png and FOLDER/map.cxc, and return both paths.

    The image shows a map [z,y,x] at its contour level within its mask [z,y,x], on white. The script opens
    FOLDER/map.mrc at that level, and the `hidden` files without showing them.
    """
    picture = render_surface(np.asarray(volume) * np.clip(2 * np.asarray(mask), 0, 1), level, width=SIDE)
    image = folder / "image.png"
    with replaced_atomically(image) as stream:
        stream.write(png(_on_white(picture)))
    return [image, write_chimerax(folder / "map.cxc", Scene(folder / "map.mrc", level, hidden=hidden))]


def _on_white(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay a picture, RGBA [y,x,4], on white: RGB [y,x,3]."""
    opaque = picture[..., 3:] / 255
    return np.rint(picture[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)
