"""A strict resolution limit: amplitudes beyond it become zero, all others stay as they are.

This is the regularisation of Frealign and cisTEM (Grant, Rohou & Grigorieff 2018, eLife 7, e35383). The limit is the
only safeguard against overfitting. Their mask for a labelled region comes with it: density outside the well-ordered
part, a micelle for instance, is low-passed to a coarser limit, attenuated or cleared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from halfmap.maps.filters import lowpass
from halfmap.regularisation.half_maps import plain_pair
from halfmap.regularisation.protocol import HalfSets, MapPair, Solution
from halfmap.validation.fsc import GOLD_STANDARD, crossing_shell


@dataclass(frozen=True)
class Cutoff:
    """Options of the limit.

    resolution: the limit in A. None takes it from where the corrected FSC first falls below ``threshold``, and cuts
    nothing if it never does. edge: number of shells over which a cosine falls to zero; it ends at the limit.

    mask [z, y, x]: 1 in the well-ordered part of the map, with a soft edge; None stands for the whole map. outside:
    resolution in A of the density outside the mask; None for the same as inside. weight: how much of the density
    outside is kept, from 0 (only the solvent's level) to 1 (all).
    """

    resolution: float | None = None
    threshold: float = GOLD_STANDARD
    edge: float = 2.0
    mask: Tensor | None = field(default=None, repr=False, compare=False)
    outside: float | None = None
    weight: float = 1.0
    name: str = "cutoff"

    @property
    def crosses(self) -> str:
        """The solvent mask, and the limit if it is found from the FSC."""
        return "resolution limit (FSC), solvent mask" if self.resolution is None else "solvent mask"

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """Cut both plain half maps at the limit. The joined map is the average of the cut half maps."""
        return self.filter_pair(plain_pair(halves), mask)

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same for finished half maps; mask [z, y, x]: solvent mask, outside of which the solvent's level is
        measured."""
        limit = self._limit(pair)
        half1, half2 = (self._cut(v, limit, mask, pair.pixel_size) for v in (pair.half1, pair.half2))
        return Solution((half1, half2), (half1 + half2) / 2)

    def _limit(self, pair: MapPair) -> float | None:
        """The limit in cycles per box; None if nothing is to be cut."""
        if self.resolution is not None:
            return pair.half1.shape[-1] * pair.pixel_size / self.resolution
        return crossing_shell(pair.curves.corrected, self.threshold)

    def _cut(self, v: Tensor, limit: float | None, solvent_mask: Tensor, pixel_size: float) -> Tensor:
        if limit is not None:
            edge = min(self.edge, limit)  # a limit in the first shells leaves no room for a wider edge
            v = lowpass(v, pixel_size, v.shape[-1] * pixel_size / (limit - edge / 2), edge)
        if self.mask is None:
            return v
        inside = self.mask.to(v)
        level = _solvent_level(v, inside, solvent_mask.to(v))
        surroundings = self._surroundings(v, inside, level, pixel_size)
        return inside * v + (1 - inside) * (level + self.weight * (surroundings - level))

    def _surroundings(self, v: Tensor, inside: Tensor, level: Tensor, pixel_size: float) -> Tensor:
        """The map [z, y, x] to take outside the mask, low-passed if ``outside`` is given.

        Before the low-pass the well-ordered part is replaced by solvent, so that the filter does not smear it over its
        surroundings.
        """
        if self.outside is None:
            return v
        return lowpass(inside * level + (1 - inside) * v, pixel_size, self.outside, self.edge)


def _solvent_level(v: Tensor, inside: Tensor, solvent_mask: Tensor) -> Tensor:
    """Mean of v outside both masks, or outside the first mask alone if both together fill the box."""
    weight = (1 - inside) * (1 - solvent_mask)
    if float(weight.mean()) < 1e-3:
        weight = 1 - inside
    return (weight * v).sum() / weight.sum().clamp_min(1e-6)
