"""Contour levels: the grey value at which a map is drawn as a surface."""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.maps.masks import spherical_mask

NOISE = 4.0  # a surface lies at least this many standard deviations of the solvent above its mean
CUBIC_ANGSTROM_PER_DALTON = 1.21  # 0.73 cm^3/g, the partial specific volume of protein


def molecular_volume(kilodaltons: float) -> float:
    """Volume in A^3 of a protein of this mass, at 1.21 A^3 to the dalton."""
    return 1000 * kilodaltons * CUBIC_ANGSTROM_PER_DALTON


def level_for_volume(volume: Tensor, cubic_angstrom: float, pixel_size: float) -> float:
    """Grey value above which a map [z,y,x] of `pixel_size` (A) holds a volume of `cubic_angstrom`, counted in voxels.

    Linear between the grey values of neighbouring ranks. A volume larger than the box gives the lowest value, and one
    below a voxel the highest.
    """
    values = volume.flatten()
    rank = min(max(cubic_angstrom / pixel_size**3, 1.0), float(len(values)))
    whole = int(rank)
    top = values.topk(min(whole + 1, len(values))).values
    above, below = float(top[whole - 1]), float(top[-1])
    return above + (rank - whole) * (below - above)


def contour_level(volume: Tensor, mask: Tensor | None = None) -> float:
    """A grey value at which to draw a map [z,y,x]: the one that best separates molecule from solvent.

    It splits the voxels inside the soft mask [z,y,x] (where it is above one half; without a mask, inside the box's
    sphere) into the two classes whose means lie furthest apart for their sizes (Otsu 1979, IEEE Trans. Syst. Man
    Cybern. 9, 62). It never lies within the noise: it is at least four standard deviations above the mean of what lies
    outside the mask.
    """
    inside = (mask if mask is not None else _inscribed(volume)) > 0.5
    values = volume[inside] if bool(inside.any()) else volume.flatten()
    values = values.double().sort().values.cpu()  # sums so far of numbers do not repeat on a GPU
    if len(values) < 2:
        return float(values[0])
    lower = torch.arange(1, len(values), dtype=torch.float64, device=values.device)
    upper = len(values) - lower
    sums = values.cumsum(0)
    between = lower * upper * (sums[:-1] / lower - (sums[-1] - sums[:-1]) / upper).square()
    best = int(between.argmax())
    level = 0.5 * float(values[best] + values[best + 1])
    outside = volume[mask < 0.01] if mask is not None else values[:0]
    if len(outside) > 1:
        level = max(level, float(outside.mean()) + NOISE * float(outside.double().std()))
    return min(level, float(values[-1]))


def _inscribed(volume: Tensor) -> Tensor:
    return spherical_mask(volume.shape[-1], volume.shape[-1] / 2, 0.0).to(volume.device)
