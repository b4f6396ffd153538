"""Atoms as electrons see them: projections and maps of clouds of Gaussians, exact up to the Nyquist frequency.

The scattering of an atom is a sum of Gaussians (Peng et al. 1996, Acta Cryst. A52, 257, equation 2), f(s) = sum_t a_t
exp(-(b_t + B) s^2 / 4). Its potential and the projection of that are Gaussians too. They are evaluated in real space on
a grid finer than the pixels, and the frequencies beyond Nyquist are then removed. The result equals a camera image that
was scaled down by Fourier cropping; Gaussians sampled at the pixels themselves would alias. No map is ever
interpolated, so that images made here test every convention of a program that works with Fourier slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halfmap.fourier.real_transforms import irfft2, irfftn, rfft2
from halfmap.kernels.splat import splat_image, splat_planes
from halfmap.kernels.threads import for_ranges

ALIASED = 1e-3  # the fraction of the forward scattering that a point grid may fold back into the band
FINEST = 8  # points per pixel along an axis
PLANES_AT_ONCE = 32


@dataclass(frozen=True)
class Cloud:
    """Isotropic Gaussians: xyz[a,3] in A, weight[a,t] (scattering length of the term, A), exponent[a,t] in 1/A^2.

    A term with the B factor b (A^2, its own and the atom's together) has the exponent 4 pi^2 / b.
    """

    xyz: Tensor
    weight: Tensor
    exponent: Tensor

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def select(self, index: Tensor) -> Cloud:
        """The chosen atoms; index is a mask[a] or indices."""
        return Cloud(self.xyz[index], self.weight[index], self.exponent[index])


@dataclass(frozen=True)
class Placed:
    """A cloud in front of the camera: atoms at rotation[3,3] @ xyz, moved by shift[2] (x, y) in A."""

    cloud: Cloud
    rotation: Tensor
    shift: Tensor


def oversampling_for(clouds: Sequence[Cloud], pixel_size: float, tolerance: float = ALIASED) -> int:
    """Points per pixel along an axis at which sampling folds little of the scattering into the band.

    Little is less than `tolerance` of the whole. A grid of spacing p/f folds the frequencies beyond f/p - 1/(2p) into
    those below 1/(2p). At most 8.
    """
    for factor in range(1, FINEST):
        s = (factor - 0.5) / pixel_size
        folded = sum(float((c.weight * torch.exp(-(np.pi * s) ** 2 / c.exponent)).sum()) for c in clouds)
        if folded <= tolerance * sum(float(c.weight.sum()) for c in clouds):
            return factor
    return FINEST


def project(scenes: Sequence[Sequence[Placed]], box: int, pixel_size: float, oversampling: int) -> Tensor:
    """Band-limited projections [b,y,x] (float32, scattering length per square A), one image for each scene.

    The origin is at pixel [box//2, box//2]. Atoms outside the box are cut off.
    """
    size = box * oversampling
    images = np.zeros((len(scenes), size, size), np.float32)
    centre, spacing = oversampling * (box // 2), pixel_size / oversampling

    def work(start: int, stop: int) -> None:
        for b in range(start, stop):
            for body in scenes[b]:
                cloud = body.cloud
                if len(cloud):
                    splat_image(images[b], centre, cloud.xyz.numpy(), cloud.weight.numpy(), cloud.exponent.numpy(),
                                body.rotation.double().numpy(), body.shift.double().numpy(), spacing)

    for_ranges(work, len(scenes))
    return _cropped_image(torch.from_numpy(images), box, oversampling)


def density_map(clouds: Sequence[Cloud], box: int, pixel_size: float, oversampling: int) -> Tensor:
    """Band-limited map v[z,y,x] (float32) of clouds in the reference frame, origin at voxel box//2.

    Grey values are potential times pixel size, so that the sum of the map along z equals the projection along z that
    `project` gives.
    """
    size, keep = box * oversampling, (box - 1) // 2
    centre, spacing = oversampling * (box // 2), pixel_size / oversampling
    spectrum = torch.zeros(size, box, box // 2 + 1, dtype=torch.complex64)
    for first in range(0, size, PLANES_AT_ONCE):
        planes = np.zeros((min(PLANES_AT_ONCE, size - first), size, size), np.float32)

        def work(start: int, stop: int, planes: np.ndarray = planes, first: int = first) -> None:
            for cloud in clouds:
                if len(cloud):
                    splat_planes(planes[start:stop], first + start, centre, cloud.xyz.numpy(), cloud.weight.numpy(),
                                 cloud.exponent.numpy(), spacing)

        for_ranges(work, len(planes), grain=8)
        if planes.any():
            part = rfft2(torch.from_numpy(planes))
            spectrum[first:first + len(planes)] = _crop_rows(part, box)
    columns = torch.fft.fft(spectrum, dim=0)
    cropped = torch.zeros(box, *columns.shape[1:], dtype=columns.dtype)
    cropped[:keep + 1] = columns[:keep + 1]
    cropped[box - keep:] = columns[size - keep:]
    return irfftn(cropped, box) * (pixel_size / oversampling ** 3)


def _cropped_image(fine: Tensor, box: int, oversampling: int) -> Tensor:
    """Images [b,y,x] of side `box` with the frequencies of fine[b,y,x] below Nyquist."""
    spectrum = _crop_rows(rfft2(fine), box)
    return irfft2(spectrum, box) / oversampling ** 2


def _crop_rows(spectrum: Tensor, box: int) -> Tensor:
    """The frequencies of rfft2 spectra [..,y,x] strictly below the Nyquist frequency of `box` pixels."""
    size, keep = spectrum.shape[-2], (box - 1) // 2
    out = torch.zeros(*spectrum.shape[:-2], box, box // 2 + 1, dtype=spectrum.dtype)
    out[..., :keep + 1, :keep + 1] = spectrum[..., :keep + 1, :keep + 1]
    if keep:
        out[..., box - keep:, :keep + 1] = spectrum[..., size - keep:, :keep + 1]
    return out
