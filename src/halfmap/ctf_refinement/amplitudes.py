"""How strong the particle is in images, by shell, beside the map that they are compared with.

A likelihood that knows a model's phases and not its amplitudes is led astray by them: where the CTF turns slowly, a
model that is too strong is best with a CTF smaller than the true one, by another constant phase or defocus. The filter
and mask of a map, and what microscope and camera do to high frequencies, leave amplitudes that are not those of the
images. The least-squares factor of the map, of all images and shell by shell, takes that out. It is found against the
map of the other half set, in which images do not find their own noise.

Of 2,304 images of apoferritin, whose transform has rings, the factor lies between 0.6 and 1.8. Without it amplitude
contrast was found at 0.151 +- 0.006 from 30 A on (45 nats), with it at 0.037 +- 0.008 (14 nats). The file says 0.07,
and so do, within 0.047, the shells from 14 A on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.expectation.search import Reference

EXPECTED = 10.0  # what is known before of the factor's inverse variance about 1: it is 1 where images hardly tell it


class Amplitudes:
    """Sums over images against the reference of the other half set. used: shells that count."""

    def __init__(self, used: Range) -> None:
        self._used = used
        self._sums = torch.zeros(2, used.last + 1, dtype=torch.float64)

    def add_(self, posed: PosedImages) -> None:
        """Count images, against the reference of the other half set."""
        products = posed.products(self._used)
        contrast = posed.images.ctf[:, posed.stretch(self._used)]
        shell = posed.shell(self._used).cpu()
        for into, values in zip(self._sums, (products.cross.real * contrast, products.norm * contrast.square()),
                                strict=True):
            into.index_add_(0, shell, values.sum(dim=0).double().cpu())

    def sums(self) -> list[Tensor]:
        """What was counted, in tensors that add up over processes, in place."""
        return [self._sums]

    def factor(self) -> Tensor:
        """The factor, float64 [s], by shell of the reference."""
        match, norm = self._sums
        return ((match + EXPECTED) / (norm + EXPECTED)).clamp_min(0.0)


def scale_(reference: Reference, factor: Tensor) -> None:
    """Multiply a reference by a factor [s] for each shell, in place; linear between shells, and constant beyond."""
    volume = reference.volume
    m = volume.shape[2] - 1
    radius = torch.arange(3 * m * m + 1, dtype=torch.float64).sqrt_().div_(reference.padding)
    low = radius.floor().long().clamp_(max=len(factor) - 2)
    by_square = torch.lerp(factor[low], factor[low + 1], (radius - low).clamp_(max=1.0)).float().to(volume.device)
    square = torch.arange(-m, m + 1, device=volume.device).square()
    plane = square[:, None] + square[m:]
    for z in range(2 * m + 1):
        volume[z] *= by_square[plane + square[z]]
