"""MRC files: maps read and written as tensors, and particle stacks written as a stream.

The format is MRC2014 (Cheng et al. 2015, J. Struct. Biol. 192, 146). Reading accepts every variant whose meaning is
clear (either byte order, extended headers, any axis order, gzip, a missing "MAP " stamp) and refuses the others.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError

HEADER_BYTES = 1024
TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
REFUSED_MODES = {3: "complex integers", 4: "complex floats", 101: "4-bit integers"}
STACK_MODES = {"int8": 0, "float32": 2, "float16": 12}
# A longer side means that the header is in the other byte order, or that the file is not MRC.
LONGEST_SIDE = 65535
MOST_SECTIONS = 1 << 26
PIECE_BYTES = 1 << 22

StackType = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class MapFile:
    """A map data[z,y,x] (float32) and the side of its voxel in A."""

    data: Tensor
    pixel_size: float


@dataclass(frozen=True)
class GreyValues:
    """Least, largest and mean value of a file, and their standard deviation, as its header gives them."""

    least: float
    largest: float
    mean: float
    sd: float


@dataclass(frozen=True)
class MrcHeader:
    """What is needed to read an MRC file.

    shape: sections, rows, columns; dtype: the type of a value, in the file's byte order; offset: where the values
    begin, in bytes; voxel: its sides (x, y, z) in A, 0 where not given; axes: which axis (1 x, 2 y, 3 z) runs along
    columns, rows and sections; compressed: whether the file is gzipped.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    offset: int
    voxel: tuple[float, float, float]
    axes: tuple[int, int, int]
    compressed: bool = False

    @property
    def image_bytes(self) -> int:
        """Size of one section in bytes."""
        return self.shape[1] * self.shape[2] * self.dtype.itemsize


def read_header(path: Path | str) -> MrcHeader:
    """The header of an MRC file, gzipped or not.

    Raises InputError where the file cannot be read, is not MRC, or holds values of a type that is not supported.
    """
    with _opened(path) as stream:
        header = _parse_header(stream.read(HEADER_BYTES), path)
        return replace(header, compressed=isinstance(stream, gzip.GzipFile))


def read_map(path: Path | str) -> MapFile:
    """Read a cubic map (MRC modes 0, 1, 2, 6 and 12, gzipped or not) as float32 data[z,y,x].

    Axes are put in the order z, y, x. The header's origin and start indices are ignored, because the centre of the box
    is always voxel n//2. Raises InputError for a file that is missing, truncated, not MRC, not cubic, without a pixel
    size, or with values that are not finite.
    """
    with _opened(path) as stream:
        header = _parse_header(stream.read(HEADER_BYTES), path)
        if len(set(header.shape)) != 1:
            sections, rows, columns = header.shape
            raise InputError(f"{path}: the map has {columns} x {rows} x {sections} voxels and is not a cube; "
                             f"pad or crop it to a cube")
        pixel_size = _cubic_pixel_size(header, path)
        raw = _values(stream, header, path)
    values = np.frombuffer(raw, header.dtype).reshape(header.shape)
    along = header.axes[::-1]
    values = values.transpose([along.index(axis) for axis in (3, 2, 1)])
    data = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    bad = int((~torch.isfinite(data)).sum())
    if bad:
        raise InputError(f"{path}: {bad} voxels are not finite numbers (NaN or Inf); make the map again")
    return MapFile(data, pixel_size)


def write_map(path: Path | str, data: Tensor, pixel_size: float, label: str = "Halfmap") -> None:
    """Write data[z,y,x] as a float32 volume with voxels of `pixel_size` A, origin and start indices zero.

    label: the header's one line of text; its first 80 characters are written. The file appears complete or not at all.
    Raises InputError where it cannot be written.
    """
    values = data.detach().to("cpu", torch.float32).contiguous().numpy()
    header = _new_header((values.shape[0], values.shape[1], values.shape[2]), 2, pixel_size)
    header["ispg"], header["label"][0] = 1, label.encode("ascii", errors="replace")[:80]
    _set_grey_values(header, GreyValues(float(values.min()), float(values.max()),
                                        float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))))
    with replaced_atomically(path) as stream:
        stream.write(header.tobytes())
        stream.write(values.astype("<f4", copy=False).data)


def write_stack(path: Path | str, images: Tensor | NDArray[np.generic], pixel_size: float,
                dtype: StackType = "float32") -> None:
    """Write images[b,y,x] as a particle stack; see `StackWriter`."""
    with StackWriter(path, len(images), images.shape[-1], pixel_size, dtype) as writer:
        writer.write(images)


