"""The header of an MRC file: what it says of the values that follow, and where the map lies.

MRC2014 (Cheng et al. 2015, J. Struct. Biol. 192, 146), read in either byte order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from halfmap.errors import InputError
from halfmap.maps.grid import AT_ZERO, FIRST, NOWHERE, Angstroms, Placement, VoxelIndex

HEADER_BYTES = 1024
GZIP = b"\x1f\x8b"  # the first bytes of a gzipped file
TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
REFUSED_MODES = {3: "complex integers", 4: "complex floats", 101: "4-bit integers"}
# A longer side means that the header is in the other byte order, or that the file is not MRC.
LONGEST_SIDE = 65535
MOST_SECTIONS = 1 << 26
STACK_GROUP = 0  # the space group of image stacks
VOLUME_STACKS = range(401, 631)  # those of stacks of volumes: 400 and the volume's own
SPACE_GROUPS = range(1, 231)
ELONGATED = 8  # times the shortest side: what is longer is a stack of images, not a map
_IMOD_STAMP, _IMOD_SIGNED = 1146047817, 1  # in bytes 152 and 156: written by IMOD, and with signed bytes
_FARTHEST = 1e7  # voxels, or A: start indices and origins beyond it are not ones

Contents = Literal["map", "image stack", "stack of volumes"]


@dataclass(frozen=True)
class GreyValues:
    """Least, largest and mean value of a file, and their standard deviation, as its header gives them."""

    least: float
    largest: float
    mean: float
    sd: float


class Shape(NamedTuple):
    """How many values a file holds along each of its axes, the slowest first."""

    sections: int
    rows: int
    columns: int


class AxisOrder(NamedTuple):
    """Which axis (1 x, 2 y, 3 z) runs along columns, rows and sections."""

    columns: int = 1
    rows: int = 2
    sections: int = 3


USUAL_ORDER = AxisOrder()


@dataclass(frozen=True)
class MrcHeader:
    """What is needed to read an MRC file.

    dtype: the type of a value, in the file's byte order; offset: where the values begin, in bytes; voxel: its sides,
    0 where not given; placement: where the first voxel lies; group: the space group, by which stacks and maps are told
    apart; deep: sections to a cell, 0 where not given; oblique: whether the axes of the cell are not at right angles;
    compressed: whether the file is gzipped.
    """

    shape: Shape
    dtype: np.dtype[np.generic]
    offset: int
    voxel: Angstroms
    axes: AxisOrder
    placement: Placement = AT_ZERO
    group: int = 1
    deep: int = 0
    oblique: bool = False
    compressed: bool = False

    @property
    def image_bytes(self) -> int:
        """Size of one section in bytes."""
        return self.shape.rows * self.shape.columns * self.dtype.itemsize

    @property
    def is_cube(self) -> bool:
        """Whether the sections make a cube, of more than one voxel."""
        return len(set(self.shape)) == 1 and self.shape.sections > 1


def contents(header: MrcHeader, path: Path | str) -> Contents:
    """What the sections of a file are, by its header and name.

    Space group 0 and one section to a cell mean images, groups 401 to 630 volumes, any other a map. Many programs write
    a map as group 0: what is a cube, or has oblong sections that no particle image has, is a map then. Some write
    stacks as group 1: what is more than eight times as long as wide, or is called .mrcs, is none.
    """
    sections, rows, columns = header.shape
    if header.group in VOLUME_STACKS and 0 < header.deep < sections:
        return "stack of volumes"
    named_stack = str(path).removesuffix(".gz").endswith(".mrcs")
    if header.is_cube:
        images = header.group == STACK_GROUP and (named_stack or header.deep == 1)
    else:
        images = (named_stack or header.deep == 1 or max(header.shape) > ELONGATED * min(header.shape)
                  or (header.group == STACK_GROUP and rows == columns))
    return "image stack" if images else "map"


def parse_header(raw: bytes, path: Path | str) -> MrcHeader:
    """The header, read in the byte order that gives possible sizes."""
    orders: tuple[Literal["<"], Literal[">"]] = ("<", ">")
    for order in orders:
        if len(raw) < HEADER_BYTES:
            break
        found = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
        columns, rows, sections, mode = (int(found[name]) for name in ("nx", "ny", "nz", "mode"))
        if not (0 < columns <= LONGEST_SIDE and 0 < rows <= LONGEST_SIDE and 0 < sections <= MOST_SECTIONS):
            continue
        if mode in REFUSED_MODES:
            raise InputError(f"{path}: MRC mode {mode} ({REFUSED_MODES[mode]}) is not supported; "
                             f"convert the file to 32-bit floats (mode 2)")
        if mode not in TYPES or found["nsymbt"] < 0:
            continue
        axes = AxisOrder(*(int(found[name]) for name in ("mapc", "mapr", "maps")))
        if not any(axes):
            axes = USUAL_ORDER
        if sorted(axes) != [1, 2, 3]:
            raise InputError(f"{path}: the header's axis order {tuple(axes)} has no meaning; make the file again")
        sizes = [(columns, rows, sections)[axes.index(axis)] for axis in (1, 2, 3)]
        sides = [float(found["cella"][axis]) / int(cell if cell > 0 else size)
                 for axis, cell, size in zip("xyz", (found["mx"], found["my"], found["mz"]), sizes, strict=True)]
        angles = [float(found["cellb"][name]) for name in ("alpha", "beta", "gamma")]
        kind = "u1" if mode == 0 and _unsigned(raw, order) else TYPES[mode]
        return MrcHeader(
            Shape(sections, rows, columns), np.dtype(kind).newbyteorder(order), HEADER_BYTES + int(found["nsymbt"]),
            Angstroms(*sides), axes, _placement(found, axes), int(found["ispg"]),
            max(0, int(found["mz"])), all(1 < angle < 179 for angle in angles) and any(abs(angle - 90) > 0.1
                                                                                       for angle in angles),
        )  # fmt: skip
    raise InputError(f"{path}: not an MRC file; give a file in MRC or CCP4 format")


def _placement(found: Any, axes: AxisOrder) -> Placement:
    """Where the first voxel lies. Start indices are those of columns, rows and sections, the origin is x, y, z.

    The fields of the origin held something else before the stamp was introduced.
    """
    stamped = bytes(found["map"])[:3] == b"MAP"
    along = [int(found[name]) for name in ("nxstart", "nystart", "nzstart")]
    start = VoxelIndex(*(along[axes.index(axis)] for axis in (1, 2, 3)))
    origin = Angstroms(*(float(found["origin"][name]) if stamped else 0.0 for name in "xyz"))
    if not all(abs(index) < _FARTHEST for index in start):
        start = FIRST
    if not all(abs(place) < _FARTHEST for place in origin):  # false of NaN too
        origin = NOWHERE
    return Placement(start, origin)


def _unsigned(raw: bytes, order: str) -> bool:
    """Whether bytes are unsigned: IMOD writes such, and says so in two words of its own."""
    stamp, flags = struct.unpack_from(f"{order}2i", raw, 152)
    return stamp == _IMOD_STAMP and not flags & _IMOD_SIGNED


def new_header(shape: Shape, mode: int, pixel_size: float, placement: Placement) -> Any:
    """A little-endian header (a numpy record) for data of this shape."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))[()]
    sizes = (shape.columns, shape.rows, shape.sections)
    for axis, angle, size, start, origin in zip("xyz", ("alpha", "beta", "gamma"), sizes, placement.start,
                                                placement.origin, strict=True):
        header["n" + axis] = header["m" + axis] = size
        header["cella"][axis], header["cellb"][angle] = size * pixel_size, 90.0
        header[f"n{axis}start"], header["origin"][axis] = start, origin
    header["mode"] = mode
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["map"], header["machst"], header["nversion"] = b"MAP ", [0x44, 0x44, 0, 0], 20140
    header["nlabl"], header["label"][0] = 1, b"Halfmap"
    return header


def set_grey_values(header: Any, said: GreyValues) -> None:
    """Write the values of a file into its header."""
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = said.least, said.largest, said.mean, said.sd
