"""Half maps, and transforms of them, for the methods that filter finished maps.

Such a method applies many radial filters to both half maps. Radial filters need no phase origin, so the transforms here
leave out the shifts of those in fourier.transform.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from halfmap.fourier.real_transforms import irfftn, rfftn
from halfmap.regularisation.protocol import HalfSets, MapPair


@dataclass(frozen=True)
class Filtered:
    """Filtered half maps [h, z, y, x], and their local cut-off in cycles per box: [h, z, y, x], or one for both
    [z, y, x]."""

    maps: Tensor
    cutoff: Tensor


def plain_pair(halves: HalfSets) -> MapPair:
    """Plain reconstructions of both half sets; they share their low resolution if the statistics are joined there."""
    return MapPair(halves.plain(0), halves.plain(1), halves.curves, halves.pixel_size)


def spectra(maps: Tensor) -> Tensor:
    """Transforms [.., z, y, x // 2 + 1] of maps [.., z, y, x] in rfft layout, with the phase origin in the corner."""
    return rfftn(maps)


def from_spectra(spectrum: Tensor) -> Tensor:
    """Maps [.., z, y, x] from their transforms by `spectra`; the box is the length of the y axis."""
    return irfftn(spectrum, spectrum.shape[-2])
