"""Sums over a point group in plain torch; kernels/symmetry.py says how."""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.kernels import reference, reference_volume
from halfmap.kernels.symmetry import (
    GroupParts,
    Lookups,
    lookups_about_z,
    lookups_free,
    orbit_images,
    profile_at,
    sharpening,
)

CHUNK = 1 << 20  # points that are worked on at once
MATE = (1.0, -1.0, 1.0)  # what (re, im, weight) are multiplied by on the other side of the origin
TINY = 1e-30


def symmetrise(accumulator: Tensor, parts: GroupParts, radius: float, padding: int) -> Tensor:
    """See kernels.symmetrise_."""
    square = _square_distances(accumulator)
    inside = (square <= radius * radius)[..., None]
    total = _on_grid(accumulator, parts.on_grid)
    out = torch.where(inside, total, 0)
    if not parts.interpolated:
        return out
    weight, count = reference_volume.weight_by_shell(total, 1, total.shape[2])
    mean = profile_at(weight / count.clamp_min(1), square)
    taps = sharpening(padding).to(out)
    flat = total * torch.where(mean > 0, 1 / mean, 0).to(out)[..., None]
    del total, inside, square  # arrays of this size are dear
    values = torch.cat([(flat[:, :, 1 : len(taps) + 1] * flat.new_tensor(MATE)).flip(0, 1, 2), flat], dim=2)
    del flat
    values = _sharpened(values, taps, 2)
    values = _sharpened(values[:, :, len(taps) :], taps, 1)
    _add_turned_(out, values, lookups_about_z(parts.about_z), mean, radius)
    _add_turned_(out, _sharpened(values, taps, 0), lookups_free(parts.free, padding), mean, radius)
    return _of_first_points(out, parts.on_grid)


def _square_distances(sums: Tensor) -> Tensor:
    """|q|^2 [z, y, x] in padded units, float64."""
    m = sums.shape[2] - 1
    q = torch.arange(-m, m + 1, dtype=torch.float64, device=sums.device)
    return q[:, None, None].square() + q[:, None].square() + q[m:].square()


def _on_grid(sums: Tensor, operators: Tensor) -> Tensor:
    """Sum over signed permutations of the axes [o, 3, 3], over the whole half volume."""
    m = sums.shape[2] - 1
    axis = torch.arange(-m, m + 1, device=sums.device)
    out = torch.empty_like(sums)
    planes = max(1, CHUNK // sums[0, ..., 0].numel())
    for z0 in range(0, len(sums), planes):
        z, y, x = torch.meshgrid(axis[z0 : z0 + planes], axis, axis[m:], indexing="ij")
        total = torch.zeros((*x.shape, 3), dtype=torch.float64, device=sums.device)
        for g in operators.tolist():
            tx, ty, tz = (row[0] * x + row[1] * y + row[2] * z for row in g)
            sign = torch.where(tx < 0, -1, 1)
            value = sums[sign * tz + m, sign * ty + m, sign * tx]
            total += torch.where((tx < 0)[..., None], value * value.new_tensor(MATE), value)
        out[z0 : z0 + planes] = total
    return out


def _of_first_points(sums: Tensor, on_grid: Tensor) -> Tensor:
    """The value at the first point of every orbit, at all of its points; real where a point's mate is one of them."""
    m, out = sums.shape[2] - 1, torch.empty_like(sums)
    side, width = 2 * m + 1, m + 1
    centre = (m * side + m) * width
    axis = torch.arange(-m, m + 1, device=sums.device)
    y, x = axis[:, None], axis[m:]
    for plane, z in zip(out, axis.tolist(), strict=True):
        own = (z * side + y) * width + x
        first, turned, real = own, torch.zeros_like(own, dtype=torch.bool), torch.zeros_like(own, dtype=torch.bool)
        for a, b, c, p, q, r in orbit_images(on_grid, side).tolist():
            along, place = a * x + b * y + c * z, p * x + q * y + r * z
            real |= (along == -x) & (place == -own)
            mate = (along < 0) | ((along == 0) & (place > 0))
            place = torch.where(mate, -place, place)
            turned = torch.where(place < first, mate, turned)
            first = torch.minimum(place, first)
        plane.copy_(sums.reshape(-1, 3)[first + centre])
        plane[..., 1] *= torch.where(real, 0, torch.where(turned, -1, 1))
    return out


def _sharpened(values: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Values [.., 3] with numerators sharpened along an axis by the taps [k]."""
    out = values.clone()
    for k in range(1, min(len(taps), values.shape[axis] - 1) + 1):
        count = values.shape[axis] - k
        low, high = values.narrow(axis, 0, count), values.narrow(axis, k, count)
        share = 2 * taps[k - 1] / (low[..., 2:] + high[..., 2:] + TINY)
        flow = share * (high[..., :2] * low[..., 2:] - low[..., :2] * high[..., 2:])
        out.narrow(axis, 0, count)[..., :2] += flow
        out.narrow(axis, k, count)[..., :2] -= flow
    return out


def _add_turned_(out: Tensor, values: Tensor, lookups: Lookups, mean: Tensor, radius: float) -> None:
    """Add the values at every lookup, times the mean [z, y, x], to out where |q| <= radius."""
    m = out.shape[2] - 1
    inside = _square_distances(out) <= radius * radius
    planes = max(1, CHUNK // inside[0].numel())
    for z0 in range(0, len(out) if len(lookups) else 0, planes):
        z, y, x = (inside[z0 : z0 + planes].nonzero() + torch.tensor([z0, 0, 0], device=out.device)).unbind(1)
        q = torch.stack([x, y - m, z - m], dim=1).double()
        added = torch.zeros(len(q), 3, dtype=torch.float64, device=out.device)
        for turn, offset, share in zip(lookups.turns.to(q), lookups.offsets.to(q), lookups.shares.tolist(),
                                       strict=True):
            added += share * _interpolated(values, q @ turn.T + offset)
        out[z, y, x] += (mean[z, y, x][:, None] * added).to(out)


def _interpolated(values: Tensor, place: Tensor) -> Tensor:
    """Linear interpolation [n, 3] of values [z, y, x, 3] at place [n, 3] (x, y, z) from the origin."""
    mate = place[:, :1] < 0
    index, weights = reference.corners(torch.where(mate, -place, place)[None], values.shape[:3])
    index, w = index[0], weights[0].to(values.dtype)
    total = values.new_zeros(len(place), 3)
    for dz, dy, dx, offset in reference.corner_list(values.shape[:3]):
        total += (w[:, 2, dz] * w[:, 1, dy] * w[:, 0, dx])[:, None] * values.reshape(-1, 3)[index + offset]
    return torch.where(mate, total * total.new_tensor(MATE), total)
