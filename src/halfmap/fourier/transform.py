"""Fourier transforms of maps and images with the phase origin at the box centre n // 2.

V(q) = sum_x v(x) exp(-2 pi i q.(x - c) / n): unscaled forward, 1/n^3 backward, q in cycles per box. Besides the plain
transforms this module makes the oversampled *half volume* that the projection and insertion kernels read and write, and
resamples maps without interpolation error. Every function keeps the dtype and device of its input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from halfmap.fourier.gridding import divide_envelope
from halfmap.fourier.real_transforms import irfft, irfft2, irfftn, rfft, rfft2, rfftn

_VOLUME_AXES = (-3, -2, -1)
_IMAGE_AXES = (-2, -1)
_CHUNK_ELEMENTS = 1 << 20  # complex values of a padded axis transformed at a time: 8 MiB in complex64, in the cache


def volume_fft(v: Tensor) -> Tensor:
    """Transform real maps v[..,z,y,x] to V[..,z,y,x//2+1]: rfft layout, unscaled, origin at voxel n // 2."""
    return rfftn(torch.fft.ifftshift(v, dim=_VOLUME_AXES))


def volume_ifft(V: Tensor, box: int) -> Tensor:
    """Inverse of `volume_fft`: V[..,z,y,x//2+1] to real maps [..,z,y,x] of side `box`."""
    return torch.fft.fftshift(irfftn(V, box), dim=_VOLUME_AXES)


def image_fft(images: Tensor) -> Tensor:
    """Transform real images[b,y,x] to [b,y,x//2+1]: rfft layout, unscaled, origin at the centre pixel."""
    return rfft2(torch.fft.ifftshift(images, dim=_IMAGE_AXES))


def image_ifft(F: Tensor, box: int) -> Tensor:
    """Inverse of `image_fft`: F[b,y,x//2+1] to real images [b,y,x] of side `box`."""
    return torch.fft.fftshift(irfft2(F, box), dim=_IMAGE_AXES)


def image_coefficients(box: int, device: torch.device | None = None) -> Tensor:
    """(kx, ky) of the coefficients of `image_fft`, int64 [y, x // 2 + 1, 2], in cycles per box."""
    ky = torch.fft.fftfreq(box, 1 / box, device=device).round().long()
    ky, kx = torch.meshgrid(ky, torch.arange(box // 2 + 1, device=device), indexing="ij")
    return torch.stack([kx, ky], dim=-1)


def pad_volume(v: Tensor, size: int) -> Tensor:
    """Zero-pad maps v[..,z,y,x] to side `size`, centre voxel n // 2 onto centre voxel size // 2."""
    box = v.shape[-1]
    before = size // 2 - box // 2
    return torch.nn.functional.pad(v, (before, size - box - before) * 3)


def crop_volume(v: Tensor, size: int) -> Tensor:
    """Cut the central `size` cube out of maps v[..,z,y,x], centre voxel onto centre voxel."""
    start = v.shape[-1] // 2 - size // 2
    inside = slice(start, start + size)
    return v[..., inside, inside, inside]


def fft_size(least: float) -> int:
    """The smallest even number that is at least ``least`` and has no prime factor above 7."""
    size = 2 * math.ceil(least / 2)
    while True:
        rest = size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def coarser_box(box: int, least: float) -> int:
    """Side of a grid over the same box with at least ``least`` points along an axis, of a size that is quick to
    transform.

    The centre voxel stays where it is. Returns ``box`` where no smaller grid does.
    """
    return min(box, fft_size(least)) if box % 2 == 0 else box


def resample_volume(v: Tensor, box_out: int) -> Tensor:
    """Sample maps v[..,z,y,x] on box_out^3 points over the same physical extent.

    Frequencies beyond the Nyquist frequency of the coarser grid are removed. Grey values and the position of the centre
    voxel are kept. Band-limited maps are reproduced exactly.
    """
    box = v.shape[-1]
    return v if box_out == box else resize_map(v, 1.0, box / box_out, box_out)


def resize_map(v: Tensor, pixel_size: float, new_pixel_size: float, new_box: int) -> Tensor:
    """Resample maps v[..,z,y,x] to another pixel size (A) and box by exact band-limited interpolation.

    The map is read as one period of a trigonometric polynomial, cut at the new Nyquist frequency and evaluated at the
    new voxels by one small matrix product along each axis, so that any ratio of pixel sizes is exact. Grey values and
    the centre are kept; voxels outside the old box are 0. Returns [..,z,y,x], new_box^3.
    """
    box = v.shape[-1]
    ratio = new_pixel_size / pixel_size
    position = (torch.arange(new_box, dtype=torch.float64) - new_box // 2) * ratio
    matrix = _dirichlet_matrix(box, position, cutoff=0.5 * box / ratio).to(device=v.device, dtype=v.dtype)
    for axis in _VOLUME_AXES:
        v = (v.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return v.contiguous()


def _dirichlet_matrix(box: int, position: Tensor, cutoff: float) -> Tensor:
    """Interpolation weights M[j,x] from voxels x to positions j (in input voxels from the centre), float64.

    Only frequencies up to `cutoff` (cycles per box) pass. The Nyquist term of an even box, and a term exactly at the
    cut-off, stand for the mean of +k and -k: they count once where the others count twice.
    """
    voxel = torch.arange(box, dtype=torch.float64) - box // 2
    k = torch.arange(box // 2 + 1, dtype=torch.float64)
    weight = torch.full_like(k, 2.0)
    weight[0] = 1.0
    weight[(2 * k == box) | ((k - cutoff).abs() < 1e-9)] = 1.0
    weight[k > cutoff + 1e-9] = 0.0
    angle_out = 2 * math.pi / box * position[:, None] * k
    angle_in = 2 * math.pi / box * voxel[:, None] * k
    matrix = (angle_out.cos() * weight) @ angle_in.cos().T + (angle_out.sin() * weight) @ angle_in.sin().T
    outside = (position < voxel[0] - 0.5) | (position >= voxel[-1] + 0.5)
    matrix[outside] = 0.0
    return matrix / box


def half_volume_extent(padding: int, limit: int) -> int:
    """Largest padded coordinate m of the half volume for shells up to `limit` (cycles per box).

    A sample at |q| <= limit + 0.5 cycles per box has all its eight trilinear corners inside [-m, m].
    """
    return math.ceil(padding * (limit + 1)) + 2


def half_volume(v: Tensor, padding: int, limit: int) -> Tensor:
    """Oversampled transform of one map v[z,y,x], as the projection kernels read it.

    The map is divided by the trilinear envelope, zero-padded to padding * n and transformed (unscaled). Returns complex
    H[2m+1, 2m+1, m+1], m = `half_volume_extent(padding, limit)`: H[qz+m, qy+m, qx] is the value at the padded
    coordinates q = padding * (cycles per box), qx >= 0; the other half is its Friedel mate. Coordinates beyond the
    padded grid's Nyquist frequency are 0.

    The transform runs axis by axis and drops what is not kept after each axis, so that neither the padded map nor the
    whole padded transform is ever in memory.
    """
    box, m = v.shape[-1], half_volume_extent(padding, limit)
    size = padding * box
    v = divide_envelope(v, padding)
    reach = min(m, size // 2)
    phase = _centre_phase(torch.arange(-reach, reach + 1, device=v.device), box, size, v)
    rows = phase.new_empty((box, 2 * reach + 1, reach + 1))
    for z in _chunks(box, size * (reach + 1)):
        columns = rfft(v[z], size, dim=2)[..., : reach + 1] * phase[reach:]
        _take_signed(torch.fft.fft(columns, n=size, dim=1).transpose(0, 1), phase, rows[z].transpose(0, 1))
    H = phase.new_zeros((2 * m + 1, 2 * m + 1, m + 1))
    inside = H[m - reach : m + reach + 1, m - reach : m + reach + 1, : reach + 1]
    for y in _chunks(2 * reach + 1, size * (reach + 1)):
        _take_signed(torch.fft.fft(rows[:, y], n=size, dim=0), phase, inside[:, y])
    return H


def _chunks(count: int, each: int) -> Iterator[slice]:
    """Stretches of ``count`` lines of ``each`` values, which are transformed together."""
    step = max(1, _CHUNK_ELEMENTS // each)
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _take_signed(F: Tensor, phase: Tensor, out: Tensor) -> None:
    """out[q + reach] = F[q modulo its length] phase[q + reach], for q = -reach .. reach along the first axis."""
    reach = (len(phase) - 1) // 2
    factor = phase[:, None, None]
    torch.mul(F[: reach + 1], factor[reach:], out=out[reach:])
    torch.mul(F[len(F) - reach :], factor[:reach], out=out[:reach])


def _put_signed(source: Tensor, share: Tensor, out: Tensor) -> None:
    """out[q modulo its length] = source[q + reach] share[q + reach], for q = -reach .. reach along the first axis.

    Where both ends meet in one place, their sum; places that no q meets are left alone.
    """
    reach, size = (len(share) - 1) // 2, len(out)
    factor = share[:, None, None]
    torch.mul(source[reach:], factor[reach:], out=out[: reach + 1])
    first = int(2 * reach == size)
    torch.mul(source[first:reach], factor[first:reach], out=out[size - reach + first :])
    if first:
        out[reach] += source[0] * share[0]


def from_half_volume(H: Tensor, padding: int, box: int) -> Tensor:
    """Real map [z,y,x] of side `box` from a half volume H[2m+1, 2m+1, m+1] (layout of `half_volume`).

    Inverse transform on the padded grid (scaled by 1 / (padding box)^3, zero where H does not reach), cropped to the
    box and not divided by the trilinear envelope. The plane qx = 0 must hold both Friedel mates. Where the mates
    differ, the imaginary part that they leave is dropped, which amounts to taking their Hermitian mean.
    """
    m, size = H.shape[-1] - 1, padding * box
    reach = min(m, size // 2)
    q = torch.arange(-reach, reach + 1, device=H.device)
    phase = _centre_phase(q, box, size, H.real).conj()
    # An even grid has one Nyquist coefficient where H stores two: take their mean.
    share = phase * torch.where(2 * q.abs() == size, 0.5, 1.0).to(H.real.dtype)
    inside = H[m - reach : m + reach + 1, m - reach : m + reach + 1, : reach + 1]
    rows = H.new_empty((box, 2 * reach + 1, reach + 1))
    lines = size * (reach + 1)
    padded = H.new_zeros((size, min(max(box, 2 * reach + 1), max(1, _CHUNK_ELEMENTS // lines)), reach + 1))
    for y in _chunks(2 * reach + 1, lines):
        part = padded[:, : y.stop - y.start]
        _put_signed(inside[:, y], share, part)
        rows[:, y] = torch.fft.ifft(part, dim=0)[:box]
    out = H.real.new_empty((box, box, box))
    for z in _chunks(box, lines):
        part = padded[:, : z.stop - z.start]
        _put_signed(rows[z].transpose(0, 1), share, part)
        columns = torch.fft.ifft(part, dim=0)[:box] * phase[reach:]
        out[z] = irfft(columns, size, dim=2)[..., :box].transpose(0, 1)
    return out


def _centre_phase(q: Tensor, box: int, size: int, like: Tensor) -> Tensor:
    """exp(2 pi i q c / size), which moves the origin of an end-padded transform to c = box // 2."""
    # q c is reduced modulo the size in integers, so that the phase is right to the last bit for any box.
    angle = (q * (box // 2) % size).double() * (2 * math.pi / size)
    phase = torch.polar(torch.ones_like(angle), angle)
    return phase.to(torch.complex128 if like.dtype == torch.float64 else torch.complex64)
