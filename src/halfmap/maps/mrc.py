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
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.grid import AT_ZERO, Placement, VoxelIndex
from halfmap.maps.mrc_header import (
    ELONGATED,
    GZIP,
    HEADER_BYTES,
    TYPES,
    GreyValues,
    MrcHeader,
    Shape,
    contents,
    new_header,
    parse_header,
    set_grey_values,
)

STACK_MODES = {"int8": 0, "float32": 2, "float16": 12}
PIECE_BYTES = 1 << 22

StackType = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class MapFile:
    """A map data[z,y,x] (float32), the side of its voxel in A, and where its first voxel lies.

    shape: the sides z, y, x in the file of a map that was padded to a cube; None of one that was not.
    """

    data: Tensor
    pixel_size: float
    placement: Placement = AT_ZERO
    shape: tuple[int, ...] | None = None

    def padding(self, path: Path) -> str:
        """That the map at this path was padded to a cube, in words; empty where it was not."""
        if self.shape is None:
            return ""
        return f"{path.name}: {_sides(self.shape)} voxels are padded to a cube of {self.data.shape[-1]}"


def read_header(path: Path | str) -> MrcHeader:
    """The header of an MRC file, gzipped or not.

    Raises InputError where the file cannot be read, is not MRC, or holds values of a type that is not supported.
    """
    with _opened(path) as stream:
        header = parse_header(stream.read(HEADER_BYTES), path)
        return replace(header, compressed=isinstance(stream, gzip.GzipFile))


def read_map(path: Path | str, outside: float | None = None) -> MapFile:
    """Read a map (MRC modes 0, 1, 2, 6 and 12, gzipped or not) as float32 data[z,y,x], a cube.

    Axes are put in the order z, y, x. A map that is no cube is padded to one around its centre, with the value
    `outside`, by default the median of its faces, which is that of the solvent; its placement says where its new first
    voxel lies. The centre of the box is voxel n//2, wherever header and placement put it. Raises InputError for a file
    that is missing, truncated, not MRC, a stack of images or of volumes, without a pixel size, on an oblique grid, or
    with values that are not finite.
    """
    return _cube(read_volume(path), outside)


def read_volume(path: Path | str) -> MapFile:
    """As `read_map`, but a map that is no cube is left as it is."""
    with _opened(path) as stream:
        header = parse_header(stream.read(HEADER_BYTES), path)
        _check_volume(header, path)
        pixel_size = _cubic_pixel_size(header, path)
        raw = _values(stream, header, path)
    values = np.frombuffer(raw, header.dtype).reshape(header.shape)
    along = header.axes[::-1]
    values = values.transpose([along.index(axis) for axis in (3, 2, 1)])
    data = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    bad = int((~torch.isfinite(data)).sum())
    if bad:
        raise InputError(f"{path}: {bad} voxels are not finite numbers (NaN or Inf); make the map again")
    return MapFile(data, pixel_size, header.placement)


def _cube(read: MapFile, outside: float | None) -> MapFile:
    """A map padded to a cube, its centre voxel n // 2 onto that of the cube."""
    shape = tuple(read.data.shape)
    box = max(shape)
    if set(shape) == {box}:
        return read
    if outside is None:
        faces = [read.data.select(axis, end) for axis in range(3) for end in (0, -1)]
        outside = float(torch.cat([face.flatten() for face in faces]).median())
    before = [box // 2 - size // 2 for size in shape]
    padded = torch.full((box, box, box), outside)
    padded[tuple(slice(first, first + size) for first, size in zip(before, shape, strict=True))] = read.data
    placement = read.placement.extended(VoxelIndex(*before[::-1]), read.pixel_size)
    return MapFile(padded, read.pixel_size, placement, shape)


def _check_volume(header: MrcHeader, path: Path | str) -> None:
    """Raise InputError where a file holds no single map on a grid at right angles. A cube is taken for a map."""
    found = contents(header, path)
    if found == "stack of volumes":
        raise InputError(f"{path}: a stack of volumes of {header.deep} sections each (space group {header.group}); "
                         "write the one that is meant into a file of its own")
    if found == "image stack" and not header.is_cube:
        raise InputError(f"{path}: {_sides(header.shape)} voxels, an image stack by its header or name, no map; give "
                         f"a map (space group 1, sides within a factor of {ELONGATED}), or crop or pad it to a cube")
    if header.oblique:
        raise InputError(f"{path}: the axes of the grid are not at right angles; resample the map")


def _sides(shape: tuple[int, ...]) -> str:
    """Sides in voxels, columns first."""
    return " x ".join(str(size) for size in shape[::-1])


def write_map(path: Path | str, data: Tensor, pixel_size: float, label: str = "Halfmap",
              placement: Placement = AT_ZERO) -> None:
    """Write data[z,y,x] as a float32 volume with voxels of `pixel_size` A.

    label: the header's one line of text; its first 80 characters are written. placement: where the first voxel lies,
    that of the map it was made from. The file appears complete or not at all. Raises InputError where it cannot be
    written.
    """
    values = data.detach().to("cpu", torch.float32).contiguous().numpy()
    header = new_header(Shape(*values.shape), 2, pixel_size, placement)
    header["ispg"], header["label"][0] = 1, label.encode("ascii", errors="replace")[:80]
    set_grey_values(header, GreyValues(float(values.min()), float(values.max()),
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
        self._header = new_header(Shape(count, box, box), STACK_MODES[dtype], pixel_size, AT_ZERO)
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
            set_grey_values(self._header, GreyValues(self._low, self._high, mean, sd))
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
            packed = plain.read(2) == GZIP
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
