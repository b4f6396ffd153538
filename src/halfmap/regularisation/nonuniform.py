"""Non-uniform refinement: a low-pass whose cut-off at each place is chosen by cross-validation inside each half set.

Punjani, Zhang & Fleet (2020) Nature Methods 17, 1214, algorithms 1 and 2, equations 3-8. The raw maps m1, m2 of the two
quarter sets of a half set choose the cut-off (local_cutoff.py), which then filters the raw map of the whole half set
(local_filter.py). Where the paper is silent the choices are ours, each an option of the class. Nothing passes from one
half set to the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halfmap.fourier.transform import coarser_box, resample_volume
from halfmap.reconstruction.inverse import reconstruct
from halfmap.regularisation.local_cutoff import CrossValidation, local_cutoff
from halfmap.regularisation.local_filter import Butterworth, Lattice, locally_filtered
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.validation.fsc import crossing_shell, fsc

BEYOND = 1.25  # candidates reach this far beyond the last shell on which the two maps agree
AGREED = 0.143
SPARE = 6  # shells of quarter maps beyond that


@dataclass(frozen=True)
class NonUniform:
    """Options: see CrossValidation and Butterworth; ``candidates`` cut-offs, equispaced in frequency, from ``coarsest``
    (angstrom) to ``finest`` (angstrom; by default a little beyond where the quarter maps stop agreeing)."""

    order: int = 8
    amplitude: str = "root"
    awf: float = 3.0
    window: str = "gaussian"
    form: str = "increment"
    target: str = "half"
    candidates: int = 50
    coarsest: float = 30.0
    finest: float | None = None
    name: str = "nonuniform"
    crosses: str = "solvent mask, limit of alignment (FSC)"

    @property
    def filter(self) -> Butterworth:
        """The low-pass."""
        return Butterworth(self.order, self.amplitude == "squared")

    @property
    def cross_validation(self) -> CrossValidation:
        """How cut-offs are compared."""
        return CrossValidation(self.filter, self.awf, self.window, self.form, self.target)

    def cutoffs(self, first: Tensor, second: Tensor, mask: Tensor, pixel_size: float, limit: int) -> Tensor:
        """Candidates [j] in cycles per box for two maps that hold nothing beyond shell ``limit``."""
        extent = first.shape[0] * pixel_size
        low = min(max(extent / self.coarsest, 2.0), limit - 1.0)
        if self.finest is not None:
            high = extent / self.finest
        else:
            curve = fsc(first * mask, second * mask)[: limit + 1]
            agreed = torch.nonzero(curve > AGREED)
            high = BEYOND * float(agreed[-1]) if len(agreed) else low
        return torch.linspace(low, max(min(high, float(limit)), low + 1.0), self.candidates, dtype=torch.float64)

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """References: the raw map of each half set, filtered at the cut-offs that its own quarter sets choose."""
        maps, chosen = [], []
        limit, box = self._coarser(halves)
        inside = resample_volume(mask, box)
        for h, half in enumerate(halves.halves):
            quarters = [reconstruct(halves.quarter(h, q, limit, box)) for q in (0, 1)]
            pixel_size = halves.pixel_size * half.box / box
            cutoffs = self.cutoffs(quarters[0], quarters[1], inside, pixel_size, limit)
            cutoff = local_cutoff(quarters[0], quarters[1], cutoffs, self.cross_validation)
            maps.append(locally_filtered(halves.plain(h), cutoff, self.filter))
            chosen.append(cutoff)
        arrays = _theta(chosen, maps[0].shape[0], halves.pixel_size)
        return Solution(tuple(maps), (maps[0] + maps[1]) / 2, arrays=arrays)

    def _coarser(self, halves: HalfSets) -> tuple[int, int]:
        """Shell and box that quarter maps need: nothing far beyond what the half maps agree on can be a cut-off."""
        box, limit = halves.halves[0].box, halves.halves[0].limit
        if self.finest is None:
            curves = (halves.curves.unmasked, halves.curves.corrected)
            agreed = max(int(crossing_shell(curve[: limit + 1], AGREED) or limit) for curve in curves)
            limit = min(limit, math.ceil(BEYOND * agreed) + SPARE)
        return limit, coarser_box(box, 2 * limit + 2)

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """Both half maps and their average, filtered at the cut-offs that the half maps choose together."""
        limit = (pair.half1.shape[0] - 1) // 2
        cutoffs = self.cutoffs(pair.half1, pair.half2, mask, pair.pixel_size, limit)
        cutoff = local_cutoff(pair.half1, pair.half2, cutoffs, self.cross_validation)
        first, second = (locally_filtered(m, cutoff, self.filter) for m in (pair.half1, pair.half2))
        return Solution((first, second), (first + second) / 2, arrays=_theta([cutoff], len(first), pair.pixel_size))


def _theta(cutoffs: list[Lattice], box: int, pixel_size: float) -> dict[str, Tensor]:
    """Local cut-off in angstrom [z, y, x], of the mean frequency of the half sets."""
    mean = torch.stack([c.on_grid(box) for c in cutoffs]).mean(dim=0)
    return {"theta": box * pixel_size / mean}
