"""A file that holds the state of a running program: numbers, text, arrays and records, checked when it is read.

Nothing in it is ever executed (no pickle). Layout: a line of magic; place and checksum of the directory; the arrays one
after the other as they lie in memory; the directory. The directory is JSON. It holds the content, in which a mark
stands for each array, and the type, shape, place and checksum of the arrays. Checksums are CRC-32.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from halfmap import __version__
from halfmap.errors import InputError

MAGIC = b"halfmap checkpoint\n"
FORMAT = 1
PLACE = struct.Struct("<IQQI")  # format; start, length and checksum of the directory
ALIGNED = 64  # bytes: every array begins at a multiple of this
PIECE = 1 << 24  # bytes written at once, so that they are still in the cache for the checksum
LIBRARIES = ("torch", "numpy", "numba")

LARGE = 1 << 22  # values: larger tensors are given to `place` as soon as they are read

Array = torch.Tensor | np.ndarray
Place = Callable[[torch.Tensor], torch.Tensor]


class Loaded(NamedTuple):
    """What `dump` wrote, and the versions of the libraries that it was written with, by name."""

    content: Any
    libraries: dict[str, str]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on, by name."""
    return {name: version(name) for name in LIBRARIES}


def dump(stream: BinaryIO, content: Any) -> None:
    """Write ``content`` to a new, seekable stream.

    content: None, numbers, text, paths, tensors and numpy arrays, members of an Enum, and lists, tuples, dictionaries
    with text as keys, and dataclasses of these, which may say themselves what is kept of them (``checkpointed``) and
    how they are made of it again (``from_checkpoint``). A named tuple comes back as a plain one. Raises TypeError for
    anything else.
    """
    arrays: list[Array] = []
    plain = _plain(content, arrays)
    stream.write(MAGIC + PLACE.pack(0, 0, 0, 0))
    entries = [_write_array(stream, array) for array in arrays]
    directory = json.dumps(
        {"halfmap": __version__, "libraries": library_versions(), "content": plain, "arrays": entries}
    ).encode()
    start = stream.tell()
    stream.write(directory)
    stream.seek(len(MAGIC))
    stream.write(PLACE.pack(FORMAT, start, len(directory), zlib.crc32(directory)))