class StackWriter:
    """Write a particle stack of `count` square images of `box` pixels piece by piece.

    Used as a context manager. The file appears under its name, complete and with the right header, when the block ends
    without an exception and all images were written; otherwise nothing is left. With dtype "int8" values are rounded
    and clipped to -128..127; the caller scales them.
    """

    def __init__(self, path: Path | str, count: int, box: int, pixel_size: float,
                 dtype: StackType = "float32") -> None:
        self.count, self.box, self.written = count, box, 0
        self._path = Path(path)
        self._header = _new_header((count, box, box), STACK_MODES[dtype], pixel_size)
        # A stack is not a volume: space group 0 and one section to a cell.
        self._header["mz"], self._header["cella"]["z"] = 1, pixel_size
        self._dtype = np.dtype(TYPES[STACK_MODES[dtype]]).newbyteorder("<")
        self._sum = self._squares = 0.0
        self._low, self._high = math.inf, -math.inf

    def __enter__(self) -> StackWriter:
        self._replacement = replaced_atomically(self._path)
        self._stream = self._replacement.__enter__()
        self._stream.write(self._header.tobytes())
        return self

    def write(self, images: Tensor | NDArray[np.generic]) -> None:
        """Append images[b,y,x]."""
        values = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
        if values.shape[1:] != (self.box, self.box) or self.written + len(values) > self.count:
            raise ValueError(f"images {values.shape} do not fit a stack of {self.count} of {self.box} pixels")
        if self._dtype.kind == "i":
            values = np.clip(np.rint(values), -128, 127)
        values = values.astype(self._dtype)
        self._stream.write(values.tobytes())
        self.written += len(values)
        if values.size:
            wide = values.astype(np.float64)
            self._sum += float(wide.sum())
            self._squares += float(np.square(wide).sum())
            self._low, self._high = min(self._low, float(wide.min())), max(self._high, float(wide.max()))

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        complete = self.written == self.count
        if kind is None and complete and self.count:
            total = self.count * self.box * self.box
            mean = self._sum / total
            sd = math.sqrt(max(self._squares / total - mean * mean, 0.0))
            _set_grey_values(self._header, GreyValues(self._low, self._high, mean, sd))
            self._stream.seek(0)
            self._stream.write(self._header.tobytes())
        if kind is None and not complete:
            error = ValueError(f"{self._path}: {self.written} of {self.count} images were written")
            self._replacement.__exit__(ValueError, error, None)
            raise error
        self._replacement.__exit__(kind, value, trace)


@contextmanager
def replaced_atomically(path: Path | str) -> Iterator[BinaryIO]:
    """Give a stream to write to; what was written replaces the file `path` when the block ends without an exception.

    The data reach the disk before the name does, so that a crash leaves either the old file or the new one. Raises
    InputError where the file system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) != temporary:
            raise  # the fault of another file, raised while this one was open
        raise InputError(f"{path}: cannot be written: {error.strerror or error}; "
                         f"check that the folder exists, is writable and has space") from error
    finally:
        with suppress(OSError):  # it is gone already, or cannot be deleted; the error itself has been raised
            temporary.unlink()


@contextmanager
def _opened(path: Path | str) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file as a stream of bytes, decompressed where its first two bytes are those of gzip. Raises InputError where
    it cannot be read."""
    try:
        if Path(path).is_fifo():  # opening a pipe that nobody writes to waits for ever, and a map is read twice
            raise OSError("it is a pipe")
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            yield gzip.GzipFile(fileobj=plain) if packed else plain
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is damaged ({error}); copy it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error


def _values(stream: BinaryIO | gzip.GzipFile, header: MrcHeader, path: Path | str) -> bytes | bytearray:
    """The bytes of a map's values. Memory is allocated for what the file holds, not for what its header promises."""
    expected = math.prod(header.shape) * header.dtype.itemsize
    stream.seek(header.offset)
    if isinstance(stream, gzip.GzipFile):
        raw: bytes | bytearray = bytearray()
        while len(raw) < expected and (piece := stream.read(min(PIECE_BYTES, expected - len(raw)))):
            raw += piece
        stream.read(1)  # gzip verifies its checksum only when the end of the file is read
    else:
        held = os.fstat(stream.fileno()).st_size - header.offset
        raw = stream.read(max(0, min(expected, held)))
    if len(raw) < expected:
        raise InputError(f"{path}: truncated: {len(raw)} of {expected} bytes of the map are there; copy it again")
    return raw


def _parse_header(raw: bytes, path: Path | str) -> MrcHeader:
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
        axes = tuple(int(found[name]) for name in ("mapc", "mapr", "maps"))
        if axes == (0, 0, 0):
            axes = (1, 2, 3)
        if sorted(axes) != [1, 2, 3]:
            raise InputError(f"{path}: the header's axis order {axes} has no meaning; make the file again")
        cells = (found["mx"], found["my"], found["mz"])
        sides = tuple(float(found["cella"][axis]) / int(cell if cell > 0 else size)
                      for axis, cell, size in zip("xyz", cells, (columns, rows, sections), strict=True))
        dtype = np.dtype(TYPES[mode]).newbyteorder(order)
        return MrcHeader((sections, rows, columns), dtype, HEADER_BYTES + int(found["nsymbt"]),
                         (sides[0], sides[1], sides[2]), (axes[0], axes[1], axes[2]))
    raise InputError(f"{path}: not an MRC file; give a file in MRC or CCP4 format")


def _cubic_pixel_size(header: MrcHeader, path: Path | str) -> float:
    """The pixel size in A of a map. Raises InputError where it has none, or voxels that are no cubes."""
    sides = header.voxel
    if not all(math.isfinite(side) and side > 0.0 for side in sides):
        raise InputError(f"{path}: the header gives no pixel size; set it, for example with "
                         f"relion_image_handler --i map.mrc --o new.mrc --angpix A --force_header_angpix A")
    if max(sides) > min(sides) * 1.001:
        voxel = " x ".join(f"{side:.4g}" for side in sides)
        raise InputError(f"{path}: voxels of {voxel} A are not cubes; resample the map or correct its header")
    return sides[0]


def _new_header(shape: tuple[int, int, int], mode: int, pixel_size: float) -> Any:
    """A little-endian header (a numpy record) for data of this shape (sections, rows, columns)."""
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))[()]
    for axis, size in zip("zyx", shape, strict=True):
        header["n" + axis] = header["m" + axis] = size
        header["cella"][axis] = size * pixel_size
        header["cellb"][{"x": "alpha", "y": "beta", "z": "gamma"}[axis]] = 90.0
    header["mode"] = mode
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["map"], header["machst"], header["nversion"] = b"MAP ", [0x44, 0x44, 0, 0], 20140
    header["nlabl"], header["label"][0] = 1, b"Halfmap"
    return header


def _set_grey_values(header: Any, said: GreyValues) -> None:
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = said.least, said.largest, said.mean, said.sd
