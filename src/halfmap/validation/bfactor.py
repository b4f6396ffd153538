"""How a map's amplitudes fall with resolution, and the gain that corrects for it.

A Guinier plot shows ln(amplitude) against 1/d^2. Beyond 10 A, where scattering by single atoms takes over from the
shape of the molecule, it is a straight line of slope -B/4. B is the sum of everything that blurs the map (Rosenthal and
Henderson 2003, J. Mol. Biol. 333:721). The line is fitted to amplitudes weighted by C_ref = sqrt(2 FSC / (1 + FSC))
(ibid.), which removes the noise from them.

B factors here are those that are applied: the map is multiplied by exp(-B / (4 d^2)), and a negative B sharpens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.shells import frequency_length, hermitian_weights, shell_index_3d, shell_sum
from halfmap.fourier.transform import volume_fft, volume_ifft

LEAST_SHELLS = 3  # that a line needs for its error to be known
_EDGE = 2.0  # width of the low-pass filter's edge in shells


@dataclass(frozen=True)
class GuinierFit:
    """A straight line ln(amplitude) = intercept + slope / d^2 over shells first .. last.

    bfactor (A^2) is 4 slope, the B that makes the line level when it is applied. error is its standard error from the
    scatter about the line. correlation is that of the points; shells is their number.
    """

    bfactor: float
    error: float
    intercept: float
    correlation: float
    first: int
    last: int
    shells: int

    @property
    def slope(self) -> float:
        """Slope of the line in A^2."""
        return self.bfactor / 4

    def line(self, inverse_square: Tensor) -> Tensor:
        """ln(amplitude) of the line at 1/d^2 (1/A^2), any shape."""
        return self.intercept + self.slope * inverse_square


def fsc_weight(curve: Tensor) -> Tensor:
    """sqrt(2 F / (1 + F)) of a half-map FSC curve[s]: float64 [s].

    This is the correlation of the mean of both half maps with the map without noise (Rosenthal & Henderson 2003). It is
    zero from the first shell on where the curve is not positive, because a positive value beyond that shell is chance.
    """
    f = curve.double().clamp(max=1.0)
    below = torch.nonzero(f[1:] <= 0)
    if len(below):
        f = f.clone()
        f[int(below[0]) + 1 :] = 0.0
    return (2 * f / (1 + f)).sqrt()


def inverse_square(box: int, pixel_size: float) -> Tensor:
    """1/d^2 of every shell in 1/A^2: float64 [s], s = 0 .. box // 2."""
    return (torch.arange(box // 2 + 1, dtype=torch.float64) / (box * pixel_size)).square()


def log_amplitude(v: Tensor, gain: Tensor | None = None) -> Tensor:
    """ln of the mean amplitude of a map v[z,y,x] by shell: float64 [s], s = 0 .. box // 2.

    Amplitudes are those of the transform divided by box^3. gain [z,y,x//2+1] multiplies the transform first. A shell
    without amplitude is -inf.
    """
    box = v.shape[-1]
    amplitude = volume_fft(v).abs()
    if gain is not None:
        amplitude = amplitude * gain.to(amplitude)
    shell, count = shell_index_3d(box).to(v.device), box // 2 + 1
    weights = hermitian_weights(box).to(amplitude).expand(shell.shape)
    return (shell_sum(amplitude * weights, shell, count) / shell_sum(weights, shell, count) / box**3).log()


def fit_guinier(values: Tensor, box: int, pixel_size: float, fit_from: float, fit_to: float) -> GuinierFit | None:
    """The line through ln(amplitude) values[s] between the resolutions fit_from and fit_to (A), both included.

    Every shell has the same weight. Values that are not finite are left out. None where fewer than three shells are
    left.
    """
    shells = torch.arange(len(values))
    extent = box * pixel_size
    used = (shells >= extent / fit_from - 1e-6) & (shells <= extent / fit_to + 1e-6) & values.isfinite().cpu()
    chosen = shells[used & (shells > 0)]
    if len(chosen) < LEAST_SHELLS:
        return None
    x, y = inverse_square(box, pixel_size)[chosen], values.double().cpu()[chosen]
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy, sxy = (float((a * b).sum()) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    slope = sxy / sxx
    scatter = max(syy - slope * sxy, 0.0) / (len(chosen) - 2)
    correlation = sxy / math.sqrt(sxx * syy) if syy > 0 else 0.0
    return GuinierFit(
        4 * slope, 4 * math.sqrt(scatter / sxx), float(y.mean()) - slope * float(x.mean()), correlation,
        int(chosen[0]), int(chosen[-1]), len(chosen),
    )  # fmt: skip


@dataclass(frozen=True)
class Sharpening:
    """The gain applied to the transform of a map at every |k|.

    bfactor in A^2 (negative sharpens); mtf: the transform is divided by this [z,y,x//2+1], None for no division; weight
    [s]: gain by shell, linear between shells, None for 1; lowpass in A, None for none, with a cosine edge two shells
    wide around it.
    """

    bfactor: float = 0.0
    mtf: Tensor | None = None
    weight: Tensor | None = None
    lowpass: float | None = None

    def gain(self, box: int, pixel_size: float) -> Tensor:
        """The gain of every coefficient: float32 [z,y,x//2+1]."""
        k = frequency_length(box).double()  # a steep gain may leave float32 where the low-pass makes it 0
        extent = box * pixel_size
        gain = (-0.25 * self.bfactor * (k / extent).square()).exp()
        if self.mtf is not None:
            gain /= self.mtf.to(gain)
        if self.weight is not None:
            gain *= _between_shells(self.weight.to(gain), k)
        if self.lowpass is not None:
            gain *= 0.5 + 0.5 * (math.pi * ((k - extent / self.lowpass) / _EDGE + 0.5).clamp(0, 1)).cos()
        return gain.float()


def _between_shells(weight: Tensor, k: Tensor) -> Tensor:
    """weight[s] at any |k|, linear between shells; the last value beyond the last shell."""
    at = k.clamp(max=len(weight) - 1)
    low = at.floor().long().clamp(max=len(weight) - 2)
    return torch.lerp(weight[low], weight[low + 1], at - low)


def sharpened(v: Tensor, pixel_size: float, sharpening: Sharpening) -> Tensor:
    """A map v[z,y,x] with the gain of a Sharpening applied."""
    box = v.shape[-1]
    return volume_ifft(volume_fft(v) * sharpening.gain(box, pixel_size).to(v), box)
