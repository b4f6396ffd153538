"""Maps that are sparse in wavelets: coefficients are shrunk by the noise that a half set's own quarter maps show.

Kucukelbir, Sigworth & Tagare (2012) J. Struct. Biol. 179, 56 give the coefficients of a map in an orthogonal wavelet
basis a Laplacian prior and take the map of the largest posterior. For one coefficient y = x + noise of power s^2, with
a prior of power p^2, that is soft thresholding,

    x = sign(y) max(|y| - T, 0),        T = strength s^2 / p,

with strength sqrt(2). Chang, Yu & Vetterli (2000) IEEE Trans. Image Process. 9, 1532 find the threshold of the least
mean error near strength 1, which is taken here: a reference is better the nearer it is to the truth.

Ours: where the powers come from, and that they belong to a place. The noise of a half set's map has the power of half
the difference of its two quarter maps, d / 2, which holds no signal and is independent of the map's own noise
(HalfSets.quarter_difference). Both are transformed; s^2 is the mean of the transform of d / 2, squared, in a window
around the coefficient, and p^2 = mean y^2 - s^2 in a window half as wide, for every scale and direction by itself.
Where p^2 is not positive, nothing is left. Noise that quarter maps share, because they were aligned to one reference,
is counted as nonuniform.py of Halfmap does, by the FSC of the half maps. A wavelet transform depends on where its grid
lies, so the result is the mean over shifts of it (Coifman & Donoho 1995): of t (1, 3, 5) voxels, modulo 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pywt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from halfmap.fourier.transform import coarser_box, resample_volume
from halfmap.maps.filters import apply_radial_gain
from halfmap.regularisation.nonuniform import shared_noise_gain
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.validation.fsc import crossing_shell, fsc

AGREED = 0.143  # FSC of two maps that agree
BEYOND, SPARE = 1.25, 4  # shells that are kept: so many times those on which the half maps agree, and some more
NOISE_WINDOW = 2.0  # sd of the window for the noise over that for the signal, which is smaller than its details
STEPS, CYCLE = (1, 3, 5), 8  # shifts of the grid along z, y and x


@dataclass(frozen=True)
class Shrunk:
    """A map [z, y, x], and the share of the coefficients of every scale that is left, the coarsest first."""

    map: Tensor
    left: list[float]


@dataclass(frozen=True)
class Wavelet:
    """Options of the method.

    basis: orthogonal wavelet, as PyWavelets names it. strength: of the thresholds. coarsest: wavelength in angstrom
    beyond which nothing is shrunk. window: sd of the window for the power of the signal, in coefficients. turns: shifts
    that the result is averaged over.
    """

    basis: str = "sym4"
    strength: float = 1.0
    coarsest: float = 40.0
    window: float = 1.0
    turns: int = 4
    name: str = "wavelet"
    crosses: str = "solvent mask, limit of alignment, share of aligned noise and weight of directions (FSC)"

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """References: the map of each half set, shrunk by the noise of its own quarter maps.

        chosen: ``left`` [h][scale], the share of the coefficients that is left.
        """
        box, limit = halves.halves[0].box, self._limit(halves)
        grid = coarser_box(box, 2 * limit + 2)  # finer shells hold nothing that the half maps agree on
        inside, pixel_size = resample_volume(mask, grid), halves.pixel_size * box / grid
        maps = [halves.evened(h, limit, grid) for h in (0, 1)]
        agreement = fsc(maps[0] * inside, maps[1] * inside)  # all that is taken from both half sets
        found = []
        for h, v in enumerate(maps):
            noise = halves.quarter_difference(h, limit, grid, evened=True) / 2
            quarters = fsc((v + noise) * inside, (v - noise) * inside)
            noise = apply_radial_gain(noise, shared_noise_gain(quarters, agreement).to(noise))
            found.append(self.shrunk(v, noise, pixel_size))
        first, second = (resample_volume(one.map, box) for one in found)
        return Solution((first, second), (first + second) / 2, chosen={"left": [one.left for one in found]})

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same for two finished half maps, whose difference shows their noise."""
        half1, half2 = pair.half1, pair.half2
        first, second, both = (self.shrunk(v, (half1 - half2) * share, pair.pixel_size).map for v, share in
                               ((half1, math.sqrt(0.5)), (half2, math.sqrt(0.5)), ((half1 + half2) / 2, 0.5)))
        return Solution((first, second), both)

    def shrunk(self, v: Tensor, noise: Tensor, pixel_size: float) -> Shrunk:
        """A map with its coefficients shrunk.

        v, noise [z, y, x]: a map, and one of nothing but noise of the same power. pixel_size: in angstrom.
        """
        longest = pywt.dwt_max_level(len(v), self.basis)  # a longer wavelet would meet itself round the box
        levels = max(1, min(longest, round(math.log2(self.coarsest / (2 * pixel_size)))))
        grid = math.ceil(len(v) / 2**levels) * 2**levels  # of a size that can be halved so often
        given, random = (resample_volume(one, grid).cpu().float().numpy() for one in (v, noise))
        total, left = np.zeros_like(given), np.zeros(levels)
        for turn in range(self.turns):
            shift = tuple(turn * step % CYCLE for step in STEPS)
            signal, nothing = (self._transform(np.roll(one, shift, (0, 1, 2)), levels) for one in (given, random))
            for scale in range(levels):
                left[scale] += self._shrink(signal[scale + 1], nothing[scale + 1]) / self.turns
            back = pywt.waverecn(signal, self.basis, mode="periodization")
            total += np.roll(back, tuple(-one for one in shift), (0, 1, 2))
        found = resample_volume(torch.from_numpy(total / np.float32(self.turns)), len(v))
        return Shrunk(found.to(v), left.tolist())

    def _transform(self, values: np.ndarray, levels: int) -> list[Any]:
        """What is coarser than all wavelets [z, y, x], and for every scale the coefficients [z, y, x] by direction."""
        found: list[Any] = pywt.wavedecn(values, self.basis, mode="periodization", level=levels)
        return found

    def _shrink(self, bands: dict[str, np.ndarray], noises: dict[str, np.ndarray]) -> float:
        """Shrink the coefficients [z, y, x] of every direction in place. Returns the share of them that is left."""
        left = 0.0
        for direction, y in bands.items():
            s2 = gaussian_filter(noises[direction] ** 2, NOISE_WINDOW * self.window, mode="wrap")
            p2 = gaussian_filter(y**2, self.window, mode="wrap") - s2
            threshold = np.full_like(y, np.inf)
            np.divide(self.strength * s2, np.sqrt(np.maximum(p2, 0)), out=threshold, where=p2 > 0)
            x = np.sign(y) * np.maximum(np.abs(y) - threshold, 0)
            bands[direction] = x
            left += float((x != 0).mean()) / len(bands)
        return left

    @staticmethod
    def _limit(halves: HalfSets) -> int:
        """Last shell that is kept: a little beyond where the half maps stop agreeing."""
        limit = halves.halves[0].limit
        curves = (halves.curves.unmasked, halves.curves.corrected)
        agreed = max(int(crossing_shell(curve[: limit + 1], AGREED) or limit) for curve in curves)
        return min(limit, math.ceil(BEYOND * agreed) + SPARE)
