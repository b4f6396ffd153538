"""What the header of an MRC file says beyond what reading the file needs, and what is odd about it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from halfmap.maps.mrc import HEADER_BYTES, GreyValues, MrcHeader, read_header

SQUARE = 1e-3  # relative difference of a voxel's sides beyond which they count as different
STACK_GROUP, VOLUME_STACK = 0, 401  # space group of image stacks, and the first one of stacks of volumes


@dataclass(frozen=True)
class HeaderFacts:
    """The facts of a file's header.

    said: what the header says of the values; labels: its lines of text; odd: what is odd, a sentence each; fault: what
    makes the file useless, empty if nothing does.
    """

    header: MrcHeader
    said: GreyValues
    labels: tuple[str, ...]
    odd: tuple[str, ...]
    fault: str = ""


def header_facts(path: Path) -> HeaderFacts:
    """Read the header only. Raises InputError where the file cannot be read or is not MRC."""
    header = read_header(path)
    opened = gzip.open if header.compressed else open
    with opened(path, "rb") as stream:
        kind = HEADER_DTYPE.newbyteorder(header.dtype.byteorder if header.dtype.itemsize > 1 else "=")
        raw = np.frombuffer(stream.read(HEADER_BYTES), kind)[0]
    said = GreyValues(float(raw["dmin"]), float(raw["dmax"]), float(raw["dmean"]), float(raw["rms"]))
    count = min(max(int(raw["nlabl"]), 0), 10)
    labels = tuple(bytes(label).decode("ascii", "replace").strip("\0 ") for label in raw["label"][:count])
    expected = header.offset + header.shape[0] * header.image_bytes
    fault = ""
    if not header.compressed and (held := path.stat().st_size) < expected:
        fault = f"{path}: truncated: {held} of {expected} bytes are there; copy it again"
    return HeaderFacts(header, said, labels, tuple(_oddities(path, header, raw)), fault)


def is_map(header: MrcHeader) -> bool:
    """Whether the sections make one volume, that is a cube."""
    return len(set(header.shape)) == 1 and header.shape[0] > 1


def _oddities(path: Path, header: MrcHeader, raw: np.void) -> list[str]:
    odd = []
    x, y, z = header.voxel
    if x <= 0:
        odd.append("no pixel size in the header; programs that read it from there fail")
    elif abs(y / x - 1) > SQUARE or (is_map(header) and abs(z / x - 1) > SQUARE):
        odd.append(f"the sides of a voxel differ: {x:.4g} x {y:.4g} x {z:.4g} A; resample it, or correct the header")
    if bytes(raw["map"])[:3] != b"MAP":
        odd.append("no MAP stamp; some programs refuse the file")
    if header.dtype.itemsize > 1 and header.dtype.byteorder == ">":
        odd.append("written in the byte order of other machines (big-endian)")
    if header.axes != (1, 2, 3):
        odd.append(f"axes in order {header.axes}, not (1, 2, 3)")
    start = tuple(int(raw[name]) for name in ("nxstart", "nystart", "nzstart"))
    origin = tuple(float(raw["origin"][name]) for name in "xyz")
    if is_map(header) and (any(start) or any(origin)):
        odd.append(f"start indices {start} and origin {origin} A; they are ignored here, the centre is voxel n // 2")
    if is_map(header) and int(raw["ispg"]) == STACK_GROUP:
        odd.append("marked as an image stack (space group 0) and is a cube; taken for a map")
    if int(raw["ispg"]) >= VOLUME_STACK:
        odd.append("marked as a stack of volumes; its sections are taken one by one")
    return [f"{path.name}: {sentence}" for sentence in odd]
