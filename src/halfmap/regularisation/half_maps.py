"""The half maps that a method works on which filters finished maps, and their radial filters.

Such a method applies many filters without direction to both half maps. They need no phase origin, so the transforms
here are spared the shifts of those in fourier.transform.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.regularisation.protocol import HalfSets, MapPair


def plain_pair(halves: HalfSets) -> MapPair:
    """Plain reconstructions of the statistics: ``halves.raw``, but joined at low resolution if the statistics are."""
    return MapPair(halves.plain(0), halves.plain(1), halves.curves, halves.pixel_size)


def spectra(maps: Tensor) -> Tensor:
    """Transforms of maps [.., z, y, x] in rfft layout, phase origin in the corner."""
    return torch.fft.rfftn(maps, dim=(-3, -2, -1))


def from_spectra(spectrum: Tensor) -> Tensor:
    """Maps [.., z, y, x] from transforms by `spectra`, of which the axis y tells the box."""
    return torch.fft.irfftn(spectrum, s=(spectrum.shape[-2],) * 3, dim=(-3, -2, -1))
