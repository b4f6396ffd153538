"""The data term of the M-step as a quadratic form of the map itself, not of its padded transform.

The ratio of the sums is the transform averaged over the insertion kernel. That average is the transform of the map x
times the kernel's envelope E (fourier/gridding.py): numerator = weight . FFT(E x) for images without noise. So the sums
say, up to a constant, that

    -log likelihood = 1/2 <x, A x> - <b, x>,   A = E crop IFFT weight FFT pad E,   b = E crop IFFT numerator,

for a map that is zero outside its support (support.py). The crop is to the support, transforms are on the padded grid.
This is exact for the sums. A division by the weight, in contrast, fills the padded box and is cropped afterwards.

The crop makes A a Toeplitz matrix: its element for two voxels is the weight's transform at their distance. So any grid
that is twice the support along each axis gives the same A, with weights that are made for it once, and a small support
costs little. Everything is divided by the mean weight, so that b, and whatever is weighed against it, is a density.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from halfmap.fourier.gridding import insertion_envelope
from halfmap.fourier.real_transforms import irfft, rfft
from halfmap.fourier.transform import fft_size, from_half_volume
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.support import Support

_CHUNK = 1 << 22  # complex values transformed at a time: 32 MiB in complex64
_POWER_STEPS = 3  # steps of the power method for the largest eigenvalue


@dataclass(frozen=True)
class NormalEquations:
    """A and b of one set of sums, divided by the mean weight.

    weight [y, x >= 0, z]: of transforms on a grid of twice the support. linear [z, y, x]: b over the support, a
    density. envelopes: E along z, y and x. size: of the grid along x. mean_weight: within the limit, in the units of
    the sums. rms: root mean square of IFFT numerator over the *padded* box, divided by the mean weight. This is the
    density that the paper's parameters of OPUS-SSRI refer to; over the box alone it would be padding^(3/2) larger.
    noise: sd of the noise in a voxel of b, if every image is inserted at one pose; of the plain map's too, if all
    weights were the mean.
    """

    weight: Tensor
    linear: Tensor
    envelopes: tuple[Tensor, ...]
    size: int
    mean_weight: float
    rms: float
    noise: float

    @staticmethod
    def of(statistics: Backprojection, spacing: float = 1.0, support: Support | None = None) -> NormalEquations:
        """From finished statistics; sums beyond their limit are left out.

        spacing: size of the voxels, in voxels of the map that the images were inserted for (Backprojection.coarser).
        support: outside it the map is zero; None stands for the whole box.
        Raises ValueError for statistics that are unfinished, or have no weight.
        """
        if not statistics.folded:
            raise ValueError("statistics must be finished (folded) before they are inverted")
        statistics = statistics.on_bench()
        p, box, limit = statistics.padding, statistics.box, statistics.limit
        mean, power = _mean_and_power(statistics)
        if mean <= 0:
            raise ValueError("statistics without weight: no image was inserted")
        support = support or Support.whole(box)
        envelope = insertion_envelope(box, p, statistics.kernel).to(statistics.sums)
        envelopes = tuple(envelope[a:b] for a, b in zip(support.low, support.high, strict=True))
        numerator = torch.view_as_complex(_within_limit(statistics, slice(0, 2)))
        linear = _times(support.cut(from_half_volume(numerator, p, box)) / mean, envelopes)
        del numerator  # half volumes are large
        sizes = tuple(fft_size(2 * n - 1) for n in support.shape)
        weight = _on_grid(_within_limit(statistics, slice(2, 3))[..., 0] / mean, p * box, support.shape, sizes)
        rms = math.sqrt(power) / (p * box) ** 3 / mean
        # Each coefficient of the map gathers the weight of padding^3 points.
        noise = math.sqrt(4 / 3 * math.pi * limit**3 / (p**3 * mean)) / (spacing * box) ** 3
        return NormalEquations(weight, linear, envelopes, sizes[2], mean, rms, noise)

    @cached_property
    def largest_eigenvalue(self) -> float:
        """Largest eigenvalue of A by the power method, 10 to 20 % too small; `descend` mends it where it matters."""
        x = y = self.linear
        for _ in range(_POWER_STEPS):
            x = y / y.norm().clamp_min(torch.finfo(y.dtype).tiny)
            y = self.apply(x)
        return float((x * y).sum())

    @property
    def largest_weight(self) -> float:
        """Upper bound of the eigenvalues of A, because neither crop nor envelope makes anything larger."""
        return float(self.weight.max())

    def apply(self, x: Tensor) -> Tensor:
        """A x [z, y, x]. Transforms run axis by axis, and only along lines that are not all zero."""
        depth, height, width = x.shape
        tall, half, deep = self.weight.shape
        t = rfft(_times(x, self.envelopes), self.size, dim=2)
        t = torch.fft.fft(t, n=tall, dim=1).permute(1, 2, 0).contiguous()
        step = max(1, _CHUNK // (half * deep))
        for y in range(0, tall, step):
            columns = torch.fft.fft(t[y : y + step], n=deep, dim=2).mul_(self.weight[y : y + step])
            t[y : y + step] = torch.fft.ifft(columns, dim=2)[..., :depth]
        rows = torch.fft.ifft(t, dim=0)[:height].permute(2, 0, 1)
        return _times(irfft(rows, self.size, dim=2)[..., :width], self.envelopes)

    def misfit(self, x: Tensor) -> float:
        """Weighted square distance of a map from the sums, sum weight |FFT(E x) - numerator / weight|^2.

        A constant that does not depend on the map is left out. Distances from several sums add up after multiplication
        with their mean weights.
        """
        return float((x.double() * (self.apply(x) - 2 * self.linear).double()).sum())


def mean_weight(statistics: Backprojection) -> float:
    """Mean weight of finished statistics within their limit."""
    return _mean_and_power(statistics.on_bench())[0]


def _planes(statistics: Backprojection) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the sums [y, x, 3] of every plane, and their distance [y, x] from the origin in padded pixels, float64.

    So no array of the whole half volume is made.
    """
    m = (statistics.sums.shape[0] - 1) // 2
    q = torch.arange(-m, m + 1, dtype=torch.float64, device=statistics.sums.device)
    square = q[:, None].square() + q[m:].square()
    for plane, z in zip(statistics.sums, q, strict=True):
        yield plane, (square + z.square()).sqrt()


