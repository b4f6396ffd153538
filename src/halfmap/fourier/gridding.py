"""The real-space price of trilinear interpolation in Fourier space.

Trilinear interpolation convolves the padded transform with a triangle of half width one padded pixel along
each axis. In real space that multiplies the map by the triangle's transform, sinc^2(x / (padding n)) along
each axis. Dividing the map by this envelope before the transform (and after a reconstruction) makes the
interpolation right on average: Jackson et al. (1991) IEEE Trans. Med. Imaging 10:473, with the
triangle as the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def trilinear_envelope(box: int, padding: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """sinc^2((x - c) / (padding box)) for the voxels x of one axis, c = box // 2.

    Returns [x], 1 at the centre; at the box edge 0.405 for padding 1 and 0.811 for padding 2.
    """
    offset = torch.arange(box, dtype=torch.float64) - box // 2
    return torch.sinc(offset / (padding * box)).square().to(dtype)


def divide_envelope(v: Tensor, padding: int) -> Tensor:
    """Divide maps v[..,z,y,x] by the separable trilinear envelope; returns a new tensor of the same dtype."""
    envelope = trilinear_envelope(v.shape[-1], padding).to(device=v.device, dtype=v.dtype)
    return v / (envelope[:, None, None] * envelope[:, None] * envelope)
