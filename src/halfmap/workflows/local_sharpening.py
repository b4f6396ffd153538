"""Filter a sharpened map at every voxel to its local cut-off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.maps.mrc import read_map
from halfmap.regularisation.local_filter import Butterworth, Lattice, locally_filtered
from halfmap.regularisation.nonuniform import NonUniform
from halfmap.workflows.half_map_pair import HalfMaps, require_same_grid

_POINTS = 128  # most lattice points along an axis: a cut-off is smooth


@dataclass(frozen=True)
class LocallyFiltered:
    """The filtered map [z,y,x] and its local cut-off theta [z,y,x] in A.

    source: in words, where the cut-off comes from; found_here: whether it was determined here rather than read.
    """

    map: Tensor
    theta: Tensor
    source: str
    found_here: bool


def locally_sharpened(v: Tensor, pair: HalfMaps, theta_path: Path | None) -> LocallyFiltered:
    """Filter a sharpened map v[z,y,x] to a local cut-off.

    The cut-off is read from theta_path, or determined by cross-validation between the half maps where that is None.
    The filter, a Butterworth low-pass, and the cross-validation are those of non-uniform refinement (`NonUniform`).
    Raises InputError where the file does not hold cut-offs on the grid of the half maps.
    """
    if theta_path is not None:
        theta = _read_theta(theta_path, pair)
        filtered = locally_filtered(v, _lattice(theta, pair.pixel_size), Butterworth())
        source = f"cut-offs that the refinement ended with ({theta_path.parent.name}/{theta_path.name})"
        return LocallyFiltered(filtered, theta, source, False)
    method = NonUniform()
    cutoff = method.agreed(pair.half1, pair.half2, pair.mask, pair.pixel_size)
    theta = pair.box * pair.pixel_size / cutoff.on_grid(pair.box)
    source = "cut-offs found by cross-validation between the half maps (non-uniform)"
    return LocallyFiltered(locally_filtered(v, cutoff, method.filter), theta, source, True)


def _read_theta(path: Path, pair: HalfMaps) -> Tensor:
    read = read_map(path)
    require_same_grid(pair.like, read, Path("the half maps"), path)
    lowest = float(read.data.min())
    if lowest <= 0:
        raise InputError(f"{path}: holds {lowest:g}, and a cut-off is a length above 0; refine or regularise again")
    return read.data


def _lattice(theta: Tensor, pixel_size: float) -> Lattice:
    """Cut-offs in cycles per box on a lattice symmetric about the box centre, from theta [z,y,x] in A."""
    box = theta.shape[0]
    spacing = max(1, round(box / _POINTS))
    at = Lattice.positions(box, spacing).round().long()
    part = theta[at][:, at][:, :, at]
    return Lattice(torch.full_like(part, box * pixel_size) / part, float(spacing), box)
