"""How much of its own noise an image finds in its reference, which is made from it, too.

Of n images a voxel of their map is sum s c y / sum s^2 c^2, so that an image meets s^2 c |y|^2 / (sigma2 sum s^2 c^2)
of itself in ``cross``: a signal that any change of the CTF loses, and that pulls every value to the old one. In small
sets it outweighs the particle at high resolution. The map of the other half set has the same particle and none of this
noise. The difference of the products with both maps, summed over many images, is the noise alone: for each shell a
share e of (f s^2 / sigma2) c, which `products` takes off. Poses that have followed noise are in it, too. Nothing but
these few numbers, which tell less than the FSC does, goes from one half set to the other.

Measured on 1,000 images of a transporter (192 pixels of 1.2 A, signal over noise 0.03) against half maps of 500 images
each, 3.8 A: changes of defocus with a spread of 151 A are found at 0.51 of their size, with a rms error of 80 A, and at
0.90 with one of 55 A where own noise is taken off (0.89 and 56 A against the map of the other half set;
relion_ctf_refine 3.1.3: 0.46 and 90 A). Half maps that lie 0.3 A apart change this by 2 %.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import PosedImages, Range

SMOOTHED = 3  # shells that are averaged


class OwnNoise:
    """Sums over images against the references of their own half set and of the other one. used: shells that count."""

    def __init__(self, used: Range) -> None:
        self._used = used
        self._sums = torch.zeros(2, used.last + 1, dtype=torch.float64)

    def add_(self, posed: PosedImages, own: bool) -> None:
        """Count images against the reference of their own half set, or of the other one. All are to be counted in both
        ways."""
        products = replace(posed, own_noise=None).products(self._used)
        contrast = posed.images.ctf[:, posed.stretch(self._used)]
        match = (products.cross.real * contrast).sum(dim=0).cpu()
        shell = posed.shell(self._used).cpu()
        self._sums[0].index_add_(0, shell, match.double() if own else -match.double())
        if own:
            weight = (posed.norm_weight(self._used) * contrast.square()).sum(dim=0).cpu()
            self._sums[1].index_add_(0, shell, weight.double())

    def sums(self) -> list[Tensor]:
        """What was counted, in tensors that add up over processes, in place."""
        return [self._sums]

    def share(self) -> Tensor:
        """The share e, float64 [s], by shell of the reference."""
        kernel = torch.ones(1, 1, SMOOTHED, dtype=torch.float64)
        match, weight = torch.nn.functional.conv1d(self._sums[:, None], kernel, padding=SMOOTHED // 2)[:, 0]
        return torch.where(weight > 0, match / weight.clamp_min(1e-300), 0.0).clamp_min(0.0)
