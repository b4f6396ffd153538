"""The envelope by which interpolation in Fourier space multiplies a map, and how to divide by it.

Trilinear interpolation convolves the padded transform with a triangle whose half width is one padded pixel along each
axis. In real space that multiplies the map by the triangle's transform, sinc^2(x / (padding n)) along each axis.
Dividing the map by this envelope before the transform (and after a reconstruction) makes the interpolation right on
average: Jackson et al. (1991) IEEE Trans. Med. Imaging 10:473, with the triangle as the kernel. The same holds for any
other kernel that slices are inserted with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_QUADRATURE = 3000  # points of an integral over the kernel: right to 1e-7


def trilinear_envelope(box: int, padding: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """sinc^2((x - c) / (padding box)) for the voxels x of one axis, c = box // 2.

    Returns [x], 1 at the centre; at the box edge 0.405 for padding 1 and 0.811 for padding 2.
    """
    offset = torch.arange(box, dtype=torch.float64) - box // 2
    return torch.sinc(offset / (padding * box)).square().to(dtype)


def _gaussian_envelope(box: int, padding: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The envelope [x] of insertion with a Gaussian exp(-d^2 / 2), d in padded pixels.

    A sample goes to the three nearest grid points along each axis. It falls anywhere between them, so that a grid point
    collects samples from a width of three padded pixels. The envelope is 0.456 at the box edge for padding 2. The
    kernel is that of Luo et al. (2021); their program does not divide by the envelope.
    """
    offset = torch.arange(box, dtype=torch.float64) - box // 2
    d = 3.0 * ((torch.arange(_QUADRATURE, dtype=torch.float64) + 0.5) / _QUADRATURE - 0.5)
    weight = (-0.5 * d.square()).exp()
    wave = (2 * math.pi / (padding * box) * offset[:, None] * d).cos()
    return ((wave @ weight) / weight.sum()).to(dtype)


def insertion_envelope(box: int, padding: int, kernel: str) -> Tensor:
    """Envelope [x] (float64) of sums inserted with ``trilinear`` or ``gaussian`` weights."""
    return _gaussian_envelope(box, padding) if kernel == "gaussian" else trilinear_envelope(box, padding)


def divide_envelope(v: Tensor, padding: int, kernel: str = "trilinear") -> Tensor:
    """Divide maps v[..,z,y,x] by a kernel's separable envelope; returns a new tensor of the same dtype."""
    envelope = insertion_envelope(v.shape[-1], padding, kernel).to(device=v.device, dtype=v.dtype)
    return v / (envelope[:, None, None] * envelope[:, None] * envelope)
