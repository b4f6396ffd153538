"""Levenberg-Marquardt of poses in plain torch: the oracle of the compiled kernel, and the path of other devices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.kernels.poses import Polished, PolishOptions, PosePrior, Starts
from halfmap.kernels.reference import CHUNK, slices_and_slopes


def _slice_jacobian(volume: Tensor, coords: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Slices [j, k] and their derivative [j, 3, k] to the left perturbation w of R <- exp([w]x) R."""
    real = volume.real.dtype
    value, g = slices_and_slopes(volume, coords, rotations.to(real))
    u, v = coords[:, 0].to(real), coords[:, 1].to(real)
    jacobian = torch.stack([-v * g[..., 2], u * g[..., 2], v * g[..., 0] - u * g[..., 1]], dim=1)
    return value, jacobian


@dataclass(frozen=True)
class Objective:
    """The log-likelihood of images at one pose each, float64: gain [j], gradient [j, 5], Gauss-Newton precision
    [j, 5, 5]."""

    gain: Tensor
    gradient: Tensor
    precision: Tensor


def pose_objective(
    volume: Tensor, coords: Tensor, kxy: Tensor, y: Tensor, c: Tensor, rotations: Tensor, shifts: Tensor,
    options: PolishOptions, prior: PosePrior | None = None,
) -> Objective:  # fmt: skip
    """The objective of images y[j, k], c[j, k] at rotations[j, 3, 3], shifts[j, 2]. prior: that of images j."""
    value, slope = _slice_jacobian(volume, coords, rotations)
    turn = 2 * math.pi / options.box
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
    gain = gain - 0.5 * options.prior * (shifts**2).sum(1)
    gradient[:, 3:] -= options.prior * shifts
    hessian[:, 3, 3] += options.prior
    hessian[:, 4, 4] += options.prior
    if prior is not None:
        added = _log_prior(prior, rotations, shifts)
        gain, gradient, hessian = gain + added.gain, gradient + added.gradient, hessian + added.precision
    return Objective(gain, gradient, hessian)


def _turned(prior: PosePrior, rotations: Tensor) -> Tensor:
    """Rotation vectors w [j, 3] from the centre of the prior."""
    d = rotations @ prior.rotations.transpose(1, 2)
    w = 0.5 * torch.stack([d[:, 2, 1] - d[:, 1, 2], d[:, 0, 2] - d[:, 2, 0], d[:, 1, 0] - d[:, 0, 1]], dim=1)
    sine = w.norm(dim=1)
    angle = torch.atan2(sine, 0.5 * (torch.diagonal(d, dim1=1, dim2=2).sum(1) - 1))
    return w * torch.where(sine > 1e-12, angle / sine.clamp_min(1e-12), 1.0)[:, None]


def _log_prior(prior: PosePrior, rotations: Tensor, shifts: Tensor) -> Objective:
    """The log of the prior, with its derivatives to the left perturbation of rotations and to shifts."""
    w, place = _turned(prior, rotations), rotations @ prior.fulcrum
    angle = w.norm(dim=1)
    # dw = J^-1 d for a left perturbation d; J^-T J^-1 is 1 along w and (|w|/2 / sin |w|/2)^2 across.
    across = torch.sinc(angle / (2 * math.pi)) ** -2
    axis = w / angle.clamp_min(1e-12)[:, None]
    eye = torch.eye(5, dtype=w.dtype, device=w.device)
    outer = axis[:, :, None] * axis[:, None, :]
    turn = across[:, None, None] * (eye[:3, :3] - outer) + outer
    e = shifts + place[:, :2] - prior.places()
    slope = eye[3:].repeat(len(w), 1, 1)  # of e [j, 2] to the five parameters
    slope[:, 0, 1], slope[:, 0, 2] = place[:, 2], -place[:, 1]
    slope[:, 1, 0], slope[:, 1, 2] = -place[:, 2], place[:, 0]
    gradient = -prior.shift * torch.einsum("jap,ja->jp", slope, e)
    precision = prior.shift * slope.transpose(1, 2) @ slope
    gradient[:, :3] -= prior.turn * w
    precision[:, :3, :3] += prior.turn * turn
    return Objective(-0.5 * (prior.turn * angle**2 + prior.shift * (e**2).sum(1)), gradient, precision)


@dataclass(frozen=True)
class _Pose:
    """rotations [j, 3, 3], shifts [j, 2] in pixels."""

    rotations: Tensor
    shifts: Tensor


