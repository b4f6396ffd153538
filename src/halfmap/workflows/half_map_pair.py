"""Read two half maps, with a mask and all FSC curves: how every command on half maps begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.maps.density import density_of
from halfmap.maps.grid import AT_ZERO, Placement
from halfmap.maps.masks import solvent_mask
from halfmap.maps.mrc import MapFile, read_map
from halfmap.validation.fsc import FscCurves, corrected_fsc, crossing_shell, mask_verdict, resolution
from halfmap.validation.mask_share import share_verdict

AUTOMATIC = "automatic"  # name of a mask that was made from the maps
_SEED = 0  # of the randomised phases: the same maps give the same numbers
_DRAWS = 8  # of randomised phases, averaged


@dataclass(frozen=True)
class HalfMaps:
    """Two half maps [z,y,x] as read from their files, the pixel size in A, the mask [z,y,x], and all FSC curves.

    mask_name: where the mask comes from; placement: where the maps lie, and with them whatever is made from them;
    notes: on the files.
    """

    half1: Tensor
    half2: Tensor
    pixel_size: float
    mask: Tensor
    mask_name: str
    curves: FscCurves
    placement: Placement = AT_ZERO
    notes: tuple[Finding, ...] = ()

    @property
    def like(self) -> MapFile:
        """The first half map as it was read: other maps must be on its grid."""
        return MapFile(self.half1, self.pixel_size, self.placement)

    @property
    def box(self) -> int:
        """Side of the maps in voxels."""
        return self.half1.shape[-1]

    @property
    def mask_share(self) -> float:
        """Volume of the mask as a share of the box."""
        return float(self.mask.mean(dtype=torch.float64))

    def resolution(self, name: str, threshold: float) -> float | None:
        """Resolution in A at which the named curve falls below the threshold; None if it never does."""
        curve = getattr(self.curves, name)
        if crossing_shell(curve, threshold) is None:
            return None
        return resolution(curve, self.box, self.pixel_size, threshold)

    def record(self) -> dict[str, Any]:
        """Grid, resolutions and curves, under the names that a refinement's records use."""
        curves, box, pixel_size = self.curves, self.box, self.pixel_size
        return {
            "box": box, "pixel_size": pixel_size,
            "resolution_A": resolution(curves.unmasked, box, pixel_size),
            "resolution_05_A": resolution(curves.unmasked, box, pixel_size, 0.5),
            "fsc": curves.unmasked.tolist(), "fsc_spherical": curves.spherical.tolist(),
            "fsc_masked": curves.masked.tolist(), "fsc_randomised": curves.randomised.tolist(),
            "fsc_corrected": curves.corrected.tolist(),
        }  # fmt: skip

    def verdict(self) -> list[Finding]:
        """What is to be said of the files, the curves and the mask; empty where nothing is unusual."""
        found = [*mask_verdict(self.curves, self.box, self.pixel_size), *self.notes]
        if self.mask_name == AUTOMATIC:
            return found
        density = density_of((self.half1 + self.half2) / 2, self.pixel_size)
        # The mask of a focused refinement holds a part on purpose.
        return share_verdict(density, self.mask, self.mask_name, partial=True) + found


@dataclass(frozen=True)
class NamedMap:
    """A map as it was read, and what messages call it: its path, or a word."""

    name: Path
    read: MapFile


def read_half_maps(half1: Path, half2: Path, mask: Path | None, diameter: float | None) -> HalfMaps:
    """Read two half maps and compute their FSC curves.

    mask: None to make one from the mean of the half maps. diameter (A): of the spherical mask, which also bounds the
    mask made here. Raises InputError where maps are not on one grid, are constant or are equal, where the mask
    is not a mask, or where a file cannot be read.
    """
    named = None if mask is None else NamedMap(mask, read_map(mask, outside=0.0))
    return half_map_pair(NamedMap(half1, read_map(half1)), NamedMap(half2, read_map(half2)), named, diameter)


