"""The kernels in plain torch: the oracle of the tests, and the path of any device without compiled kernels."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from halfmap.kernels.evening import Evening

CHUNK = 1 << 22  # coefficients whose corners are held at once


def _positions(coords: Tensor, axes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Positions [r, k, 3] (x, y, z) on the x >= 0 side, and where Friedel's law was used [r, k]."""
    q = torch.einsum("ka,rac->rkc", coords.to(dtype), axes.to(dtype))
    flip = q[..., 0] < 0
    return torch.where(flip[..., None], -q, q), flip


def _corners(q: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Flat index of the low corner [r, k], and per-axis weights [r, k, 2] for x, y, z stacked on dim -2."""
    m = (shape[0] - 1) // 2
    q = q + q.new_tensor([0.0, m, m])
    low = q.floor()
    f = q - low
    i = low.long()
    index = (i[..., 2] * shape[1] + i[..., 1]) * shape[2] + i[..., 0]
    return index, torch.stack([1 - f, f], dim=-1)


def _offsets(shape: torch.Size) -> list[tuple[int, int, int, int]]:
    return [(dz, dy, dx, (dz * shape[1] + dy) * shape[2] + dx) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]


def project_slices(volume: Tensor, coords: Tensor, axes: Tensor) -> Tensor:
    """Trilinear slices [r, k] of volume[z, y, x] (complex, Hermitian half)."""
    real = volume.real.dtype
    flat = volume.reshape(-1)
    out = volume.new_empty((axes.shape[0], coords.shape[0]))
    step = max(1, CHUNK // max(1, coords.shape[0]))
    for r in range(0, axes.shape[0], step):
        q, flip = _positions(coords, axes[r : r + step], real)
        index, w = _corners(q, volume.shape)
        value = torch.zeros_like(index, dtype=volume.dtype)
        for dz, dy, dx, offset in _offsets(volume.shape):
            value += (w[..., 2, dz] * w[..., 1, dy] * w[..., 0, dx]) * flat[index + offset]
        out[r : r + step] = torch.where(flip, value.conj(), value)
    return out


def insert_slices_(
    accumulator: Tensor, values: Tensor, weights: Tensor, coords: Tensor, axes: Tensor
) -> None:
    """Scatter values[j, k] (complex) and weights[j, k] into accumulator[z, y, x, 3]."""
    flat = accumulator.view(-1, 3)
    shape = accumulator.shape[:3]
    step = max(1, CHUNK // max(1, coords.shape[0]))
    for r in range(0, axes.shape[0], step):
        q, flip = _positions(coords, axes[r : r + step], accumulator.dtype)
        index, w = _corners(q, shape)
        v = values[r : r + step]
        v = torch.where(flip, v.conj(), v)
        triple = torch.stack([v.real, v.imag, weights[r : r + step].to(v.real.dtype)], dim=-1).to(accumulator.dtype)
        for dz, dy, dx, offset in _offsets(shape):
            part = (w[..., 2, dz] * w[..., 1, dy] * w[..., 0, dx])[..., None] * triple
            flat.index_add_(0, (index + offset).reshape(-1), part.reshape(-1, 3))


def insert_gaussians_(
    accumulator: Tensor, values: Tensor, weights: Tensor, coords: Tensor, axes: Tensor
) -> None:
    """The same onto the 27 grid points about the nearest, weights exp(-|d|^2 / 2), which add up to 1 on average."""
    total = math.sqrt(2 * math.pi) * math.erf(1.5 / math.sqrt(2))
    m = accumulator.shape[2] - 1
    step = max(1, CHUNK // max(1, coords.shape[0]))
    for r in range(0, axes.shape[0], step):
        q, flip = _positions(coords, axes[r : r + step], accumulator.dtype)
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


def _slice_jacobian(volume: Tensor, coords: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Slices [j, k] and their derivative [j, 3, k] to the left perturbation w of R <- exp([w]x) R."""
    real = volume.real.dtype
    rot = rotations.to(real)
    q, flip = _positions(coords, rot[:, :2], real)
    index, w = _corners(q, volume.shape)
    flat = volume.reshape(-1)
    value = torch.zeros_like(index, dtype=volume.dtype)
    gradient = torch.zeros((*index.shape, 3), dtype=volume.dtype, device=volume.device)
    for dz, dy, dx, offset in _offsets(volume.shape):
        corner = flat[index + offset]
        wz, wy, wx = w[..., 2, dz], w[..., 1, dy], w[..., 0, dx]
        value += wz * wy * wx * corner
        gradient[..., 0] += (2 * dx - 1) * wz * wy * corner
        gradient[..., 1] += (2 * dy - 1) * wz * wx * corner
        gradient[..., 2] += (2 * dz - 1) * wy * wx * corner
    # V(q) = conj V(-q): the conjugate's gradient has the opposite sign
    value = torch.where(flip, value.conj(), value)
    gradient = torch.where(flip[..., None], -gradient.conj(), gradient)
    g = torch.einsum("jac,jkc->jka", rot.to(volume.dtype), gradient)
    u, v = coords[:, 0].to(real), coords[:, 1].to(real)
    jacobian = torch.stack([-v * g[..., 2], u * g[..., 2], v * g[..., 0] - u * g[..., 1]], dim=1)
    return value, jacobian


def pose_objective(
    volume: Tensor, coords: Tensor, kxy: Tensor, y: Tensor, c: Tensor, pose: tuple[Tensor, Tensor], box: int,
    prior: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gain [j], gradient [j, 5] and Gauss-Newton precision [j, 5, 5] (float64) of images y[j, k], c[j, k] at a pose."""
    rotations, shifts = pose
    value, slope = _slice_jacobian(volume, coords, rotations)
    turn = 2 * math.pi / box
    freq = turn * kxy.to(shifts.dtype)
    phase = torch.polar(torch.ones((), dtype=shifts.dtype, device=shifts.device), shifts @ freq.T).to(y.dtype)
    data, model = y * phase, c * value
    residual = data - model
    jacobian = torch.cat([c[:, None] * slope, -1j * freq.T.to(model.real.dtype) * model[:, None]], dim=1)
    jr = torch.view_as_real(jacobian).flatten(2).double()
    rr = torch.view_as_real(residual).flatten(1).double()
    hessian = 2 * jr @ jr.transpose(1, 2)
    gradient = 2 * torch.einsum("jpk,jk->jp", jr, rr)
    gain = (data.real**2 + data.imag**2 - residual.real**2 - residual.imag**2).double().sum(1)
    gain = gain - 0.5 * prior * (shifts**2).sum(1)
    gradient[:, 3:] -= prior * shifts
    hessian[:, 3, 3] += prior
    hessian[:, 4, 4] += prior
    return gain, gradient, hessian


def _rotation_exponential(w: Tensor) -> Tensor:
    """exp([w]x) for rotation vectors w[j, 3]."""
    zero = torch.zeros_like(w[:, 0])
    rows = [zero, -w[:, 2], w[:, 1], w[:, 2], zero, -w[:, 0], -w[:, 1], w[:, 0], zero]
    return torch.linalg.matrix_exp(torch.stack(rows, dim=1).view(-1, 3, 3))


def refine_poses(
    volume: Tensor, coords: Tensor, kxy: Tensor, y: Tensor, c: Tensor, image: Tensor, rotations: Tensor, shifts: Tensor,
    options: tuple[float, float, float, float, float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Levenberg-Marquardt of every start at once; same steps and acceptance rule as the compiled kernel."""
    box, steps, prior, tolerance, max_step = options
    step_size = max(1, CHUNK // (8 * max(1, coords.shape[0])))
    parts = []
    for j in range(0, len(image), step_size):
        take = image[j : j + step_size]
        yj, cj = y[take], c[take]
        rot, shift = rotations[j : j + step_size].double().clone(), shifts[j : j + step_size].double().clone()

        def objective(pose: tuple[Tensor, Tensor], yj: Tensor = yj, cj: Tensor = cj) -> tuple[Tensor, Tensor, Tensor]:
            return pose_objective(volume, coords, kxy, yj, cj, pose, int(box), prior)

        value, gradient, hessian = objective((rot, shift))
        damping = torch.full_like(value, 1e-2)
        active = torch.ones_like(value, dtype=torch.bool)
        for _ in range(int(steps)):
            diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
            damped = hessian + torch.diag_embed(damping[:, None] * diagonal + 1e-12)
            step = torch.linalg.solve(damped, gradient)
            angle = step[:, :3].norm(dim=1)
            step = step * torch.clamp(max_step / angle.clamp_min(1e-30), max=1.0)[:, None]
            active &= 0.5 * (step * gradient).sum(1) >= tolerance
            if not bool(active.any()):
                break
            trial = (_rotation_exponential(step[:, :3]) @ rot, shift + step[:, 3:])
            new_value, new_gradient, new_hessian = objective(trial)
            better = active & (new_value > value)
            rot = torch.where(better[:, None, None], trial[0], rot)
            shift = torch.where(better[:, None], trial[1], shift)
            value = torch.where(better, new_value, value)
            gradient = torch.where(better[:, None], new_gradient, gradient)
            hessian = torch.where(better[:, None, None], new_hessian, hessian)
            damping = torch.where(better, (damping * 0.2).clamp_min(1e-6), (damping * 8).clamp_min(1e-3))
            active &= damping <= 1e6
        parts.append((rot, shift, value, hessian))
    if not parts:
        empty = rotations.new_zeros(0, dtype=torch.float64)
        return rotations.double(), shifts.double(), empty, empty.reshape(0, 5, 5)
    return tuple(torch.cat(p) for p in zip(*parts, strict=True))  # type: ignore[return-value]


def best_shift(cross_re: Tensor, cross_im: Tensor, norm: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [b, 2, r] maximised over shifts, and the shift chosen; see numba_search.best_shift_range."""
    prior = log_prior[None, :, None]
    both = torch.stack([cross_re + cross_im + prior, cross_re - cross_im + prior], dim=1)
    score, shift = both.max(dim=2)
    return score - norm[:, None], shift.to(torch.int16)


def symmetrise(accumulator: Tensor, operators: Tensor, radius: float) -> Tensor:
    """See kernels.symmetrise; trilinear."""
    m = (accumulator.shape[0] - 1) // 2
    axis = torch.arange(-m, m + 1, device=accumulator.device, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis[m:], indexing="ij")
    inside = x * x + y * y + z * z <= radius * radius
    q = torch.stack([x[inside], y[inside], z[inside]], dim=-1)
    numerator = torch.view_as_complex(accumulator[..., :2].contiguous())
    weight = accumulator[..., 2].to(numerator.dtype)
    out = torch.zeros_like(accumulator)
    total = q.new_zeros((len(q), 3)).to(accumulator.dtype)
    for g in operators.to(q):
        turned = q @ g.T
        flip = turned[:, 0] < -1e-9
        turned = torch.where(flip[:, None], -turned, turned)
        turned[:, 0].abs_()
        index, w = _corners(turned[None], accumulator.shape[:3])
        index, w = index[0], w[0].to(accumulator.dtype)
        for dz, dy, dx, offset in _offsets(accumulator.shape[:3]):
            # a zero weight may point one row past the edge of the half volume
            c = w[:, 2, dz] * w[:, 1, dy] * w[:, 0, dx]
            at = torch.where(c == 0, index, index + offset)
            value = numerator.reshape(-1)[at]
            total[:, 0] += c * value.real
            total[:, 1] += c * torch.where(flip, -value.imag, value.imag)
            total[:, 2] += c * weight.reshape(-1)[at].real
    out[inside] = total
    return out


def combined_transforms(first: Tensor, second: Tensor, size: int, gain1: Tensor, gain2: Tensor) -> Tensor:
    """Full transform [z, y, x] of the complex map that kernels.filtered_pair returns: gain1 first + i gain2 second."""
    half = (size - 1) // 2
    k = torch.cat([torch.arange(half + 1), torch.arange(half + 1 - size, 0)]).to(first.device)
    square = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    # an even grid has one coefficient where a finer one has two: it is left out, unless the grids are equal
    paired = (k >= -half) | (size == first.shape[0] == second.shape[0])
    inside = paired[:, None, None] & paired[:, None] & paired

    def full(part: Tensor) -> Tensor:
        box = part.shape[0]
        direct = part[k % box][:, k % box][:, :, k.abs()]
        mate = part[-k % box][:, -k % box][:, :, k.abs()].conj()
        return torch.where(k >= 0, direct, mate) * inside

    return full(first) * gain1[square] + 1j * (full(second) * gain2[square])


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


def weight_by_shell(sums: Tensor, padding: int, shells: int) -> tuple[Tensor, Tensor]:
    """See kernels.weight_by_shell."""
    shell = (_half_volume_radius(sums) / padding).round().long().clamp(max=shells).flatten()
    total = torch.bincount(shell, sums[..., 2].double().flatten(), shells + 1)
    return total[:shells], torch.bincount(shell, minlength=shells + 1)[:shells].double()


def inverse_weight_by_shell(sums: Tensor, floor: Tensor, padding: int) -> Tensor:
    """See kernels.inverse_weight_by_shell."""
    shells = len(floor)
    shell = (_half_volume_radius(sums) / padding).round().long().clamp(max=shells)
    least = torch.cat([floor.double(), floor.new_ones(1, dtype=torch.float64)]).to(sums.device)[shell]
    inverse = 1 / torch.maximum(sums[..., 2].double(), least).clamp_min(1e-20)
    return torch.bincount(shell.flatten(), inverse.flatten(), shells + 1)[:shells]


def divided(sums: Tensor, ridge: Tensor, floor: Tensor, padding: int, share: Tensor | None = None) -> Tensor:
    """See kernels.divided."""
    share = torch.zeros_like(floor) if share is None else share
    added, least, part = _between_shells(sums, padding, ridge, floor, share)
    weight = sums[..., 2]
    below = torch.maximum(weight + added, part * weight + least).clamp_min(1e-20).to(sums.dtype)
    return torch.complex(sums[..., 0] / below, sums[..., 1] / below)


def ratio_difference(
    first: Tensor, second: Tensor, floor: Tensor, padding: int, extent: int, fold: bool, evening: Evening | None = None
) -> Tensor:
    """See kernels.ratio_difference."""
    ratios, parts = [], []
    for sums in (first, second):
        off = sums.shape[2] - 1 - extent
        part = sums[off : len(sums) - off, off : len(sums) - off, : extent + 1].clone()
        if fold:
            plane = part[:, :, 0]
            part[:, :, 0] = plane + plane.flip(0, 1) * plane.new_tensor([1.0, -1.0, 1.0])
        inside = _half_volume_radius(part) <= padding * len(floor)
        ratios.append(divided(part, torch.zeros_like(floor), floor, padding) * inside)
        parts.append(part)
    difference = ratios[0] - ratios[1]
    if evening is None:
        return difference
    weight = parts[0][..., 2] + parts[1][..., 2]
    share, added = _between_shells(parts[0], padding, evening.share, evening.added)
    return difference * (weight / torch.maximum(weight, share * weight + added).clamp_min(1e-20)).to(weight)


def _between_shells(sums: Tensor, padding: int, *profiles: Tensor) -> list[Tensor]:
    """Interpolate profiles [s] to the half volume [z, y, x] of these sums: linear between shells, float64."""
    last = len(profiles[0]) - 1
    radius = (_half_volume_radius(sums) / padding).clamp(max=last)
    low = radius.floor().long().clamp(max=max(0, last - 1))
    high, fraction = (low + 1).clamp(max=last), radius - low
    return [p.to(radius)[low] * (1 - fraction) + p.to(radius)[high] * fraction for p in profiles]


def _half_volume_radius(sums: Tensor) -> Tensor:
    """|q| in padded pixels [z, y, x], float64."""
    m = sums.shape[2] - 1
    q = torch.arange(-m, m + 1, dtype=torch.float64, device=sums.device)
    return (q[:, None, None].square() + q[:, None].square() + q[m:].square()).sqrt()
