"""Sums over spherical shells of Fourier space, and the geometry of the rfft and half-volume layouts.

Shell s holds the coefficients with round(|k|) = s, k in cycles per box (|k| is never half way between
integers).
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap import kernels


def shell_index_3d(box: int) -> Tensor:
    """Shell of every coefficient of the rfft layout: int64 [z,y,x//2+1] = round(|k|)."""
    return frequency_length(box).round().long()


def frequency_length(box: int) -> Tensor:
    """|k| in cycles per box for the rfft layout: float32 [z,y,x//2+1]."""
    k = torch.fft.fftfreq(box, 1 / box, dtype=torch.float32)
    kx = torch.arange(box // 2 + 1, dtype=torch.float32)
    return (k[:, None, None].square() + k[:, None].square() + kx.square()).sqrt()


def hermitian_weights(box: int) -> Tensor:
    """How many coefficients of the full transform each rfft column stands for: float64 [x//2+1].

    1 for column 0 and for the Nyquist column of an even box, where both Friedel mates are stored; 2 for the others.
    """
    weights = torch.full((box // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1.0
    if box % 2 == 0:
        weights[-1] = 1.0
    return weights


def shell_sum(values: Tensor, shell: Tensor, count: int) -> Tensor:
    """Sum values[..] over shells; shell[..] is the int64 shell of each value, and shells >= count are left out.

    values may have leading axes before those of shell, which are kept: [..,s]. Sums are made in float64 (complex128 for
    complex values). Returns a new tensor on the device of values.
    """
    if values.dim() > shell.dim():
        return torch.stack([shell_sum(part, shell, count) for part in values])
    if values.is_complex():
        return torch.complex(shell_sum(values.real, shell, count), shell_sum(values.imag, shell, count))
    return kernels.sums_at(shell.to(values.device).expand_as(values).clamp(max=count), values, count + 1)[:count]


def half_volume_radius(m: int) -> Tensor:
    """|q| in padded pixels of every element of the half volume (see transform.py): float32 [2m+1, 2m+1, m+1]."""
    q = torch.arange(-m, m + 1, dtype=torch.float32)
    return (q[:, None, None].square() + q[:, None].square() + q[m:].square()).sqrt()
