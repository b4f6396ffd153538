"""Sums and ratios on half volumes, and their shells, in plain torch: see kernels.reference.

What is made of large sums on the way is made of some planes at a time: in float64 it would take ten times the memory of
the sums.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from halfmap.kernels.evening import Evening

POINTS = 1 << 22  # of a half volume that are worked on at once


def sums_at(index: Tensor, values: Tensor, count: int) -> Tensor:
    """See kernels.sums_at. Slices along the first axis are added up by themselves first: on a GPU fewer additions meet
    at one place."""
    rows = index.flatten(1) if index.dim() > 1 else index[None]
    first = torch.arange(len(rows), device=index.device)[:, None] * count
    out = torch.zeros(len(rows) * count, dtype=torch.float64, device=values.device)
    out.index_add_(0, (rows + first).flatten(), values.double().flatten())
    return out.view(len(rows), count).sum(dim=0)


def shell_products(first: Tensor, second: Tensor, columns: Tensor) -> Tensor:
    """See kernels.shell_products."""
    box, count = len(first), len(first) // 2 + 1
    k = torch.fft.fftfreq(box, 1 / box, device=first.device)
    x = torch.arange(count, device=first.device)
    total = torch.zeros((count, 3), dtype=torch.float64, device=first.device)
    for z in _planes(first):
        shell = (k[z, None, None].square() + k[:, None].square() + x.square()).sqrt().round().long().clamp(max=count)
        a, b = first[z].to(torch.complex128), second[z].to(torch.complex128)
        products = ((a * b.conj()).real, a.abs().square(), b.abs().square())
        total += torch.stack([sums_at(shell, p * columns.double(), count + 1)[:count] for p in products], dim=1)
    return total


def weight_by_shell(sums: Tensor, padding: int, shells: int) -> tuple[Tensor, Tensor]:
    """See kernels.weight_by_shell."""
    total, count = (torch.zeros(shells, dtype=torch.float64, device=sums.device) for _ in range(2))
    for z in _planes(sums):
        shell = (_radius(sums, z) / padding).round().long().clamp(max=shells)
        total += sums_at(shell, sums[z, ..., 2], shells + 1)[:shells]
        count += sums_at(shell, torch.ones_like(shell), shells + 1)[:shells]
    return total, count


def inverse_weight_by_shell(sums: Tensor, floor: Tensor, padding: int) -> Tensor:
    """See kernels.inverse_weight_by_shell."""
    shells = len(floor)
    least = torch.cat([floor.double(), floor.new_ones(1, dtype=torch.float64)]).to(sums.device)
    total = torch.zeros(shells, dtype=torch.float64, device=sums.device)
    for z in _planes(sums):
        shell = (_radius(sums, z) / padding).round().long().clamp(max=shells)
        inverse = 1 / torch.maximum(sums[z, ..., 2].double(), least[shell]).clamp_min(1e-20)
        total += sums_at(shell, inverse, shells + 1)[:shells]
    return total


def divided(sums: Tensor, ridge: Tensor, floor: Tensor, padding: int, share: Tensor | None = None) -> Tensor:
    """See kernels.divided."""
    out = torch.empty(sums.shape[:3], dtype=sums.dtype.to_complex(), device=sums.device)
    for z in _planes(sums):
        out[z] = _ratio(sums[z], _radius(sums, z) / padding, ridge, floor, share)
    return out


def ratio_difference(
    first: Tensor, second: Tensor, floor: Tensor, padding: int, extent: int, fold: bool, evening: Evening | None = None
) -> Tensor:
    """See kernels.ratio_difference."""
    off = first.shape[2] - 1 - extent
    both = [sums[off : len(sums) - off, off : len(sums) - off, : extent + 1] for sums in (first, second)]
    edges = [_folded(sums[:, :, 0]) if fold else sums[:, :, 0] for sums in both]
    out = torch.empty(both[0].shape[:3], dtype=first.dtype.to_complex(), device=first.device)
    for z in _planes(both[0]):
        radius = _radius(both[0], z)
        parts = [sums[z].clone() for sums in both]
        for part, edge in zip(parts, edges, strict=True):
            part[:, :, 0] = edge[z]
        inside = radius <= padding * len(floor)
        ratios = [_ratio(part, radius / padding, torch.zeros_like(floor), floor, None) * inside for part in parts]
        out[z] = ratios[0] - ratios[1]
        if evening is not None:
            weight = parts[0][..., 2] + parts[1][..., 2]
            share, added = _between_shells(radius / padding, evening.share, evening.added)
            out[z] *= (weight / torch.maximum(weight, share * weight + added).clamp_min(1e-20)).to(weight)
    return out


def _folded(plane: Tensor) -> Tensor:
    """The plane x = 0 [z, y, 3] of sums with the Friedel mates of its points added."""
    return plane + plane.flip(0, 1) * plane.new_tensor([1.0, -1.0, 1.0])


def _ratio(sums: Tensor, radius: Tensor, ridge: Tensor, floor: Tensor, share: Tensor | None) -> Tensor:
    """Some planes [z, y, x] of `divided`; radius [z, y, x]: in shells."""
    added, least, part = _between_shells(radius, ridge, floor, torch.zeros_like(floor) if share is None else share)
    weight = sums[..., 2]
    below = torch.maximum(weight + added, part * weight + least).clamp_min(1e-20).to(sums.dtype)
    return torch.complex(sums[..., 0] / below, sums[..., 1] / below)


def _between_shells(radius: Tensor, *profiles: Tensor) -> list[Tensor]:
    """Interpolate profiles [s] at radius [z, y, x]: linear between shells, float64."""
    last = len(profiles[0]) - 1
    radius = radius.clamp(max=last)
    low = radius.floor().long().clamp(max=max(0, last - 1))
    high, fraction = (low + 1).clamp(max=last), radius - low
    return [p.to(radius)[low] * (1 - fraction) + p.to(radius)[high] * fraction for p in profiles]


def _planes(sums: Tensor) -> Iterator[slice]:
    """Planes [z, y, x, ..] that are worked on together: a GPU has no room for all of a large array."""
    step = max(1, POINTS // (sums.shape[1] * sums.shape[2]))
    return (slice(first, first + step) for first in range(0, len(sums), step))


def _radius(sums: Tensor, z: slice) -> Tensor:
    """|q| in padded pixels at the planes z of a half volume [z, y, x], float64."""
    m = sums.shape[2] - 1
    q = torch.arange(-m, m + 1, dtype=torch.float64, device=sums.device)
    return (q[z, None, None].square() + q[:, None].square() + q[m:].square()).sqrt()
