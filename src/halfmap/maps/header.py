"""What the header of an MRC file says beyond what reading the file needs, and what is odd about it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from halfmap.maps.mrc import read_header
from halfmap.maps.mrc_header import (
    HEADER_BYTES,
    SPACE_GROUPS,
    STACK_GROUP,
    USUAL_ORDER,
    VOLUME_STACKS,
    Contents,
    GreyValues,
    MrcHeader,
    contents,
)

SQUARE = 1e-3  # relative difference of a voxel's sides beyond which they count as different


@dataclass(frozen=True)
class HeaderFacts:
    """The facts of a file's header.

    kind: what the sections are; said: what the header says of the values; labels: its lines of text; odd: what is odd,
    a sentence each; fault: what makes the file useless, empty if nothing does.
    """

    header: MrcHeader
    kind: Contents
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
    expected = header.offset + header.shape.sections * header.image_bytes
    fault = ""
    if not header.compressed and (held := path.stat().st_size) < expected:
        fault = f"{path}: truncated: {held} of {expected} bytes are there; copy it again"
    return HeaderFacts(header, contents(header, path), said, labels, tuple(_oddities(path, header, raw)), fault)


def _oddities(path: Path, header: MrcHeader, raw: np.void) -> list[str]:
    odd = []
    voxel = header.voxel
    kind, group = contents(header, path), header.group
    is_map = kind == "map"
    if voxel.x <= 0:
        odd.append("no pixel size in the header; programs that read it from there fail")
    elif abs(voxel.y / voxel.x - 1) > SQUARE or (is_map and abs(voxel.z / voxel.x - 1) > SQUARE):
        odd.append(f"the sides of a voxel differ: {' x '.join(f'{side:.4g}' for side in voxel)} A; resample it, or "
                   "correct the header")
    if bytes(raw["map"])[:3] != b"MAP":
        odd.append("no MAP stamp; some programs refuse the file")
    if header.dtype.itemsize > 1 and header.dtype.byteorder == ">":
        odd.append("written in the byte order of other machines (big-endian)")
    if header.axes != USUAL_ORDER:
        odd.append(f"axes in order {tuple(header.axes)}, not {tuple(USUAL_ORDER)}")
    if is_map and not header.is_cube:
        odd.append(f"no cube; commands pad it to one of {max(header.shape)} voxels")
    if group not in (STACK_GROUP, *SPACE_GROUPS, *VOLUME_STACKS):
        odd.append(f"space group {group} is none; taken for {_article(kind)}, by its sides and sections")
    elif is_map and group == STACK_GROUP:
        shape = "a cube" if header.is_cube else "oblong"
        odd.append(f"marked as an image stack (space group 0) and is {shape}; taken for a map")
    return [f"{path.name}: {sentence}" for sentence in [*odd, *(_placement_oddities(header) if is_map else [])]]


def _placement_oddities(header: MrcHeader) -> list[str]:
    place, x = header.placement, header.voxel.x
    if not any(place.start) and not any(place.origin):
        return []
    odd = [f"start indices {tuple(place.start)} and origin {tuple(place.origin)} A: atomic models are placed by them "
           "and maps made from this one keep them; a refinement does not, there the particle's centre is voxel n // 2"]
    if any(place.origin) and place.contradictory(x):
        odd.append("start indices and origin place it differently; most programs of microscopy take the origin, those "
                   "of crystallography the start indices")
    return odd


def _article(kind: Contents) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
