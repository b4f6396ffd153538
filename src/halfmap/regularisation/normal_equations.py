"""The data term of the M-step as a quadratic form of the map itself, not of its padded transform.

Insertion leaves sums whose ratio is the transform averaged over the insertion kernel, and that average is the
transform of the map x times the kernel's envelope E (fourier/gridding.py): numerator = weight . FFT(E x) for images
without noise. So the sums say, up to a constant, that

    -log likelihood = 1/2 <x, A x> - <b, x>,   A = E crop IFFT weight FFT pad E,   b = E crop IFFT numerator,

for a map of n^3 voxels, transforms on the padded grid. It is exact for the sums (the crop makes A a Toeplitz matrix)
and keeps the map within its box, where a division by the weight fills the padded box and is cropped afterwards.
Everything is divided by the mean weight, so that b, and whatever is weighed against it, is a density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from halfmap.fourier.gridding import insertion_envelope
from halfmap.fourier.shells import half_volume_radius
from halfmap.fourier.transform import from_half_volume
from halfmap.reconstruction.statistics import Backprojection

_CHUNK = 1 << 22  # complex values transformed at a time: 32 MiB in complex64
_POWER_STEPS = 8  # of the estimate of the largest eigenvalue


@dataclass(frozen=True)
class NormalEquations:
    """A and b of one set of sums, over the mean weight.

    weight [c, k]: of the padded transform's columns along z with numbers ``columns`` [c] in [y, x]; linear [z, y, x]:
    b, a density; envelope [x] along one axis; mean_weight: within the limit, in the units of the sums; rms: root mean
    square of IFFT numerator over the *padded* box, over the mean weight (the density that the parameters of OPUS-SSRI
    refer to; over the box alone it would be padding^(3/2) larger); noise: sd of the plain map's noise in a voxel, if
    all weights were the mean.
    """

    weight: Tensor
    columns: Tensor
    linear: Tensor
    envelope: Tensor
    mean_weight: float
    rms: float
    noise: float

    @staticmethod
    def of(statistics: Backprojection, spacing: float = 1.0) -> NormalEquations:
        """From finished statistics; weights beyond their limit count for nothing.

        spacing: of the voxels, in those of the map that the images were inserted for (Backprojection.coarser).
        Raises ValueError for unfinished statistics, and for such without any weight.
        """
        if not statistics.folded:
            raise ValueError("statistics must be finished (folded) before they are inverted")
        p, box, limit = statistics.padding, statistics.box, statistics.limit
        m = (statistics.sums.shape[0] - 1) // 2
        radius = half_volume_radius(m).to(statistics.sums.device)
        sums = statistics.sums * (radius <= p * (limit + 0.5) + 1.0)[..., None]
        twice = torch.full((m + 1,), 2.0, dtype=torch.float64, device=sums.device)  # x > 0 stands for its mate too
        twice[0] = 1.0
        inside = (radius <= p * limit) * twice
        mean = float((sums[..., 2] * inside).sum() / inside.sum())
        if mean <= 0:
            raise ValueError("statistics without weight: no image was inserted")
        power = float(((sums[..., 0].double().square() + sums[..., 1].double().square()) * twice).sum())
        numerator = torch.view_as_complex(sums[..., :2].contiguous())
        envelope = insertion_envelope(box, p, statistics.kernel).to(sums)
        linear = _times(from_half_volume(numerator, p, box) / mean, envelope)
        columns, weight = _columns(sums[..., 2] / mean, p * box)
        rms = math.sqrt(power) / (p * box) ** 3 / mean
        # each of the map's coefficients gathers the weight of padding^3 points
        noise = math.sqrt(4 / 3 * math.pi * limit**3 / (p**3 * mean)) / (spacing * box) ** 3
        return NormalEquations(weight, columns, linear, envelope, mean, rms, noise)

    @cached_property
    def largest_eigenvalue(self) -> float:
        """A close estimate from below (power method): the origin's weight is large, but one point of the transform."""
        x, value = self.linear, 0.0
        for _ in range(_POWER_STEPS):
            x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
            y = self.apply(x)
            value, x = float((x * y).sum()), y
        return value

    @property
    def largest_weight(self) -> float:
        """No eigenvalue of A exceeds it: neither crop nor envelope makes anything larger."""
        return float(self.weight.max())

    def apply(self, x: Tensor) -> Tensor:
        """A x [z, y, x]. Transforms run axis by axis over what is not zero, and over columns within the limit."""
        n, size = x.shape[0], self.weight.shape[1]
        half = size // 2 + 1
        t = torch.fft.rfft(_times(x, self.envelope), n=size, dim=2)
        t = torch.fft.fft(t, n=size, dim=1).permute(1, 2, 0).reshape(size * half, n)
        out = torch.zeros_like(t)
        step = max(1, _CHUNK // size)
        for a in range(0, len(self.columns), step):
            index = self.columns[a : a + step]
            column = torch.fft.fft(t[index], n=size, dim=1) * self.weight[a : a + step]
            out[index] = torch.fft.ifft(column, dim=1)[:, :n]
        rows = torch.fft.ifft(out.reshape(size, half, n), dim=0)[:n].permute(2, 0, 1)
        return _times(torch.fft.irfft(rows, n=size, dim=2)[..., :n], self.envelope)

    def misfit(self, x: Tensor) -> float:
        """Weighted square distance of a map from the sums, sum weight |FFT(E x) - numerator / weight|^2, less a
        constant that does not depend on the map; times the mean weight it adds over sets."""
        return float((x.double() * (self.apply(x) - 2 * self.linear).double()).sum())


def _times(x: Tensor, envelope: Tensor) -> Tensor:
    return x * (envelope[:, None, None] * envelope[:, None] * envelope)


def _columns(weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Weight [z, y, x] of the half volume on the transform's grid: columns [c] along z that hold any, and [c, k]."""
    m = weight.shape[-1] - 1
    reach = min(m, size // 2)
    q = torch.arange(-reach, reach + 1, device=weight.device)
    share = torch.where(2 * q.abs() == size, 0.5, 1.0).to(weight)  # one Nyquist coefficient where there are two here
    inside = weight[m - reach : m + reach + 1, m - reach : m + reach + 1, : reach + 1] * share[:, None, None]
    full = weight.new_zeros((size, 2 * reach + 1, reach + 1)).index_add_(0, q % size, inside)
    grid = weight.new_zeros((size, size, size // 2 + 1))
    grid[:, :, : reach + 1].index_add_(1, q % size, full * share[:, None])
    flat = grid.permute(1, 2, 0).reshape(-1, size)
    columns = torch.nonzero((flat > 0).any(dim=1))[:, 0]
    return columns, flat[columns].contiguous()