def half_map_pair(one: NamedMap, other: NamedMap, mask: NamedMap | None, diameter: float | None) -> HalfMaps:
    """The same for maps that have been read. Raises InputError as `read_half_maps` does."""
    first, second = one.read, other.read
    require_same_voxels(first, second, one.name, other.name)
    for half in (one, other):
        if half.read.data.min() == half.read.data.max():
            raise InputError(f"{half.name}: the map is {float(half.read.data.min()):g} everywhere; give one with "
                             "density")
    if torch.equal(first.data, second.data):
        raise InputError(f"{other.name}: holds the same map as {one.name}; give the one of the other half set")
    box, pixel_size = first.data.shape[-1], first.pixel_size
    if diameter is not None and not 0 < diameter <= box * pixel_size:
        raise InputError(f"--diameter {diameter:g}: must lie between 0 and the box length, {box * pixel_size:g} A")
    if mask is None:
        weights, name = solvent_mask((first.data + second.data) / 2, pixel_size, diameter), AUTOMATIC
    else:
        weights, name = _as_mask(mask, first, one.name).data, str(mask.name)
    radius = None if diameter is None else diameter / (2 * pixel_size)
    generator = torch.Generator().manual_seed(_SEED)
    curves = corrected_fsc(first.data, second.data, weights, generator, sphere_radius=radius, draws=_DRAWS)
    files = {named.name: named.read for named in (one, other, mask) if named is not None}
    return HalfMaps(first.data, second.data, pixel_size, weights, name, curves, first.placement, file_notes(files))


def require_same_grid(first: MapFile, other: MapFile, first_path: Path, other_path: Path) -> None:
    """Raise InputError where two maps differ in box or pixel size."""
    box, other_box = first.data.shape[-1], other.data.shape[-1]
    if box != other_box:
        raise InputError(
            f"{other_path}: box {other_box}, but {first_path} has box {box}; "
            "give maps of one reconstruction, or resample one of them"
        )
    if abs(first.pixel_size / other.pixel_size - 1) > 1e-3:
        raise InputError(
            f"{other_path}: pixel size {other.pixel_size:g} A, but {first_path} has {first.pixel_size:g} A; "
            "correct the pixel size in the header of the file that is wrong"
        )


def require_same_voxels(first: MapFile, other: MapFile, first_path: Path, other_path: Path) -> None:
    """As `require_same_grid`, and raise InputError where padding to a cube put voxels of two maps beside each other.

    Two maps of one shape are compared voxel by voxel, wherever their headers place them. A map and one that was made
    from it after it was padded lie at the same place.
    """
    require_same_grid(first, other, first_path, other_path)
    if first.shape != other.shape and _apart(first, other):
        sides, other_sides = (" x ".join(map(str, (read.shape or tuple(read.data.shape))[::-1]))
                              for read in (first, other))
        raise InputError(f"{other_path}: {other_sides} voxels, but {first_path} has {sides}, and by their headers they "
                         "do not lie at the same place; give maps of one reconstruction, or resample one of them")


def file_notes(files: Mapping[Path, MapFile]) -> tuple[Finding, ...]:
    """What is to be said of maps used voxel by voxel: which were padded, and which lie elsewhere than the first."""
    like_path, like = next(iter(files.items()))
    padded = [words for path, read in files.items() if (words := read.padding(path))]
    apart = [path.name for path, read in files.items() if _apart(like, read)]
    found = [Finding("maps padded", "; ".join(padded), "maps", "note")] if padded else []
    if apart:
        text = (f"by their headers {', '.join(apart)} and {like_path.name} lie at different places; they are used "
                f"voxel by voxel, and what is made from them lies where {like_path.name} does")
        found.append(Finding("maps placed apart", text, "maps", "note"))
    return tuple(found)


def _apart(first: MapFile, other: MapFile) -> bool:
    """Whether two maps lie more than a tenth of a voxel apart by their headers."""
    places = [read.placement.corner(read.pixel_size) / read.pixel_size for read in (first, other)]
    return float((places[0] - places[1]).abs().max()) > 0.1


def read_mask(path: Path, like: MapFile, like_path: Path) -> MapFile:
    """Read a mask on the grid of a map, clipped to [0, 1]. Raises InputError where it is not such a mask."""
    return _as_mask(NamedMap(path, read_map(path, outside=0.0)), like, like_path)


def _as_mask(mask: NamedMap, like: MapFile, like_path: Path) -> MapFile:
    """The same for one that has been read."""
    require_same_voxels(like, mask.read, like_path, mask.name)
    low, high = float(mask.read.data.min()), float(mask.read.data.max())
    if low < -1e-3 or high > 1 + 1e-3 or high <= 0:
        raise InputError(f"{mask.name}: values from {low:g} to {high:g}, a mask has 0 to 1; threshold it first")
    return replace(mask.read, data=mask.read.data.clamp(0, 1))
