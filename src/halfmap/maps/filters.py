"""Radial filters of maps v[z,y,x]: gains that depend only on the length of the frequency."""

from __future__ import annotations

import math

from torch import Tensor

from halfmap.fourier.shells import frequency_length
from halfmap.fourier.transform import volume_fft, volume_ifft


def lowpass(v: Tensor, pixel_size: float, resolution: float, edge_shells: float = 2.0) -> Tensor:
    """Low-pass maps v[..,z,y,x] at `resolution` (A); the gain falls there by a cosine edge of `edge_shells` shells."""
    k = frequency_length(v.shape[-1]).to(v.device)
    cutoff = v.shape[-1] * pixel_size / resolution
    ramp = ((k - cutoff) / max(edge_shells, 1e-6) + 0.5).clamp(0, 1)
    return _multiply(v, 0.5 + 0.5 * (math.pi * ramp).cos())


def gaussian_lowpass(v: Tensor, pixel_size: float, resolution: float) -> Tensor:
    """Low-pass maps v[..,z,y,x] with a Gaussian gain that is 1/2 at `resolution` (A). It does not ring."""
    s = frequency_length(v.shape[-1]).to(v.device) * (resolution / (v.shape[-1] * pixel_size))
    return _multiply(v, (-math.log(2.0) * s.square()).exp())


def sharpen(v: Tensor, pixel_size: float, bfactor: float) -> Tensor:
    """Multiply the transform of maps v[..,z,y,x] by exp(-B |f|^2 / 4), f in 1/A; B < 0 (A^2) sharpens."""
    f = frequency_length(v.shape[-1]).to(v.device) / (v.shape[-1] * pixel_size)
    return _multiply(v, (-0.25 * bfactor * f.square()).exp())


def butterworth_gain(frequency: Tensor, cutoff: Tensor | float, order: int = 8) -> Tensor:
    """Amplitude gain [1 + (f / fc)^(2 order)]^(-1/2) at frequencies of any shape; 1/sqrt(2) at the cut-off fc."""
    return (1 + (frequency / cutoff) ** (2 * order)).rsqrt()


def apply_radial_gain(v: Tensor, gain: Tensor) -> Tensor:
    """Multiply the transform of maps v[..,z,y,x] by gain[s] (s = 0, 1, .. cycles per box).

    The gain is linear between shells. Frequencies beyond the last entry, the corners included, take its value.
    """
    k = frequency_length(v.shape[-1]).to(v.device).clamp(max=len(gain) - 1)
    gain = gain.to(v)
    low = k.floor().long().clamp(max=max(len(gain) - 2, 0))
    high = (low + 1).clamp(max=len(gain) - 1)
    return _multiply(v, gain[low] + (k - low).to(v.dtype) * (gain[high] - gain[low]))


def _multiply(v: Tensor, gain: Tensor) -> Tensor:
    return volume_ifft(volume_fft(v) * gain.to(v.dtype), v.shape[-1])
