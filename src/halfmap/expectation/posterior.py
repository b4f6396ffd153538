"""The posterior of a pose, and the samples of it that feed the M-step.

Around each mode the posterior is Gaussian with the 5x5 precision of the last Gauss-Newton step (three rotations in the
image frame in radians, two shifts in pixels). Modes are weighed by their Laplace evidence exp(gain) |precision|^(-1/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.expectation.priors import ShiftPrior, log_peak
from halfmap.geometry.rotations import rotation_vector_to_matrix
from halfmap.kernels.poses import PosePrior, Samples
from halfmap.runtime.device import sent

SHARE_LEAST = 1e-3  # of the images that hold a particle, and of those that hold none: neither is ruled out


@dataclass(frozen=True)
class Poses:
    """Modes c of every image b, best first.

    rotations [b, c, 3, 3]; shifts [b, c, 2] in pixels; gain [b, c]: log-likelihood above a model without a particle
    (-inf: there is no such mode); precision [b, c, 5, 5]. All are float64.
    """

    rotations: Tensor
    shifts: Tensor
    gain: Tensor
    precision: Tensor

    @property
    def weight(self) -> Tensor:
        """Posterior weight of each mode [b, c], by Laplace evidence; rows sum to 1."""
        # Absent modes have zero precision, and their determinant must not become NaN.
        eye = torch.eye(5, dtype=self.precision.dtype, device=self.precision.device)
        absent = torch.isinf(self.gain)[..., None, None]
        log_det = torch.linalg.slogdet(torch.where(absent, eye, self.precision + 1e-9 * eye)).logabsdet
        return torch.softmax(self.gain - 0.5 * log_det, dim=1).nan_to_num(0.0)

    def covariance(self) -> Tensor:
        """Posterior covariance of the best mode [b, 5, 5]."""
        return covariance_of(self.precision[:, 0])

    def to(self, device: torch.device) -> Poses:
        """The same poses on another device."""
        return Poses(*(sent(t, device) for t in (self.rotations, self.shifts, self.gain, self.precision)))

    def __len__(self) -> int:
        return len(self.gain)


def covariance_of(precision: Tensor) -> Tensor:
    """Inverse of precision [..., 5, 5]. Standard deviations stay below 20 degrees and 5 pixels, so that it exists."""
    return torch.linalg.inv(_bounded(precision))


def _bounded(precision: Tensor) -> Tensor:
    """The precision [..., 5, 5], at least that of standard deviations of 20 degrees and 5 pixels."""
    floor = [1 / math.radians(20) ** 2] * 3 + [1 / 25.0] * 2
    return precision + torch.diag(precision.new_tensor(floor))


def log_evidence(poses: Poses, prior: ShiftPrior, mates: int, about: PosePrior | None = None) -> Tensor:
    """Log evidence [b] of a particle in each image, relative to that of noise alone.

    It is the integral of the likelihood ratio over the priors of the pose, by Laplace's approximation: the sum over
    modes of exp(gain) (2 pi)^(5/2) |precision|^(-1/2), times the prior densities there. These are 1 / (8 pi^2) of
    rotations, for each of the ``mates`` that a point group makes of a mode, and precision / (2 pi) of shifts, whose
    exponent is part of the gain; or normal densities about given poses (``about``), whose hard limits, which cut off
    little, are not counted. In images of noise alone the expectation of the evidence is 1, however wide the
    search is; modes that are not among ``poses`` are missing from it.
    """
    log_det = torch.linalg.slogdet(_bounded(poses.precision)).logabsdet
    volume = 2.5 * math.log(2 * math.pi) - 0.5 * log_det
    return torch.logsumexp(poses.gain + volume, dim=1) + log_peak(prior, about, mates)


def particle_probability(log_evidence: Tensor, share: float) -> Tensor:
    """Probability [b] that an image holds a particle, where a ``share`` of all images does.

    p = share Z / (share Z + 1 - share), with Z the evidence relative to noise alone.
    """
    share = min(max(share, SHARE_LEAST), 1 - SHARE_LEAST)
    return torch.sigmoid(log_evidence + math.log(share / (1 - share)))


def mixture_evidence(log_evidence: Tensor, share: float) -> Tensor:
    """Log evidence [b] of images that hold a particle or none, where a ``share`` of all does: log(share Z + 1 - share),
    relative to noise alone, with Z the evidence of a particle."""
    share = min(max(share, SHARE_LEAST), 1 - SHARE_LEAST)
    return torch.nn.functional.softplus(log_evidence + math.log(share / (1 - share))) + math.log(1 - share)


def merge_modes(poses: Poses, operators: Tensor, angle: float, drop: float, most: int) -> Poses:
    """The ``most`` best modes of each image, sorted by gain.

    A mode is left out if it lies within ``angle`` radians of a better one, or ``drop`` nats below the best. Rotations
    are compared modulo the point group operators [o, 3, 3]: a pose and its symmetry mates are one mode.
    """
    order = poses.gain.argsort(dim=1, descending=True)
    rotations = torch.take_along_dim(poses.rotations, order[:, :, None, None], dim=1)
    shifts = torch.take_along_dim(poses.shifts, order[:, :, None], dim=1)
    precision = torch.take_along_dim(poses.precision, order[:, :, None, None], dim=1)
    gain = torch.take_along_dim(poses.gain, order, dim=1)
    gain = torch.where(gain < gain[:, :1] - drop, -torch.inf, gain)
    close = _nearest_trace(rotations, rotations, operators) > 1 + 2 * math.cos(angle)
    for c in range(1, gain.shape[1]):
        repeated = (close[:, c, :c] & ~torch.isinf(gain[:, :c])).any(dim=1)
        gain[:, c] = torch.where(repeated, -torch.inf, gain[:, c])
    order = gain.argsort(dim=1, descending=True, stable=True)[:, :most]
    return Poses(
        torch.take_along_dim(rotations, order[:, :, None, None], dim=1),
        torch.take_along_dim(shifts, order[:, :, None], dim=1),
        torch.take_along_dim(gain, order, dim=1),
        torch.take_along_dim(precision, order[:, :, None, None], dim=1),
    )


def nearest_copies(poses: Poses, last: Tensor, operators: Tensor) -> Poses:
    """The same modes, each as that symmetry mate of it which is nearest to the rotation ``last`` [b, 3, 3].

    Poses then stay continuous from one iteration to the next. The precision is that of turns in the image, which all
    mates have in common.
    """
    if len(operators) == 1:
        return poses
    copies = poses.rotations[:, :, None] @ operators.to(poses.rotations)
    nearest = torch.einsum("bcoij,bij->bco", copies, last.to(copies)).argmax(dim=2)
    rotations = torch.take_along_dim(copies, nearest[:, :, None, None, None], dim=2)[:, :, 0]
    return Poses(rotations, poses.shifts, poses.gain, poses.precision)


def _nearest_trace(first: Tensor, second: Tensor, operators: Tensor) -> Tensor:
    """Largest trace [b, c, d] of first[b, c] g second[b, d]^T over the operators g."""
    best = first.new_full((len(first), first.shape[1], second.shape[1]), -torch.inf)
    for operator in sent(operators, first.device).to(first.dtype):
        best = torch.maximum(best, torch.einsum("bcij,bdij->bcd", first @ operator, second))
    return best


def posterior_samples(poses: Poses, kind: str, smallest: float = 0.02) -> Samples:
    """The poses that images are back-projected at. The masses of an image add up to 1.

    kind ``best``: the best mode. ``modes``: every mode of at least ``smallest`` weight. ``sigma``: six points with the
    mean and covariance of each such mode (`_spread_points`).
    """
    images = len(poses)
    if kind == "best":
        image = torch.arange(images, device=poses.gain.device)
        return Samples(image, poses.rotations[:, 0], poses.shifts[:, 0], torch.ones_like(poses.gain[:, 0]))
    weight = poses.weight
    weight = torch.where(weight < smallest, 0.0, weight)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-30)
    image, mode = torch.nonzero(weight, as_tuple=True)
    rotations, shifts, mass = poses.rotations[image, mode], poses.shifts[image, mode], weight[image, mode]
    if kind == "modes":
        return Samples(image, rotations, shifts, mass)
    offsets = _spread_points(_bounded(poses.precision[image, mode]))
    turned = rotation_vector_to_matrix(offsets[..., :3].reshape(-1, 3)).view(-1, 6, 3, 3) @ rotations[:, None]
    moved = shifts[:, None] + offsets[..., 3:]
    repeat = torch.arange(len(image), device=image.device).repeat_interleave(6)
    return Samples(image[repeat], turned.reshape(-1, 3, 3), moved.reshape(-1, 2), mass[repeat] / 6)


def _spread_points(precision: Tensor) -> Tensor:
    """Six points [m, 6, 5] about the origin with equal weights whose covariance is the inverse of precision [m, 5, 5].

    Rotations are the cubature points +-sqrt(3) L e_i, where L L^T is their covariance (Arasaratnam & Haykin 2009,
    eq. 32), each with the shift that is expected there. What the shift varies beside that is a triangle, with a corner
    for each pair: the same points for both of a pair, so that shift and rotation do not go together. Ten points would
    be needed if shifts were as symmetric as rotations are; their third moments cancel over images turned in plane.
    """
    covariance = torch.linalg.inv(precision)
    turns = math.sqrt(3.0) * torch.linalg.cholesky(covariance[:, :3, :3]).transpose(1, 2)  # one a row
    across = torch.linalg.inv(precision[:, 3:, 3:])
    follow = -turns @ precision[:, :3, 3:] @ across
    angle = torch.arange(3, dtype=precision.dtype, device=precision.device) * (2 * math.pi / 3)
    triangle = math.sqrt(2.0) * torch.stack([angle.cos(), angle.sin()], dim=1)
    apart = triangle @ torch.linalg.cholesky(across).transpose(1, 2)
    return torch.cat([torch.cat([sign * turns, sign * follow + apart], dim=2) for sign in (1, -1)], dim=1)
