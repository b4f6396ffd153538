"""Soft masks: a sphere, and the envelope of the density that stands out of the solvent."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from halfmap.maps.filters import gaussian_lowpass

EXTEND, SOFT = 6.0, 8.0  # A: how far a mask reaches beyond the density, and the width of its edge
SPHERE_EDGE = 5.0  # voxels over which the sphere around a reference falls to zero
_LEVEL = 0.15  # threshold as a fraction of the height of the molecule's density; a detergent belt reaches a third of it
_NOISE = 4.0  # the threshold lies at least this many standard deviations of the solvent above its level
_VISIBLE = 8.0  # a map whose height is less than this many standard deviations of the solvent shows no molecule
_CORE_VOLUME = 1e4  # A^3 (8 kDa of protein): the density that this volume exceeds is the height of the molecule's
_FRAGMENT = 0.05  # components smaller than this fraction of the largest are noise


def spherical_mask(box: int, radius_px: float, edge_px: float) -> Tensor:
    """Soft ball around the centre voxel: float32 [z,y,x], 1 up to radius_px, then a cosine edge of edge_px to 0."""
    r = _radius(box)
    if edge_px <= 0:
        return (r <= radius_px).float()
    return 0.5 + 0.5 * (math.pi * ((r - radius_px) / edge_px).clamp(0, 1)).cos()


def solvent_mask(
    v: Tensor,
    pixel_size: float,
    diameter: float | None = None,
    *,
    lowpass: float = 15.0,
    threshold: float | None = None,
    extend: float = EXTEND,
    soft: float = SOFT,
) -> Tensor:
    """Soft mask around the density of a map v[z,y,x]: float32 [z,y,x] in [0, 1]. All lengths in A.

    The map is low-passed (Gaussian, 1/2 at `lowpass`) and thresholded inside the sphere of `diameter` (by default the
    largest sphere in the box). Components smaller than a twentieth of the largest are dropped. The rest is extended by
    `extend`, cavities that this closes are filled, and a cosine edge of width `soft` is added outside.

    threshold is in grey values of the low-passed map. By default it is solvent + max(0.15 H, 4 sd). The level and the
    sd of the solvent come from the shortest interval that holds a quarter of the voxels in the box's sphere; H is the
    height above that level that 10,000 A^3 exceed. Where H is below 8 sd nothing stands out of the noise, and the mask
    is the soft sphere. The mask is rather too large than too small on purpose: a tight mask adds an FSC of its own.
    """
    box = v.shape[-1]
    radius = box / 2 if diameter is None else min(diameter / (2 * pixel_size), box / 2)
    sphere = (_radius(box) <= radius).to(v.device)
    smooth = gaussian_lowpass(v, pixel_size, lowpass)
    level = automatic_threshold(smooth, sphere, pixel_size) if threshold is None else threshold
    core = sphere & (smooth > level) if level is not None else torch.zeros_like(sphere)
    if not bool(core.any()):
        edge = min(soft / pixel_size, radius / 2)
        return spherical_mask(box, min(radius, box / 2 - edge), edge).to(v.device)
    return _envelope(core, extend / pixel_size, soft / pixel_size)


def automatic_threshold(smooth: Tensor, sphere: Tensor, pixel_size: float) -> float | None:
    """Grey value that separates molecule from solvent in a smooth map [z,y,x], by the rule of `solvent_mask`.

    sphere[z,y,x] (bool) is where the molecule may be. None if nothing stands out of the noise.
    """
    inscribed = smooth[(_radius(smooth.shape[-1]) <= smooth.shape[-1] / 2).to(smooth.device)]
    solvent, sd = _solvent_level(inscribed)
    inside = smooth[sphere]
    rank = min(round(_CORE_VOLUME / pixel_size**3), len(inside) // 100) + 1
    height = float(inside.topk(rank).values[-1]) - solvent
    if height <= max(_VISIBLE * sd, 0.0):
        return None
    return solvent + max(_LEVEL * height, _NOISE * sd)


def _solvent_level(values: Tensor) -> tuple[float, float]:
    """Mode and sd of the most frequent grey value, from the shortest interval that holds a quarter of the values.

    A molecule that takes up half of the voxels hardly changes it. 25 % of a normal distribution lie within 0.3186 sd.
    """
    values = torch.from_numpy(np.sort(values.cpu().numpy()))  # many times faster than torch's
    held = max(len(values) // 4, 1)
    width = values[held:] - values[:-held]
    start = int(width.argmin())
    return float(values[start : start + held + 1].mean()), float(width[start]) / (2 * 0.3186)


def _envelope(core: Tensor, extend: float, soft: float) -> Tensor:
    """Soft mask [z,y,x] around a binary core [z,y,x]; lengths in voxels."""
    from scipy import ndimage

    label, number = ndimage.label(core.cpu().numpy())
    size = torch.from_numpy(ndimage.sum_labels(label > 0, label, range(number + 1)))
    size[0] = 0
    kept = (size >= _FRAGMENT * size.max())[torch.from_numpy(label).long()]

    margin = math.ceil(extend + soft) + 1
    window = tuple(
        slice(max(int(where.min()) - margin, 0), int(where.max()) + margin + 1)
        for where in torch.nonzero(kept, as_tuple=True)
    )
    distance = ndimage.distance_transform_edt(~kept[window].numpy())
    solid = torch.from_numpy(ndimage.binary_fill_holes(distance <= extend))
    ramp = ((torch.from_numpy(distance) - extend) / max(soft, 1e-6)).clamp(0, 1)
    mask = torch.zeros(core.shape, dtype=torch.float32)
    mask[window] = torch.where(solid, 1.0, 0.5 + 0.5 * (math.pi * ramp).cos()).float()
    return mask.to(core.device)


def _radius(box: int) -> Tensor:
    x = torch.arange(box, dtype=torch.float32) - box // 2
    return (x[:, None, None].square() + x[:, None].square() + x.square()).sqrt()
