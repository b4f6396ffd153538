"""The FSC of half maps of pure noise, with which every test that two half sets are independent compares."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.real_transforms import irfftn, rfftn
from halfmap.fourier.shells import hermitian_weights, shell_index_3d, shell_sum


def null_band(box: int, mask: Tensor | None = None) -> Tensor:
    """Standard deviation of the FSC of two maps of independent white noise: float64 [s], s = 0 .. box // 2.

    Without a mask it is 1 / sqrt(N_s): a shell of a real map has as many free real components as it has coefficients in
    the full transform. A mask[z,y,x] on both maps ties neighbouring coefficients together, E A(k) conj A(k') = C(k -
    k') with C the transform of mask^2, so that the variance becomes sum_kk' |C(k - k')|^2 / (N_s C(0))^2. In real space
    this is the mean of (S_s(x) / N_s)^2 weighted by the autocorrelation of mask^2. S_s is the transform of the shell,
    here that of a continuous shell one coefficient thick. Shell 0, which measures nothing, is 1.
    """
    count = box // 2 + 1
    shell = shell_index_3d(box)
    members = shell_sum(hermitian_weights(box).expand(shell.shape), shell, count)
    unmasked = members.rsqrt()
    if mask is None:
        return unmasked
    # A mask can only raise the deviation; where it fills the box, the continuous shell gives too low a value.
    return torch.maximum(_masked_null(mask.double(), count), unmasked.to(mask.device))


def _masked_null(mask: Tensor, count: int) -> Tensor:
    """The standard deviation [s] under a mask[z,y,x], for `null_band`."""
    box = mask.shape[-1]
    power = rfftn(mask.square())
    autocorrelation = irfftn(power.real.square() + power.imag.square(), box).clamp(min=0)
    offset = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64).square().long().to(mask.device)
    squared = offset[:, None, None] + offset[:, None] + offset
    # Everything depends only on |x|^2, an integer, so the sum over voxels becomes a sum over its distinct values.
    weight = kernels.sums_at(squared, autocorrelation, 3 * (box // 2) ** 2 + 1)
    present = weight > 0
    radius = torch.nonzero(present)[:, 0].double().sqrt()
    weight = weight[present] / weight.sum()
    outer = _ball_transform(torch.arange(count, dtype=torch.float64).to(mask.device) + 0.5, radius, box)
    inner = torch.cat([torch.zeros_like(outer[:1]), outer[:-1]])
    shells = outer - inner
    variance = (shells / shells[:, :1]).square() @ weight
    variance[0] = 1.0
    return variance.clamp(max=1.0).sqrt()


def _ball_transform(reach: Tensor, radius: Tensor, box: int) -> Tensor:
    """Transform [s,r] of Fourier balls of radii reach[s] (cycles per box) at distances radius[r] (voxels)."""
    angle = 2 * math.pi / box * reach[:, None] * radius
    near = angle < 1e-3
    safe = torch.where(near, 1.0, angle)
    shape = torch.where(near, 1 / 3 - angle.square() / 30, (safe.sin() - safe * safe.cos()) / safe**3)
    return 4 * math.pi * reach[:, None] ** 3 * shape