def _pulled_back(prior: PosePrior | None, rotations: Tensor, shifts: Tensor) -> _Pose:
    """The poses, those beyond the limits of the prior moved to where the way there crosses them."""
    if prior is None:
        return _Pose(rotations, shifts)
    w = _turned(prior, rotations)
    angle = w.norm(dim=1)
    nearer = _rotation_exponential(w * (prior.turn_limit / angle.clamp_min(1e-30)).clamp(max=1.0)[:, None])
    rotations = torch.where((angle > prior.turn_limit)[:, None, None], nearer @ prior.rotations, rotations)
    seen, wanted = (rotations @ prior.fulcrum)[:, :2], prior.places()
    e = shifts + seen - wanted
    length = e.norm(dim=1, keepdim=True)
    moved = wanted - seen + e * prior.shift_limit / length.clamp_min(1e-30)
    return _Pose(rotations, torch.where(length > prior.shift_limit, moved, shifts))


def _rotation_exponential(w: Tensor) -> Tensor:
    """exp([w]x) for rotation vectors w[j, 3]."""
    zero = torch.zeros_like(w[:, 0])
    rows = [zero, -w[:, 2], w[:, 1], w[:, 2], zero, -w[:, 0], -w[:, 1], w[:, 0], zero]
    return torch.linalg.matrix_exp(torch.stack(rows, dim=1).view(-1, 3, 3))


def _whole_images(image: Tensor, size: int) -> Iterator[slice]:
    """Stretches of about ``size`` starts, of images [j] that are not cut apart."""
    ends = torch.nonzero(image.diff(append=image.new_tensor([-1])))[:, 0] + 1
    begun = 0
    for end in ends.tolist():
        if end - begun >= size or end == len(image):
            yield slice(begun, end)
            begun = end


def refine_poses(
    volume: Tensor, coords: Tensor, kxy: Tensor, y: Tensor, c: Tensor, starts: Starts, options: PolishOptions,
    prior: PosePrior | None = None,
) -> Polished:  # fmt: skip
    """Levenberg-Marquardt of every start at once, with the steps and the acceptance rule of the compiled kernel."""
    step_size = max(1, CHUNK // (8 * max(1, coords.shape[0])))
    parts = []
    for some in _whole_images(starts.image, step_size):
        take = starts.image[some]
        yj, cj = y[take], c[take]
        about = None if prior is None else prior.of(take)
        begun = _pulled_back(about, starts.rotations[some].double().clone(), starts.shifts[some].double().clone())
        rot, shift = begun.rotations, begun.shifts

        def objective(
            rotations: Tensor, shifts: Tensor, yj: Tensor = yj, cj: Tensor = cj, about: PosePrior | None = about
        ) -> Objective:
            return pose_objective(volume, coords, kxy, yj, cj, rotations, shifts, options, about)

        first = objective(rot, shift)
        value, gradient, hessian = first.gain, first.gradient, first.precision
        damping = torch.full_like(value, 1e-2)
        active = torch.ones_like(value, dtype=torch.bool)
        for number in range(options.steps):
            if number == options.look:
                best = torch.full((len(y),), -torch.inf, dtype=value.dtype, device=value.device)
                best = best.scatter_reduce(0, take, value, "amax")
                active &= value >= best[take] - options.drop
            diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
            damped = hessian + torch.diag_embed(damping[:, None] * diagonal + 1e-12)
            step = torch.linalg.solve(damped, gradient)
            angle = step[:, :3].norm(dim=1)
            step = step * torch.clamp(options.max_step / angle.clamp_min(1e-30), max=1.0)[:, None]
            if not bool(active.any()):
                break
            tried = _pulled_back(about, _rotation_exponential(step[:, :3]) @ rot, shift + step[:, 3:])
            turned, moved = tried.rotations, tried.shifts
            predicted = 0.5 * (step * gradient).sum(1)
            last = active & (predicted < options.tolerance)
            rot = torch.where(last[:, None, None], turned, rot)
            shift = torch.where(last[:, None], moved, shift)
            value = torch.where(last, value + predicted, value)
            active &= ~last
            trial = objective(turned, moved)
            better = active & (trial.gain > value)
            rot = torch.where(better[:, None, None], turned, rot)
            shift = torch.where(better[:, None], moved, shift)
            value = torch.where(better, trial.gain, value)
            gradient = torch.where(better[:, None], trial.gradient, gradient)
            hessian = torch.where(better[:, None, None], trial.precision, hessian)
            damping = torch.where(better, (damping * 0.2).clamp_min(1e-6), (damping * 8).clamp_min(1e-3))
            active &= damping <= 1e6
        parts.append((rot, shift, value, hessian))
    if not parts:
        empty = starts.rotations.new_zeros(0, dtype=torch.float64)
        return Polished(starts.rotations.double(), starts.shifts.double(), empty, empty.reshape(0, 5, 5))
    return Polished(*(torch.cat(p) for p in zip(*parts, strict=True)))