def _mean_and_power(statistics: Backprojection) -> tuple[float, float]:
    """Mean weight up to the limit and summed power of the numerator, each over the whole transform (both halves)."""
    p, limit = statistics.padding, statistics.limit
    twice = torch.full(statistics.sums.shape[2:3], 2.0, dtype=torch.float64, device=statistics.sums.device)
    twice[0] = 1.0  # x > 0 stands for its mate too
    weight = count = power = twice.new_zeros(())
    for plane, radius in _planes(statistics):
        inside = (radius <= p * limit) * twice
        weight = weight + (plane[..., 2] * inside).sum()
        count = count + inside.sum()
        within = (radius <= p * (limit + 0.5) + 1.0) * twice
        power = power + (plane[..., :2].double().square().sum(dim=-1) * within).sum()
    return float(weight / count), float(power)


def _within_limit(statistics: Backprojection, which: slice) -> Tensor:
    """Copy of some of the sums [z, y, x, ..], zero beyond their limit; which: numerator (0:2) or weight (2:3)."""
    reach = statistics.padding * (statistics.limit + 0.5) + 1.0
    result = torch.empty_like(statistics.sums[..., which], memory_format=torch.contiguous_format)
    for out, (plane, radius) in zip(result, _planes(statistics), strict=True):
        torch.mul(plane[..., which], (radius <= reach)[..., None], out=out)
    return result


def _times(v: Tensor, envelopes: tuple[Tensor, ...]) -> Tensor:
    """v [z, y, x] times a separable envelope, given along z, y and x."""
    z, y, x = envelopes
    return v * (z[:, None, None] * y[:, None] * x)


def _on_grid(weight: Tensor, padded: int, reach: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Weight [y, x >= 0, z] on a grid of ``sizes`` [z, y, x] that acts like ``weight`` on the padded grid.

    weight [z, y, x]: on a half volume. padded: side of the padded grid. reach: size [z, y, x] of the maps, in voxels.
    The weight's transform is cut to the distances that occur within such a map, and transformed back. Both transforms
    together are one product with a real matrix along each axis. A coefficient at x > 0 stands for its Friedel mate too.
    """
    m = weight.shape[-1] - 1
    r = min(m, padded // 2)
    w = weight[m - r : m + r + 1, m - r : m + r + 1, : r + 1]
    along_z, along_y, along_x = (
        _dirichlet(padded, r, n, size).to(w) for n, size in zip(reach, sizes, strict=True))  # fmt: skip
    half = sizes[2] // 2 + 1
    mate = [(-torch.arange(size, device=w.device)) % size for size in sizes]
    result = w.new_zeros((sizes[1], half, sizes[0]))
    planes = max(1, _CHUNK // (2 * sizes[0] * sizes[1]))
    for a in range(0, r + 1, planes):
        chunk = w[:, :, a : a + planes].permute(2, 1, 0) @ along_z.T  # [x, y, z]
        chunk = along_y @ chunk
        here = along_x[:half, r + a : r + a + len(chunk)]
        mates = along_x[:half, torch.arange(r - a, r - a - len(chunk), -1, device=w.device)]
        if a == 0:
            mates = torch.cat([torch.zeros_like(mates[:, :1]), mates[:, 1:]], dim=1)
        for part, matrix in ((chunk, here), (chunk[:, mate[1]][:, :, mate[0]], mates)):
            result += (matrix @ part.reshape(len(part), -1)).reshape(half, sizes[1], sizes[0]).transpose(0, 1)
    return result


def _dirichlet(padded: int, r: int, n: int, size: int) -> Tensor:
    """Matrix [k, q = -r..r] from coefficients on a grid of ``padded`` points to those on a grid of ``size`` points.

    It keeps what their transform holds at distances of less than n; float64.
    """
    q = torch.arange(-r, r + 1, dtype=torch.float64) / padded
    angle = math.pi * (q - torch.arange(size, dtype=torch.float64)[:, None] / size)
    below = torch.sin(angle)
    whole = below.abs() < 1e-12
    matrix = torch.where(whole, 2.0 * n - 1, torch.sin((2 * n - 1) * angle) / torch.where(whole, 1.0, below)) / padded
    # An even grid has one Nyquist coefficient where q runs over two.
    return matrix * torch.where(q.abs() == 0.5, 0.5, 1.0)
