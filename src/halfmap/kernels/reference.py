"""The kernels in plain torch: the oracle of the tests, and the path of any device without compiled kernels."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from halfmap.kernels.poses import Samples

CHUNK = 1 << 22  # coefficients whose corners are held at once


def positions(
    coords: Tensor, axes: Tensor, dtype: torch.dtype, curvature: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Positions [r, k, 3] (x, y, z) on the x >= 0 side, and where Friedel's law was used [r, k].

    curvature [r]: slices lie so many times |coords|^2 above their plane, along the third of the axes [r, 3, 3].
    """
    q = torch.einsum("ka,rac->rkc", coords.to(dtype), axes[:, :2].to(dtype))
    if curvature is not None:
        height = curvature.to(dtype)[:, None] * coords.to(dtype).square().sum(-1)
        q = q + height[..., None] * axes[:, None, 2].to(dtype)
    flip = q[..., 0] < 0
    return torch.where(flip[..., None], -q, q), flip


def corners(q: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Flat index of the low corner [r, k], and per-axis weights [r, k, 2] for x, y, z stacked on dim -2."""
    m = (shape[0] - 1) // 2
    q = q + q.new_tensor([0.0, m, m])
    low = q.floor()
    f = q - low
    i = low.long()
    index = (i[..., 2] * shape[1] + i[..., 1]) * shape[2] + i[..., 0]
    return index, torch.stack([1 - f, f], dim=-1)


class Corner(NamedTuple):
    """One of the eight corners around a position: its steps along z, y and x, and its offset in the flat volume."""

    dz: int
    dy: int
    dx: int
    offset: int


def corner_list(shape: torch.Size) -> list[Corner]:
    steps = itertools.product((0, 1), repeat=3)
    return [Corner(dz, dy, dx, (dz * shape[1] + dy) * shape[2] + dx) for dz, dy, dx in steps]


def project_slices(volume: Tensor, coords: Tensor, axes: Tensor, curvature: Tensor | None = None) -> Tensor:
    """Trilinear slices [r, k] of volume[z, y, x] (complex, Hermitian half)."""
    real = volume.real.dtype
    flat = volume.reshape(-1)
    out = volume.new_empty((axes.shape[0], coords.shape[0]))
    step = max(1, CHUNK // max(1, coords.shape[0]))
    for r in range(0, axes.shape[0], step):
        bent = None if curvature is None else curvature[r : r + step]
        q, flip = positions(coords, axes[r : r + step], real, bent)
        index, w = corners(q, volume.shape)
        value = torch.zeros_like(index, dtype=volume.dtype)
        for dz, dy, dx, offset in corner_list(volume.shape):
            value += (w[..., 2, dz] * w[..., 1, dy] * w[..., 0, dx]) * flat[index + offset]
        out[r : r + step] = torch.where(flip, value.conj(), value)
    return out


def slices_and_slopes(volume: Tensor, coords: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Trilinear slices [r, k] and their slopes [r, k, a] along each of the axes [r, a, 3], of which the first two span
    the slices."""
    q, flip = positions(coords, axes, volume.real.dtype)
    index, w = corners(q, volume.shape)
    flat = volume.reshape(-1)
    value = torch.zeros_like(index, dtype=volume.dtype)
    gradient = torch.zeros((*index.shape, 3), dtype=volume.dtype, device=volume.device)
    for dz, dy, dx, offset in corner_list(volume.shape):
        corner = flat[index + offset]
        wz, wy, wx = w[..., 2, dz], w[..., 1, dy], w[..., 0, dx]
        value += wz * wy * wx * corner
        gradient[..., 0] += (2 * dx - 1) * wz * wy * corner
        gradient[..., 1] += (2 * dy - 1) * wz * wx * corner
        gradient[..., 2] += (2 * dz - 1) * wy * wx * corner
    # V(q) = conj V(-q): the conjugate's gradient has the opposite sign
    value = torch.where(flip, value.conj(), value)
    gradient = torch.where(flip[..., None], -gradient.conj(), gradient)
    return value, torch.einsum("rac,rkc->rka", axes.to(volume.dtype), gradient)


def slope_sums(volume: Tensor, mate: Tensor, coords: Tensor, axes: Tensor, data: Tensor, weight: Tensor) -> Tensor:
    """See kernels.slopes.slope_sums."""
    out = torch.zeros((5, coords.shape[0]), dtype=torch.float64, device=volume.device)
    step = max(1, CHUNK // (8 * max(1, coords.shape[0])))
    for r in range(0, axes.shape[0], step):
        some = slice(r, r + step)
        _, g = slices_and_slopes(volume, coords, axes[some])
        value, h = slices_and_slopes(mate, coords, axes[some])
        w, residual = weight[some], data[some] - weight[some] * value
        (gx, gy), (hx, hy) = g.unbind(-1), h.unbind(-1)
        products = (w * _real_product(gx, hx), 0.5 * w * (_real_product(gx, hy) + _real_product(gy, hx)),
                    w * _real_product(gy, hy), _real_product(gx, residual), _real_product(gy, residual))
        out += torch.stack([one.sum(dim=0, dtype=torch.float64) for one in products])
    return out


def _real_product(a: Tensor, b: Tensor) -> Tensor:
    """Re conj(a) b."""
    return a.real * b.real + a.imag * b.imag


def residual_sums(
    volume: Tensor, coords: Tensor, kxy: Tensor, shell: Tensor, box: int, y: Tensor, c: Tensor, weight: Tensor,
    scale: Tensor, axes: Tensor, shifts: Tensor,
) -> Tensor:  # fmt: skip
    """Sums float64 [b, s, 6] over shells, as kernels.residuals.ResidualSums has them one after the other."""
    angle = shifts @ kxy.double().T * (2 * math.pi / box)
    data = y * torch.polar(torch.ones_like(angle), angle).to(y.dtype)
    model = c * project_slices(volume, coords, axes)
    left = data - scale[:, None] * model
    product, square = data.real * model.real + data.imag * model.imag, model.real**2 + model.imag**2
    above = c > 0
    parts = (weight * (left.real**2 + left.imag**2), weight * square, product * above, product * ~above,
             square * above, square * ~above)
    out = torch.zeros(len(c), len(torch.bincount(shell)), 6, dtype=torch.float64, device=c.device)
    for i, part in enumerate(parts):
        out[..., i].index_add_(1, shell, part.double())
    return out


def insert_samples_(
    accumulator: Tensor, values: Tensor, weights: Tensor, coords: Tensor, kxy: Tensor, box: int, samples: Samples,
    kernel: str, curvature: Tensor | None,
) -> None:  # fmt: skip
    """See kernels.insert_slices_."""
    real = accumulator.dtype
    rows = 2 if curvature is None else 3
    axes, mass = samples.rotations[:, :rows].to(real), samples.mass.to(real)[:, None]
    bent = None if curvature is None else curvature[samples.image].to(real)
    angle = samples.shifts.double() @ kxy.double().T * (2 * math.pi / box)
    phase = torch.polar(torch.ones((), dtype=torch.float64, device=kxy.device), angle)
    insert = insert_gaussians_ if kernel == "gaussian" else insert_slices_
    shifted = mass * values[samples.image] * phase.to(values.dtype)
    insert(accumulator, shifted, mass * weights[samples.image], coords.to(real), axes, bent)


def insert_slices_(
    accumulator: Tensor, values: Tensor, weights: Tensor, coords: Tensor, axes: Tensor, curvature: Tensor | None = None
) -> None:
    """Scatter values[j, k] (complex) and weights[j, k] into accumulator[z, y, x, 3]."""
    flat = accumulator.view(-1, 3)
    shape = accumulator.shape[:3]
    step = max(1, CHUNK // max(1, coords.shape[0]))
    for r in range(0, axes.shape[0], step):
        bent = None if curvature is None else curvature[r : r + step]
        q, flip = positions(coords, axes[r : r + step], accumulator.dtype, bent)
        index, w = corners(q, shape)
        v = values[r : r + step]
        v = torch.where(flip, v.conj(), v)
        triple = torch.stack([v.real, v.imag, weights[r : r + step].to(v.real.dtype)], dim=-1).to(accumulator.dtype)
        for dz, dy, dx, offset in corner_list(shape):
            part = (w[..., 2, dz] * w[..., 1, dy] * w[..., 0, dx])[..., None] * triple
            flat.index_add_(0, (index + offset).reshape(-1), part.reshape(-1, 3))


def insert_gaussians_(
    accumulator: Tensor, values: Tensor, weights: Tensor, coords: Tensor, axes: Tensor, curvature: Tensor | None = None
) -> None:
    """The same onto the 27 grid points about the nearest, weights exp(-|d|^2 / 2), which add up to 1 on average."""
    total = gaussian_total()
    m = accumulator.shape[2] - 1
    step = max(1, CHUNK // max(1, coords.shape[0]))
    for r in range(0, axes.shape[0], step):
        bent = None if curvature is None else curvature[r : r + step]
        q, flip = positions(coords, axes[r : r + step], accumulator.dtype, bent)
        v = values[r : r + step]
        v = torch.where(flip, v.conj(), v)
        nearest = (q + 0.5).floor()
        for d in itertools.product((-1, 0, 1), repeat=3):
            point = nearest + q.new_tensor(d)
            w = torch.exp(-0.5 * (point - q).square().sum(-1)) / total**3
            mate = point[..., 0] < 0  # points of the other half volume are stored as their Friedel mates
            x, y, z = torch.where(mate[..., None], -point, point).long().unbind(-1)
            part = torch.where(mate, v.conj(), v)
            triple = torch.stack([part.real, part.imag, weights[r : r + step].to(part.real.dtype)], dim=-1)
            index = ((z + m) * (2 * m + 1) + y + m) * (m + 1) + x
            accumulator.view(-1, 3).index_add_(0, index.reshape(-1), (w[..., None] * triple).reshape(-1, 3).to(q))


def gaussian_total() -> float:
    """What the weights of a point's three neighbours along an axis add up to on average."""
    return math.sqrt(2 * math.pi) * math.erf(1.5 / math.sqrt(2))


def soft_circles(box: int, radii: Tensor, edge: float, centres: Tensor) -> Tensor:
    """See kernels.soft_circles."""
    axis = torch.arange(box, dtype=torch.float32, device=radii.device)
    x, y = (axis - centres[:, a, None].to(axis) for a in (0, 1))
    distance = torch.hypot(y[:, :, None], x[:, None, :])
    ramp = ((distance - radii.to(axis)[:, None, None]) / edge).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * ramp)


def combined_transforms(first: Tensor, second: Tensor, size: int, gain1: Tensor, gain2: Tensor) -> Tensor:
    """Full transform [z, y, x] of the complex map that kernels.filtered_pair returns: gain1 first + i gain2 second.

    Some planes are made at a time: what they are made of on the way is seven times as large.
    """
    half = (size - 1) // 2
    k = torch.cat([torch.arange(half + 1), torch.arange(half + 1 - size, 0)]).to(first.device)
    # an even grid has one coefficient where a finer one has two: it is left out, unless the grids are equal
    paired = (k >= -half) | (size == first.shape[0] == second.shape[0])
    out = torch.empty((size, size, size), dtype=first.dtype, device=first.device)
    for low in range(0, size, max(1, CHUNK // size**2)):
        z = slice(low, low + max(1, CHUNK // size**2))
        square = k[z, None, None] ** 2 + k[:, None] ** 2 + k**2
        inside = paired[z, None, None] & paired[:, None] & paired
        one, other = (_planes_of(part, k, z) * inside for part in (first, second))
        out[z] = one * gain1[square] + 1j * (other * gain2[square])
    return out


def _planes_of(part: Tensor, k: Tensor, z: slice) -> Tensor:
    """Planes z [z, y, x] of the full transform at the frequencies k [n], of a map whose rfftn ``part`` is."""
    box = part.shape[0]
    direct = part[k[z] % box][:, k % box][:, :, k.abs()]
    mate = part[-k[z] % box][:, -k % box][:, :, k.abs()].conj()
    return torch.where(k >= 0, direct, mate)


def add_kept_bands_(out: Tensor, place: Tensor, pair: Tensor, node: int) -> None:
    """See kernels.add_kept_bands_."""
    out += band_kept(place - node) * pair.real + band_kept(place - node - 1) * pair.imag


def band_kept(t: Tensor) -> Tensor:
    """Fraction of a band that is kept where the cut-off lies t nodes above the band's own; t may be negative.

    Cubic convolution (Keys 1981, IEEE Trans. ASSP 29, 1153) gives weights to the filters of four nodes. A band is the
    difference between its node's filter and the one below. So it is kept with the sum of the weights of its own node
    and all higher ones.
    """
    whole = t.floor()
    f = t - whole
    before = ((-0.5 * f + 1.0) * f - 0.5) * f
    after = ((-1.5 * f + 2.0) * f + 0.5) * f
    after_next = (0.5 * f - 0.5) * f * f
    kept = (whole >= 1).to(f)
    kept = torch.where(whole == 0, 1 - before, kept)
    kept = torch.where(whole == -1, after + after_next, kept)
    return torch.where(whole == -2, after_next, kept)
