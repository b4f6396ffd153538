"""SIDESPLITTER: every voxel of a half map is low-passed to the finest level at which it rises above the noise.

Ramlaul, Palmer, Nakane & Aylett (2020) J. Struct. Biol. 211, 107545. Numbers that the paper leaves open are those of
their program. a, b are the half maps, low-passes are LP(k; k0) = [1 + (k / k0)^16]^(-1/2), averages < > run over the
mask.

1. From low to high resolution, in bands LP(k; k') - LP(k; k0): p = |1 - <(a - b)^2> / <(a + b)^2>|, and the next step
   is p k' / 64. Each band is multiplied by step / rms(a + b), the same factor for both half maps. The sum of the bands
   is a normalised map, in which noise at all levels can be compared. The bands end where the masked FSC falls below
   0.1, or p to 0.05.
2. From high to low resolution: both normalised maps are low-passed at the level. With d = (a - b) / 2, a voxel of
   either half map gets this level if it has none yet and its own square exceeds max(max d^2, 2 ln(count) <d^2>).

In a usual box such steps are narrower than a shell; here they are at least one shell wide. The factor is the same: a
step is far narrower than the fall of the low-pass, so the amplitude of a band is proportional to its width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfmap.fourier.shells import frequency_length, hermitian_weights, shell_index_3d, shell_sum
from halfmap.maps.filters import butterworth_gain
from halfmap.regularisation.half_maps import Filtered, from_spectra, plain_pair, spectra
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.validation.fsc import crossing_shell

FIRST_BAND = 0.025  # cycles per voxel
STEPS = 64  # frequency over next step, where all is signal
LEAST_STEP = 1.0  # shells
LEAST_FSC = 0.1  # within the mask; the first band beyond it is the last
LAST = 0.475  # cycles per voxel: the last band where the FSC never falls below LEAST_FSC
LEAST_SIGNAL = 0.05  # p at which the bands end
INSIDE = 0.99  # part of the mask's maximum: averages run over voxels above it


@dataclass(frozen=True)
class Level:
    """One low-pass of the series: its cut-off in cycles per box, and the factor of the band that ends there."""

    cutoff: float
    factor: float


@dataclass(frozen=True)
class Sidesplitter:
    """Options.

    mode: ``density`` gives each voxel the value of the original map, low-passed at the voxel's level (the program's
    --rotfl, which its RELION wrapper uses). ``spectrum`` (the program's default) takes the value of the normalised map,
    undoes the normalisation and masks the map; then it gives every shell the power of the half map within the mask,
    times 2 F / (1 + F) of the masked FSC. In both modes voxels without a level are zero.
    """

    mode: str = "density"
    name: str = "sidesplitter"
    crosses: str = "noise thresholds, band weights and resolution limit from the half maps' difference; solvent mask"

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """Filter both plain half maps; the joined map is their average. arrays as in `filter_pair`."""
        return self.filter_pair(plain_pair(halves), mask)

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same for finished half maps; mask [z, y, x]: where noise and signal are measured.

        arrays: theta [z, y, x], the local level in A (from the mean frequency of both half maps).
        """
        box = pair.half1.shape[-1]
        inside = mask.to(pair.half1) > INSIDE * float(mask.max())
        spectrum = spectra(torch.stack((pair.half1, pair.half2)))
        crossing = crossing_shell(pair.curves.masked, LEAST_FSC)
        levels = ladder(spectrum, inside, LAST * box if crossing is None else crossing)
        split = selected(spectrum, levels, inside, self.mode == "density")
        if self.mode == "spectrum":
            maps, mask = torch.stack((pair.half1, pair.half2)), mask.to(pair.half1)
            undone = bands_times(frequency_length(box).to(maps), levels, [1 / level.factor for level in levels])
            restored = from_spectra(spectra(split.maps) * undone) * mask
            restored = _with_power_of(restored, maps * mask, pair.curves.masked, levels[-1].cutoff)
            split = replace(split, maps=restored)
        theta = box * pair.pixel_size / split.cutoff.mean(dim=0)
        return Solution((split.maps[0], split.maps[1]), split.maps.mean(dim=0), arrays={"theta": theta})


def ladder(spectrum: Tensor, inside: Tensor, limit: float) -> list[Level]:
    """Step 1 of the method: levels from low to high resolution.

    spectrum [h, z, y, x // 2 + 1]: transforms of the half maps. inside [z, y, x] (bool): where power is measured.
    limit: in cycles per box; the first level at or beyond it is the last.
    """
    box = spectrum.shape[-2]
    length = frequency_length(box).to(spectrum.real)
    levels: list[Level] = []
    step = FIRST_BAND * box
    below = torch.zeros_like(length)
    cutoff = 0.0
    while True:
        cutoff += step
        gain = butterworth_gain(length, cutoff)
        a, b = from_spectra(spectrum * (gain - below))
        below = gain
        noise, power = (float(v[inside].double().square().mean()) for v in (a - b, a + b))
        signal = abs(1 - noise / power) if power > 0 else 0.0
        if power > 0:
            levels.append(Level(cutoff, step / math.sqrt(power)))
        if cutoff >= limit or signal <= LEAST_SIGNAL:
            return levels or [Level(cutoff, 1.0)]  # maps of nothing
        step = max(signal * cutoff / STEPS, LEAST_STEP)


def bands_times(length: Tensor, levels: list[Level], factors: list[float]) -> Tensor:
    """Sum of the bands of all levels, each times its factor, at frequencies ``length`` (cycles per box)."""
    total, below = torch.zeros_like(length), torch.zeros_like(length)
    for level, factor in zip(levels, factors, strict=True):
        gain = butterworth_gain(length, level.cutoff)
        total += factor * (gain - below)
        below = gain
    return total


def selected(spectrum: Tensor, levels: list[Level], inside: Tensor, original: bool) -> Filtered:
    """Step 2 of the method: half maps [h, z, y, x] with every voxel low-passed at its level, and the cut-offs of the
    levels [h, z, y, x].

    spectrum [h, z, y, x // 2 + 1]: transforms of the half maps. inside [z, y, x] (bool): where noise is measured.
    original: take values of the original maps, not of the normalised ones. A voxel without a level is 0, and its
    cut-off is that of the lowest level.
    """
    box = spectrum.shape[-2]
    length = frequency_length(box).to(spectrum.real)
    normalised = spectrum * bands_times(length, levels, [level.factor for level in levels])
    maps = length.new_zeros((2, box, box, box))
    cutoffs = torch.full_like(maps, levels[0].cutoff)
    free = torch.ones_like(maps, dtype=torch.bool)
    for level in reversed(levels):
        gain = butterworth_gain(length, level.cutoff)
        low = from_spectra(normalised * gain)
        new = free & (low.square() > threshold(low[:, inside]))
        if original and bool(new.any()):
            del low  # two maps fewer in memory
            low = from_spectra(spectrum * gain)
        torch.where(new, low, maps, out=maps)
        cutoffs[new] = level.cutoff
        free &= ~new
        del low
    return Filtered(maps, cutoffs)


def threshold(low: Tensor) -> float:
    """What the square of a voxel has to exceed to rise above the noise; low [h, x]: low-passed voxels in the mask."""
    noise = (0.5 * (low[0] - low[1])).double().square()
    return max(float(noise.max()), 2 * math.log(len(noise)) * float(noise.mean()))


def _with_power_of(maps: Tensor, original: Tensor, fsc: Tensor, limit: float) -> Tensor:
    """Scale every shell of maps [h, z, y, x] to the power of the originals times 2 F / (1 + F); zero beyond the limit.

    fsc [s]: F. limit: in cycles per box.
    """
    box = maps.shape[-1]
    V, shell, count = spectra(maps), shell_index_3d(box).to(maps.device), box // 2 + 1
    weights = hermitian_weights(box).to(maps)
    have, wanted = (shell_sum((T.real.square() + T.imag.square()) * weights, shell, count)
                    for T in (V, spectra(original)))
    f = fsc.to(have).clamp(0, 1)
    ratio = torch.where(have > 0, wanted / have.clamp_min(torch.finfo(have.dtype).tiny), 0.0) * 2 * f / (1 + f)
    ratio[:, torch.arange(count) > limit] = 0.0
    gain = torch.cat([ratio.sqrt(), ratio.new_zeros(2, 1)], dim=1)[:, shell.clamp(max=count)]
    return from_spectra(V * gain.to(maps))
