"""What a regulariser is: statistics and a mask in, references and its own memory out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from halfmap.fourier.shells import half_volume_radius
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.validation.fsc import FscCurves


@dataclass(frozen=True)
class HalfSets:
    """Everything a regulariser may see.

    quarters[h][q]: finished statistics of the quarter sets; raw[h]: plain reconstructions [z, y, x] of the half sets
    (unregularised, unmasked); curves: their FSC curves; pixel_size in angstrom.
    """

    quarters: tuple[tuple[Backprojection, ...], ...]
    raw: tuple[Tensor, ...]
    curves: FscCurves
    pixel_size: float

    def half(self, h: int) -> Backprojection:
        """Statistics of half set h: the sum of its quarter sets."""
        total = self.quarters[h][0]
        for quarter in self.quarters[h][1:]:
            total = total + quarter
        return total

    def joined_below(self, shell: int) -> HalfSets:
        """The same with both half sets' statistics averaged up to ``shell``: they then share that resolution.

        Keeps the half sets in one orientation (RELION's low-resolution joining); raw maps and curves stay apart.
        """
        first = self.quarters[0][0]
        inside = half_volume_radius((first.sums.shape[0] - 1) // 2) <= first.padding * shell
        inside = inside.to(first.sums.device)[..., None]
        quarters = []
        for q in range(len(self.quarters[0])):
            mean = sum(half[q].sums for half in self.quarters) / len(self.quarters)
            quarters.append([replace(half[q], sums=torch.where(inside, mean, half[q].sums)) for half in self.quarters])
        return replace(self, quarters=tuple(tuple(q[h] for q in quarters) for h in range(len(self.quarters))))

    @staticmethod
    def build(
        quarters: tuple[tuple[Backprojection, ...], ...],
        pixel_size: float,
        curves_of: Callable[[Tensor, Tensor], FscCurves],
    ) -> HalfSets:
        """Reconstruct both half sets plainly and measure their FSC with ``curves_of(half1, half2)``."""
        raw = []
        for parts in quarters:
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            raw.append(reconstruct(total))
        return HalfSets(quarters, tuple(raw), curves_of(raw[0], raw[1]), pixel_size)


@dataclass(frozen=True)
class Solution:
    """References [h] (regularised, unmasked), the joined map, what was learnt, and the memory for the next iteration."""

    maps: tuple[Tensor, ...]
    joined: Tensor
    memory: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)


class Regulariser(Protocol):
    """A published method: name, what crosses between half sets, and one function."""

    name: str
    crosses: str

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """Regularised references from the statistics of both half sets; mask [z, y, x] in [0, 1]."""
        ...


def shell_ratio(fsc: Tensor, joined: bool) -> Tensor:
    """Signal-to-noise ratio per shell from a half-map FSC: F / (1 - F) of one half, 2F / (1 - F) of both together.

    Zero from the first shell on where the FSC falls to zero: beyond it a positive value is chance.
    """
    f = fsc.double().clamp(max=0.9999)
    below = torch.nonzero(f[1:] <= 0)
    if len(below):
        f = f.clone()
        f[int(below[0]) + 1 :] = 0.0
    return (2.0 if joined else 1.0) * f / (1 - f)
