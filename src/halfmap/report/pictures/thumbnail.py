"""Small pictures by which runs are told apart in a list: of a map, or of the largest class means."""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from halfmap.errors import InputError
from halfmap.maps.mrc_header import HEADER_BYTES, MrcHeader, contents, parse_header
from halfmap.report.pictures.slices import fourier_resize, grey_levels
from halfmap.report.record_values import Array

SIDE = 144  # pixels
MIDDLE = 0.2  # of the box, on both sides of its centre: what is seen of a map, in two fifths of the reading
MOST_BYTES = 1 << 32  # of a file that a picture is made of
DENSE = 0.3  # of the highest density above the solvent: what the picture is cut to
MARGIN = 1.35
COARSE = 36  # pixels along the side in which the particle is looked for, without its noise
TILES = 3  # class means along the side


def thumbnail(stream: BinaryIO, path: Path) -> NDArray[np.uint8]:
    """A square picture [y,x] of the middle of a map seen along z, or of the first class means of a stack.

    stream: the MRC file at its beginning, not gzipped. Protein is light. Raises InputError for a file that is no such
    map or stack, is broken off, or holds values that are not finite.
    """
    header = parse_header(stream.read(HEADER_BYTES), path)
    if math.prod(header.shape) * header.dtype.itemsize > MOST_BYTES or header.shape.rows != header.shape.columns:
        raise InputError(f"{path}: no map to make a picture of")
    if contents(header, path) == "image stack" and not header.is_cube:
        return _tiles(stream, header, path)
    return _map(stream, header, path)


def _map(stream: BinaryIO, header: MrcHeader, path: Path) -> NDArray[np.uint8]:
    sections = header.shape.sections
    first, last = round((0.5 - MIDDLE) * sections), max(round((0.5 + MIDDLE) * sections), 1)
    total = np.zeros(header.shape[1:], dtype=np.float32)
    for section in range(first, last):
        total += _section(stream, header, section, path)
    return grey_levels([_fitted(_cut_out(_checked(total, path)))])[0]


def _tiles(stream: BinaryIO, header: MrcHeader, path: Path) -> NDArray[np.uint8]:
    across = min(TILES, math.ceil(math.sqrt(header.shape.sections)))
    side = SIDE // across
    picture = np.zeros((side * across, side * across), dtype=np.uint8)
    shown = [fourier_resize(_checked(_section(stream, header, number, path), path), side)
             for number in range(min(across**2, header.shape.sections))]
    for number, grey in enumerate(grey_levels(shown)):
        y, x = divmod(number, across)
        picture[y * side : (y + 1) * side, x * side : (x + 1) * side] = grey
    return picture


def _section(stream: BinaryIO, header: MrcHeader, number: int, path: Path) -> Array:
    """One section [y,x] of the file."""
    stream.seek(header.offset + number * header.image_bytes)
    raw = stream.read(header.image_bytes)
    if len(raw) < header.image_bytes:
        raise InputError(f"{path}: broken off")
    return np.frombuffer(raw, header.dtype).reshape(header.shape[1:]).astype(np.float32)


def _checked(image: Array, path: Path) -> Array:
    if not math.isfinite(float(image.sum(dtype=np.float64))):
        raise InputError(f"{path}: values are not finite")
    return image


def _cut_out(image: Array) -> Array:
    """The central square that holds what is dense, as far as that stands out, with a margin."""
    n = len(image)
    if n <= COARSE:
        return image
    coarse = fourier_resize(image, COARSE)
    solvent = float(np.median(coarse))
    y, x = np.nonzero(coarse > solvent + DENSE * (float(coarse.max()) - solvent))
    reach = max(int(np.abs(np.concatenate([y, x]) - COARSE // 2).max(initial=0)), 2)
    half = min(math.ceil(MARGIN * (reach + 1) * n / COARSE), n // 2)
    return image[n // 2 - half : n // 2 + half, n // 2 - half : n // 2 + half]


def _fitted(image: Array) -> Array:
    """The picture at its size. Edges that differ would ring: they are brought to the level of their median first."""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return fourier_resize(image - np.median(edge), SIDE)
