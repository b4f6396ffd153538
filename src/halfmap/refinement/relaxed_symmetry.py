"""Relaxed symmetry: particles that nearly have a point group, of which the map keeps a subgroup only.

A local search then starts from every pose that the group makes of a particle's best one, and the posterior says which
of these mates it is (RELION's --relax_sym).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.finding import Finding
from halfmap.fourier.transform import coarser_box, resample_volume
from halfmap.geometry.symmetry import coset_representatives, symmetry_group
from halfmap.maps.filters import lowpass
from halfmap.maps.rigid import moved
from halfmap.refinement.preflight import Reference

UNLIKE = 0.002  # share of the start's power; where mates differ by less, noise decides
FINE = 4  # voxels of the grid on which the start is turned, to one of the grid that would hold it: for splines


def mates_of(relaxed: str | None, kept: str) -> Tensor:
    """What leads from a pose to those that a relaxed group makes of it: float64 [m, 3, 3], the identity first.

    kept: the point group that the map keeps, which makes no difference. None relaxes nothing. Raises InputError where
    the kept group is not a part of the other.
    """
    symmetry = symmetry_group(kept)
    if relaxed is None:
        return symmetry[:1]
    try:
        mates = coset_representatives(symmetry_group(relaxed), symmetry)
    except ValueError:
        raise InputError(f"--relax-symmetry {relaxed}: has not all elements of --symmetry {kept}, which the map keeps; "
                         "take --symmetry C1 or a subgroup") from None
    if len(mates) == 1:
        raise InputError(f"--relax-symmetry {relaxed}: has nothing beyond --symmetry {kept}, which the map keeps; take "
                         "--symmetry C1 or a smaller subgroup")
    return mates


def alike_at_start(path: Path, start: Reference, mates: Tensor, resolution: float) -> list[Finding]:
    """A finding where the starting map, low-passed at this resolution (A), does not tell the mates apart.

    path: of the map. Half sets that begin with such a map break the symmetry by their own noise, each in its own way.
    """
    share = _unlike_share(start, mates, resolution)
    if share >= UNLIKE:
        return []
    text = (f"{path}: at {resolution:g} A only {100 * share:.2g} % of its power tells the mates apart, so that each "
            "half set may choose others, and the half maps then differ; give a map that shows the difference, or "
            f"--join-halves {resolution:g}, with which they choose together")
    return [Finding("mates alike in the start", text, "starting map")]


def _unlike_share(start: Reference, mates: Tensor, resolution: float) -> float:
    """Share of the power of a low-passed map that is not in the mean of its mates."""
    box, pixel_size = start.grid.box, start.grid.pixel_size
    smooth = lowpass(start.map, pixel_size, resolution)
    smooth = resample_volume(smooth, coarser_box(box, FINE * 2 * start.grid.length / resolution))
    pixel_size *= box / smooth.shape[-1]
    turned = [smooth, *(moved(smooth, mate, torch.zeros(3), pixel_size) for mate in mates[1:])]
    mean = torch.stack(turned).mean(dim=0)
    return float((smooth - mean).square().sum() / smooth.square().sum().clamp_min(1e-30))
