"""The Band: which Fourier coefficients of an image are kept, and in which order.

The band holds exactly one of each Friedel pair and leaves the origin out. Coefficients are sorted by shell and, within
a shell, by polar angle. A lower resolution is therefore the prefix ``[:band.count(limit)]`` and never another code
path. With ``sigma2 = E|n_k|^2`` the Gaussian log-likelihood of the whole plane is ``-sum_band |y - A V|^2 / sigma2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from halfmap.fourier.real_transforms import rfft2
from halfmap.runtime.device import sent


@dataclass(frozen=True)
class Band:
    """Kept Fourier coefficients of an image of ``box`` pixels.

    kxy: int64 [k, 2], (kx, ky) in cycles per box; shell: int64 [k], round(|k|), ascending.
    """

    box: int
    kxy: Tensor
    shell: Tensor

    @staticmethod
    def to_shell(box: int, limit: int) -> Band:
        """The coefficients with ``0 < round(|k|) <= limit``, and none beyond `band_limit`."""
        limit = min(limit, band_limit(box))
        axis = torch.arange(-limit, limit + 1)
        ky, kx = torch.meshgrid(axis, axis[limit:], indexing="ij")
        kx, ky = kx.reshape(-1), ky.reshape(-1)
        shell = torch.sqrt((kx * kx + ky * ky).double()).round().long()
        keep = (shell > 0) & (shell <= limit) & ((kx > 0) | (ky > 0))
        kx, ky, shell = kx[keep], ky[keep], shell[keep]
        angle = torch.atan2(ky.double(), kx.double())
        order = torch.argsort(shell.double() * 8 + angle, stable=True)
        return Band(box, torch.stack([kx[order], ky[order]], dim=1), shell[order])

    @cached_property
    def _shells(self) -> np.ndarray:
        """The shells [k] where they can be looked at without waiting for a device."""
        return self.shell.cpu().numpy()

    @property
    def limit(self) -> int:
        """The highest shell of the band."""
        return int(self._shells[-1])

    def __len__(self) -> int:
        return len(self.shell)

    def count(self, limit: int) -> int:
        """Number of coefficients with shell <= limit. ``[:count]`` is the band of that lower resolution."""
        return int(np.searchsorted(self._shells, limit, side="right"))

    def to(self, device: torch.device) -> Band:
        """The same band on another device."""
        return Band(self.box, self.kxy.to(device), self.shell.to(device))

    def prefix(self, limit: int) -> Band:
        """The band of the shells up to limit, a lower resolution."""
        k = self.count(limit)
        return Band(self.box, self.kxy[:k], self.shell[:k])

    def gather(self, images_fft: Tensor) -> Tensor:
        """Band coefficients [b, k] of centred image transforms [b, y, x//2+1]."""
        return images_fft.flatten(1).index_select(1, self._places().to(images_fft.device))

    def _places(self, part: slice = slice(None)) -> Tensor:
        """Where coefficients [k] lie in a flat transform [y * (x // 2 + 1)]."""
        return torch.remainder(self.kxy[part, 1], self.box) * (self.box // 2 + 1) + self.kxy[part, 0]

    def transform(self, images: Tensor, part: slice = slice(None)) -> Tensor:
        """Coefficients [b, k], those of ``part`` of the band, of real images [b, y, x]; origin at the centre pixel.

        What `gather` takes from fourier.transform.image_fft. The origin is moved there in the coefficients, which are
        fewer than pixels.
        """
        box = self.box
        taken = rfft2(images).flatten(1).index_select(1, sent(self._places(part), images.device))
        turns = sent(self.kxy[part].sum(dim=1) * (box // 2) % box, images.device)
        if box % 2 == 0:
            return taken.mul_((1 - 4 * turns / box).to(images.dtype))  # no turn or half of one
        angle = turns.double() * (2 * math.pi / box)
        return taken.mul_(torch.polar(torch.ones_like(angle), angle).to(taken.dtype))

    def shell_sum(self, values: Tensor) -> Tensor:
        """Sum values [..., k] over each shell: [..., limit + 1], in the values' dtype. Shell 0 is zero."""
        out = values.new_zeros((*values.shape[:-1], self.limit + 1))
        return out.index_add_(-1, self.shell.to(values.device), values)


def band_limit(box: int) -> int:
    """The highest shell a band of this box may hold: every coefficient strictly inside Nyquist."""
    return math.ceil(box / 2) - 1
