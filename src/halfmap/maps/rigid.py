"""Maps rotated and shifted as rigid bodies."""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor


def moved(v: Tensor, rotation: Tensor, shift: Tensor, pixel_size: float, order: int = 3) -> Tensor:
    """The map v[z,y,x] moved so that what was at x is at rotation[3,3] @ x + shift[3] (x, y, z; A from the box centre).

    Interpolated by splines of the given order (1: linear, for masks and values with steps). What comes in from beyond
    the box is 0. float32 [z,y,x].
    """
    back = rotation.double().cpu().T.flip(0, 1)  # the axes of the array are z, y, x
    centre = torch.full((3,), float(v.shape[-1] // 2), dtype=torch.float64)
    offset = centre - back @ (centre + shift.double().cpu().flip(0) / pixel_size)
    values = v.double().cpu().numpy()
    found = ndimage.affine_transform(values, back.numpy(), offset.numpy(), order=order, mode="constant")
    return torch.from_numpy(found).float().to(v.device)