def load(
    path: Path, records: Iterable[type], device: torch.device | str = "cpu", place: Place | None = None
) -> Loaded:
    """Read what `dump` wrote.

    records: the dataclasses and Enums that may occur. device: where tensors go that were not on the CPU. place: called
    with each large tensor as soon as it is read and gives what is kept in its place, for tensors that do not fit into
    memory together. Raises InputError for a file that cannot be read, is damaged, or was written by another version.
    """
    known = {cls.__name__: cls for cls in records}
    try:
        with open(path, "rb") as stream:
            directory = _directory(stream, path)
            arrays = []
            for entry in directory["arrays"]:
                array = _read_array(stream, entry, path, device)
                if place is not None and isinstance(array, torch.Tensor) and array.numel() > LARGE:
                    array = place(array)
                arrays.append(array)
            return Loaded(_restored(directory["content"], arrays, known), directory["libraries"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except (KeyError, TypeError) as error:  # the checksum is right, so the file was written for other records
        raise InputError(f"{path}: was written by another state of the program ({error}); refine anew") from error


def _directory(stream: BinaryIO, path: Path) -> dict[str, Any]:
    """The directory of a checkpoint. Raises InputError where it is damaged or was written by another version."""
    head = stream.read(len(MAGIC) + PLACE.size)
    if not head.startswith(MAGIC) or len(head) < len(MAGIC) + PLACE.size:
        raise InputError(f"{path}: is not a checkpoint of halfmap; refine anew")
    written_as, start, length, checksum = PLACE.unpack(head[len(MAGIC) :])
    if written_as != FORMAT:
        raise InputError(f"{path}: has checkpoint format {written_as}, and halfmap {__version__} reads format "
                         f"{FORMAT}; resume with the version that began the run, or refine anew")
    if start + length != os.fstat(stream.fileno()).st_size:
        raise _damaged(path)
    stream.seek(start)
    raw = stream.read(length)
    if zlib.crc32(raw) != checksum:
        raise _damaged(path)
    directory: dict[str, Any] = json.loads(raw)
    if directory["halfmap"] != __version__:
        raise InputError(f"{path}: was written by halfmap {directory['halfmap']}, and this is {__version__}; resume "
                         "with that version, or refine anew")
    return directory


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: is damaged (its checksum is wrong); refine anew")


def _write_array(stream: BinaryIO, array: Array) -> dict[str, Any]:
    """Write an array and return its entry in the directory."""
    tensor = isinstance(array, torch.Tensor)
    values = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
    values = np.ascontiguousarray(values).reshape(values.shape)
    stream.write(b"\0" * (-stream.tell() % ALIGNED))
    start, checksum = stream.tell(), 0
    raw = values.reshape(-1).view(np.uint8).data
    for first in range(0, len(raw), PIECE):
        piece = raw[first : first + PIECE]
        checksum = zlib.crc32(piece, checksum)
        stream.write(piece)
    return {
        "type": values.dtype.str, "shape": list(values.shape), "start": start, "checksum": checksum,
        "tensor": tensor, "cpu": not isinstance(array, torch.Tensor) or array.device.type == "cpu",
    }  # fmt: skip


def _read_array(stream: BinaryIO, entry: dict[str, Any], path: Path, device: torch.device | str) -> Array:
    """Read an array into memory that torch allocates, which is aligned like that of a computed tensor."""
    kind = np.dtype(entry["type"])
    values = torch.from_numpy(np.empty(0, kind)).new_empty(entry["shape"]) if entry["tensor"] else None
    plain = values.numpy() if values is not None else np.empty(entry["shape"], kind)
    raw = plain.reshape(-1).view(np.uint8).data
    stream.seek(entry["start"])
    checksum, done = 0, 0
    while done < len(raw):
        piece = raw[done : done + PIECE]
        got = stream.readinto(piece)  # type: ignore[attr-defined]
        if not got:
            raise _damaged(path)
        checksum = zlib.crc32(piece[:got], checksum)
        done += got
    if checksum != entry["checksum"]:
        raise _damaged(path)
    if values is None:
        return plain
    return values if entry["cpu"] else values.to(device)


def _plain(value: Any, arrays: list[Array]) -> Any:
    """The value as JSON. Arrays are appended to `arrays` and marked. Every dictionary in the result is a mark."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor | np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, os.PathLike):
        return {"path": os.fspath(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return {"member": type(value).__name__, "value": _plain(value.value, arrays)}
    if isinstance(value, list):
        return [_plain(v, arrays) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(v, arrays) for v in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(v, arrays) for key, v in value.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        kept = value.checkpointed() if hasattr(value, "checkpointed") else own
        return {"record": type(value).__name__, "fields": {name: _plain(v, arrays) for name, v in kept.items()}}
    raise TypeError(f"{type(value).__name__} cannot be kept in a checkpoint")


def _restored(value: Any, arrays: list[Array], known: dict[str, type]) -> Any:
    """The inverse of `_plain`; known holds the records by name."""
    if isinstance(value, list):
        return [_restored(v, arrays, known) for v in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "path" in value:
        return Path(value["path"])
    if "member" in value:
        return known[value["member"]](value["value"])
    if "tuple" in value:
        return tuple(_restored(v, arrays, known) for v in value["tuple"])
    if "dict" in value:
        return {key: _restored(v, arrays, known) for key, v in value["dict"].items()}
    record, fields = known[value["record"]], {k: _restored(v, arrays, known) for k, v in value["fields"].items()}
    made: Callable[..., Any] = getattr(record, "from_checkpoint", record)
    return made(**fields)
