"""Uniform regularisation: one Wiener filter for the whole map, from the half-map FSC.

Scheres (2012) J. Mol. Biol. 415, 406, equations 9-12: tau2 = SSNR x noise power. The signal-to-noise ratio comes from
the gold-standard FSC as F / (1 - F) (Rosenthal & Henderson 2003). In terms of the sums of the M-step this is
V = numerator / (weight + mean weight of the shell / SSNR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from halfmap.maps.filters import apply_radial_gain
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution, shell_ratio


@dataclass(frozen=True)
class Uniform:
    """Wiener filter from the FSC; curve: ``corrected`` (inside the mask, by phase randomisation) or ``unmasked``."""

    curve: str = "corrected"
    name: str = "uniform"
    crosses: str = "shell spectrum (FSC), solvent mask"

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """References V = N / (W + mean W / SSNR) of each half set; the joined map is that of both sums together, with
        twice the SSNR."""
        fsc = getattr(halves.curves, self.curve)
        maps = tuple(reconstruct(s, wiener_ridge(s, fsc, joined=False)) for s in halves.halves)
        both = halves.halves[0] + halves.halves[1]
        return Solution(maps, reconstruct(both, wiener_ridge(both, fsc, joined=True)))

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same filter for finished half maps: their gain is FSC, the gain of their average 2 FSC / (1 + FSC)."""
        fsc = getattr(pair.curves, self.curve)
        one, both = (ratio / (1 + ratio) for ratio in (shell_ratio(fsc, False), shell_ratio(fsc, True)))
        halves = (pair.half1, pair.half2)
        maps = tuple(apply_radial_gain(v, one) for v in halves)
        return Solution(maps, apply_radial_gain((halves[0] + halves[1]) / 2, both))


def wiener_ridge(statistics: Backprojection, fsc: Tensor, joined: bool) -> Tensor:
    """1/tau2 [s] by shell, in the units of the weight: mean weight over SSNR.

    joined: whether the statistics hold both half sets, for which the SSNR is doubled.
    """
    ratio = shell_ratio(fsc[: statistics.limit + 1], joined).to(statistics.sums.device)
    weight = statistics.shell_weight().to(ratio)
    return weight[: len(ratio)] / ratio.clamp_min(1e-6)
