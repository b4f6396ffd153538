"""Non-uniform refinement: a low-pass whose cut-off at each place is chosen by cross-validation inside each half set.

Punjani, Zhang & Fleet (2020) Nature Methods 17, 1214, algorithms 1 and 2, equations 3-8. The raw maps m1, m2 of the two
quarter sets of a half set choose the cut-off (local_cutoff.py). It then filters the raw map of the whole half set
(local_filter.py). Where the paper is silent the choices are ours, and each is an option of the class.

Both quarter sets were aligned to one reference, so their noise agrees a little. The two half sets were not, and their
FSC shows by how much: with aligned_noise="corrected", noise that quarter maps share is counted as noise. The FSC, one
number for each shell, is all that passes from one half set to the other. With "ignored", as published, nothing does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halfmap.fourier.real_transforms import rfftn
from halfmap.fourier.transform import coarser_box, resample_volume
from halfmap.regularisation.local_cutoff import CrossValidation, MapsToCompare, local_cutoff
from halfmap.regularisation.local_filter import Butterworth, Lattice, filtered_transform, locally_filtered, on_grid_of
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.validation.fsc import crossing_shell, fsc

BEYOND = 1.25  # highest candidate, over the last shell on which the two maps agree
AGREED = 0.143  # FSC of two maps that agree
SPARE = 6  # shells that quarter maps reach beyond the highest candidate
SMOOTHED = 2  # shells on either side that the gain for shared noise is averaged over
TOO_ALIKE = 0.9  # correlation of quarter maps above which they hold too little noise to measure its shared part


@dataclass(frozen=True)
class Validated:
    """Map of one half set as its transform (rfftn), and the local cut-off that its quarter sets choose."""

    transform: Tensor
    cutoff: Lattice


@dataclass(frozen=True)
class NonUniform:
    """Options of non-uniform refinement.

    order, amplitude (``root`` or ``squared``): see Butterworth. awf, window, form, target: see CrossValidation.
    candidates: number of cut-offs, equally spaced in frequency. coarsest, finest: the lowest and the highest cut-off in
    angstrom; None for the highest stands for a little beyond where the quarter maps stop agreeing. aligned_noise:
    ``corrected`` or ``ignored``. uneven_sampling: ``corrected`` evens the maps first (reconstruction/inverse.py).
    """

    order: int = 8
    amplitude: str = "root"
    awf: float = 3.0
    window: str = "gaussian"
    form: str = "increment"
    target: str = "half"
    candidates: int = 50
    coarsest: float = 30.0
    finest: float | None = None
    aligned_noise: str = "corrected"
    uneven_sampling: str = "corrected"
    name: str = "nonuniform"
    crosses: str = "solvent mask, limit of alignment, share of aligned noise and weight of directions (FSC)"

    @property
    def filter(self) -> Butterworth:
        """The low-pass that is applied, and that cross-validation tries."""
        return Butterworth(self.order, self.amplitude == "squared")

    @property
    def cross_validation(self) -> CrossValidation:
        """How cut-offs are compared."""
        return CrossValidation(self.filter, self.awf, self.window, self.form, self.target)

    def cutoffs(self, curve: Tensor, extent: float, limit: int) -> Tensor:
        """Candidates [j] in cycles per box for two maps.

        curve [s]: their FSC inside the mask. extent: side of the box in angstrom. limit: last shell that they hold.
        """
        low = min(max(extent / self.coarsest, 2.0), limit - 1.0)
        if self.finest is not None:
            high = extent / self.finest
        else:
            agreed = torch.nonzero(curve[: limit + 1] > AGREED)
            high = BEYOND * float(agreed[-1]) if len(agreed) else low
        return torch.linspace(low, max(min(high, float(limit)), low + 1.0), self.candidates, dtype=torch.float64)

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """References: the map of each half set, filtered at the cut-offs that its own quarter sets choose."""
        maps, chosen = [], []
        for half in self.validated(halves, mask):
            maps.append(filtered_transform(half.transform, half.cutoff, self.filter))
            chosen.append(half.cutoff)
        arrays = local_resolution(chosen, maps[0].shape[0], halves.pixel_size)
        return Solution(tuple(maps), (maps[0] + maps[1]) / 2, arrays=arrays)

    def validated(self, halves: HalfSets, mask: Tensor) -> Iterator[Validated]:
        """Choose the cut-offs of one half set after the other; mask [z, y, x]: solvent mask."""
        limit, box = self._limit_and_box(halves)
        curve, inside = halves.curves.masked, resample_volume(mask, box)
        if self.uneven_sampling == "corrected":
            maps = [halves.evened(h, limit, box) for h in (0, 1)]
            if self.aligned_noise == "corrected":
                curve = agreement_within(inside, maps)
        else:
            maps = [halves.plain(h) for h in (0, 1)]
        for h in (0, 1):
            transform = on_grid_of(halves.halves[h].box, rfftn(maps.pop(0)))
            yield Validated(transform, self._cutoff(halves, h, transform, inside, curve))

    def _cutoff(self, halves: HalfSets, h: int, transform: Tensor, inside: Tensor, curve: Tensor) -> Lattice:
        """The local cut-off that the quarter sets of half set h choose.

        transform: of the half set's map (rfftn). inside [z, y, x]: the mask on the grid of the quarter maps'
        difference. curve [s]: FSC of the half maps within the mask.
        """
        limit, box = self._limit_and_box(halves)
        evened = self.uneven_sampling == "corrected"
        pair = MapsToCompare(transform, rfftn(halves.quarter_difference(h, limit, box, evened)))
        quarters = fsc(*(m * inside for m in pair.maps(box)))
        if self.aligned_noise == "corrected":
            pair = replace(pair, noise_gain=shared_noise_gain(quarters, curve))
        cutoffs = self.cutoffs(quarters, halves.halves[h].box * halves.pixel_size, limit)
        return local_cutoff(pair, cutoffs, self.cross_validation)

    def _limit_and_box(self, halves: HalfSets) -> tuple[int, int]:
        """Last shell and box side that quarter maps need: no cut-off lies far beyond where the half maps agree."""
        box, limit = halves.halves[0].box, halves.halves[0].limit
        if self.finest is None:
            curves = (halves.curves.unmasked, halves.curves.corrected)
            agreed = max(int(crossing_shell(curve[: limit + 1], AGREED) or limit) for curve in curves)
            limit = min(limit, math.ceil(BEYOND * agreed) + SPARE)
        return limit, coarser_box(box, 2 * limit + 2)

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """Filter both half maps at the cut-offs that they choose together; the joined map is their average."""
        cutoff = self.agreed(pair.half1, pair.half2, mask, pair.pixel_size)
        first, second = (locally_filtered(m, cutoff, self.filter) for m in (pair.half1, pair.half2))
        arrays = local_resolution([cutoff], len(first), pair.pixel_size)
        return Solution((first, second), (first + second) / 2, arrays=arrays)

    def agreed(self, first: Tensor, second: Tensor, mask: Tensor, pixel_size: float) -> Lattice:
        """The local cut-off that two maps [z, y, x] with independent noise choose."""
        box = first.shape[0]
        cutoffs = self.cutoffs(fsc(first * mask, second * mask), box * pixel_size, (box - 1) // 2)
        return local_cutoff(MapsToCompare.of(first, second), cutoffs, self.cross_validation)


def agreement_within(mask: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """FSC [s] of two half maps [z, y, x] inside a mask. It is all that is taken from both together."""
    return fsc(maps[0] * mask, maps[1] * mask)


def shared_noise_gain(quarters: Tensor, halves: Tensor) -> Tensor:
    """Factor [s] by which the difference of two quarter maps is multiplied in each shell, to hold all of their noise.

    quarters, halves: FSC [s] inside one mask, of the quarter maps of a half set and of the half maps. Quarter maps that
    share nothing but signal have the FSC f = F / (2 - F), where F is that of the half maps. A factor g of the
    difference makes it so: (S - g^2 D) / (S + g^2 D) = f for power S of the sum and D of the difference. S / D is
    (1 + F_q) / (1 - F_q) with the FSC F_q of the quarter maps, and so g^2 = (1 - F) (1 + F_q) / (1 - F_q). Its
    geometric mean over a few shells is taken. g is never below 1: half maps that agree better than their quarters do so
    by chance.
    """
    count = min(len(quarters), len(halves))
    q, f = quarters[:count].double().cpu(), halves[:count].double().cpu()
    tells = q.clamp_min(f) < TOO_ALIKE
    q, f = q.where(tells, 0.0), f.where(tells, 0.0)
    ones = torch.ones(1, 1, 2 * SMOOTHED + 1, dtype=torch.float64)
    total, shells = (torch.nn.functional.conv1d(v[None, None], ones, padding=SMOOTHED)[0, 0]
                     for v in (((1 - f) * (1 + q) / (1 - q)).log(), tells.double()))
    return (0.5 * total / shells.clamp_min(1)).clamp_min(0.0).exp()


def local_resolution(cutoffs: list[Lattice], box: int, pixel_size: float) -> dict[str, Tensor]:
    """``theta`` [z, y, x]: local cut-off in angstrom, from the mean frequency of the half sets; nothing without
    cut-offs."""
    if not cutoffs:
        return {}
    total = cutoffs[0].on_grid(box)
    for cutoff in cutoffs[1:]:
        total += cutoff.on_grid(box)
    return {"theta": total.reciprocal_().mul_(box * pixel_size * len(cutoffs))}
