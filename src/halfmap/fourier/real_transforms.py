"""Real Fourier transforms of lines, images and volumes, with the origin at the first voxel.

They are torch's, but for sizes at which MKL's real transform rounds otherwise where a thread's lines begin and end, so
that its last bits tell the number of threads (seen on AMD processors, in float32 and float64: lines of up to 16 points,
of 32 and of 64; no complex transform did). Those are made of complex ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL, _OTHERS = 16, (32, 64)


def rfft(v: Tensor, n: int | None = None, dim: int = -1) -> Tensor:
    """torch.fft.rfft."""
    size = n or v.shape[dim]
    if not _by_complex(size):
        return torch.fft.rfft(v, n=size, dim=dim)
    complex_v = torch.complex(v, torch.zeros_like(v))  # else torch takes MKL's real transform here too
    return torch.fft.fft(complex_v, n=size, dim=dim).narrow(dim, 0, size // 2 + 1).contiguous()


def irfft(F: Tensor, n: int, dim: int = -1) -> Tensor:
    """torch.fft.irfft; coefficients that F lacks along ``dim`` are zero."""
    if not _by_complex(n):
        return torch.fft.irfft(F, n=n, dim=dim)
    kept = F.narrow(dim, 0, min(F.shape[dim], n // 2 + 1))
    mates = kept.narrow(dim, 1, min(kept.shape[dim] - 1, (n - 1) // 2)).flip(dim).conj()
    shape = [*F.shape]
    shape[dim] = n - kept.shape[dim] - mates.shape[dim]
    return torch.fft.ifft(torch.cat([kept, F.new_zeros(shape), mates], dim=dim), dim=dim).real.contiguous()


def rfft2(v: Tensor) -> Tensor:
    """torch.fft.rfft2 of images v[..,y,x]."""
    return torch.fft.fft(rfft(v), dim=-2) if _by_complex(v.shape[-1]) else torch.fft.rfft2(v)


def irfft2(F: Tensor, box: int) -> Tensor:
    """torch.fft.irfft2 of transforms F[..,y,x//2+1] of images of side ``box``."""
    if _by_complex(box):
        return irfft(torch.fft.ifft(F, dim=-2), box)
    return torch.fft.irfft2(F, s=(box, box))


def rfftn(v: Tensor) -> Tensor:
    """torch.fft.rfftn of real maps v[..,z,y,x] along their three axes.

    It runs plane by plane and then along z. In one piece MKL picks another way for another number of threads, and on
    some processors other last bits come out (seen on an AVX-512 machine at 40 to 160 voxels).
    """
    return torch.fft.fft(rfft2(v), dim=-3)


def irfftn(F: Tensor, box: int) -> Tensor:
    """torch.fft.irfftn of transforms F[..,z,y,x//2+1] of maps of side ``box``."""
    if _by_complex(box):
        return irfft2(torch.fft.ifft(F, dim=-3), box)
    return torch.fft.irfftn(F, s=(box, box, box), dim=(-3, -2, -1))


def _by_complex(size: int) -> bool:
    return size <= _SMALL or size in _OTHERS
