"""A local half-map FSC as a filter in every iteration, like in EMAN2's refinement; here a control that leaks.

In each narrow band of frequencies the half maps are compared in a window around every point,

    F_j(x) = w * (a_j b_j) / sqrt(w * a_j^2  w * b_j^2),

and a band is kept, in both half maps alike, where they agree (Bell, Chen, Baldwin & Ludtke 2016, Methods 100, 25).
As a filter for display that is sound. Inside a refinement it is not: noise of both half sets that agrees by chance is
kept in both references, particles align to it, and it agrees better in the next iteration (Punjani et al. 2020,
Supplementary Figure 1).

The filter is written from its description. Where that leaves a choice, these are ours: Gaussian bands that are
normalised to add up to 1, so that a map of which all is kept does not change (except for the corners of its transform,
beyond Nyquist); a Gaussian window; the lowest band is always kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halfmap.fourier.shells import frequency_length
from halfmap.regularisation.half_maps import Filtered, from_spectra, plain_pair, spectra
from halfmap.regularisation.local_filter import Lattice, separable, window_weights
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.validation.fsc import GOLD_STANDARD, resolution

BAND = 3.0  # shells: distance between bands, and their full width at half maximum
EXTENT = {"tophat": 6.0, "wiener": 4.0}  # width of the window, in units of the resolution
LEAST_EXTENT = 15.0  # A, least width of the window
LEAST_FSC = {"tophat": GOLD_STANDARD, "wiener": 0.01}
SNR_SCALE = 3.0  # in the Wiener filter: SNR = 3 F / (1 - F)
PER_WINDOW = 3.5  # lattice points across the window's extent: linear interpolation between them is good to 3 %
CUBE = math.sqrt(1.5 / math.log(2.0))  # side of the cube with a Gaussian's variance, over its width at half maximum
SILENT = 1e-10  # part of the map's power: a band with less power than this, at one place, is rounding error


@dataclass(frozen=True)
class LocalFsc:
    """Options of the filter.

    mode: ``tophat`` keeps a band where its local FSC exceeds the threshold; ``wiener`` multiplies it there by
    3 F / (1 + 2 F). window: full width at half maximum of the Gaussian window in A; None stands for six times
    (wiener: four times) the resolution that the FSC gives, at least 15 A. threshold: None stands for 0.143 (wiener:
    0.01).
    """

    mode: str = "tophat"
    window: float | None = None
    threshold: float | None = None
    name: str = "local-fsc"
    crosses: str = "local half-map FSC: both half sets get one local filter made from both; solvent mask"

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """Filter both plain half maps and their average with one local filter; arrays as in `filter_pair`."""
        return self.filter_pair(plain_pair(halves), mask)

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same for finished half maps. The solvent mask is not used.

        arrays: theta [z, y, x], the resolution in A up to which every band is kept there.
        """
        box = pair.half1.shape[-1]
        extent = self.window or max(EXTENT[self.mode] * resolution(pair.curves.corrected, box, pair.pixel_size),
                                    LEAST_EXTENT)
        filtered = self._filtered(torch.stack((pair.half1, pair.half2)), extent / pair.pixel_size)
        maps, theta = filtered.maps, box * pair.pixel_size / filtered.cutoff
        return Solution((maps[0], maps[1]), maps.mean(dim=0), arrays={"theta": theta})

    def _filtered(self, maps: Tensor, extent: float) -> Filtered:
        """Filter half maps [h, z, y, x] with one local cut-off [z, y, x]; extent: of the window, in voxels."""
        box = maps.shape[-1]
        spectrum = spectra(maps)
        length = frequency_length(box).to(maps)
        spectrum /= _all_bands(length)
        spacing = max(1.0, extent / PER_WINDOW)
        window = window_weights(Lattice.positions(box, spacing), box, box, CUBE * extent, "gaussian").to(maps)
        silent = SILENT * maps.square().mean()
        kept_all = torch.ones_like(maps[0])  # 1 where all bands so far are kept
        bands = torch.ones_like(maps[0])  # number of bands up to the first that is not kept
        del maps  # large maps need the memory
        threshold = LEAST_FSC[self.mode] if self.threshold is None else self.threshold
        result = from_spectra(spectrum * _band(length, 0))
        for j in range(1, math.ceil(box / 2 / BAND) + 2):
            band = from_spectra(spectrum * _band(length, j))
            correlation = _local_correlation(band, window, silent)
            if not bool((correlation > threshold).any()):
                kept_all.zero_()
                continue
            correlation = Lattice(correlation, spacing, box).on_grid(box)
            kept = (correlation > threshold).to(correlation)
            kept_all *= kept
            bands += kept_all
            result += band.mul_(kept if self.mode == "tophat" else kept * _wiener(correlation))
            del band, correlation, kept
        return Filtered(result, BAND * (bands - 0.5))


def _band(length: Tensor, j: int) -> Tensor:
    """Gaussian of band j, 1 at the band's centre, at frequencies ``length`` (cycles per box)."""
    return (-4 * math.log(2.0) * (length / BAND - j).square()).exp()


def _wiener(correlation: Tensor) -> Tensor:
    """SNR / (1 + SNR), with the signal-to-noise ratio from a correlation of half maps."""
    ratio = SNR_SCALE * correlation
    return ratio / (ratio + 1 - correlation)


def _all_bands(length: Tensor) -> Tensor:
    """Sum of the Gaussians of all bands 0, 1, .. at frequencies ``length`` (cycles per box)."""
    nearest = (length / BAND).round()
    total = torch.zeros_like(length)
    for i in range(-3, 4):
        total += (-4 * math.log(2.0) * (length / BAND - nearest - i).square()).exp() * (nearest + i >= 0)
    return total


def _local_correlation(band: Tensor, window: Tensor, silent: Tensor) -> Tensor:
    """Normalised correlation [p, p, p] at the lattice points between one band of both half maps [h, z, y, x].

    window [p, i]: see window_weights. silent: local power below which the correlation is 0.
    """
    a, b = band
    cross, first, second = (separable(product, window) for product in (a * b, a.square(), b.square()))
    heard = torch.minimum(first, second) > silent
    return torch.where(heard, cross / (first * second).clamp_min(torch.finfo(first.dtype).tiny).sqrt(), 0.0)
