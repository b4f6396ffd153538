"""What a regulariser is: it takes statistics and a mask, and returns references and its own memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor

from halfmap.fourier.shells import half_volume_radius
from halfmap.kernels.evening import Evening
from halfmap.reconstruction.inverse import evening, reconstruct, reconstruct_evened, reconstructed_difference
from halfmap.reconstruction.statistics import Backprojection
from halfmap.validation.fsc import FscCurves


@dataclass(frozen=True)
class HalfSets:
    """Everything that a regulariser may see.

    halves [h]: finished statistics of the half sets. sums [h][q]: unfinished statistics of their quarter sets, which
    add up to those of the half sets. operators [o, 3, 3]: of the point group. raw [h]: plain reconstructions [z, y, x]
    of the half sets, neither regularised nor masked. curves: FSC of the raw maps. pixel_size: in angstrom. joined:
    whether the half sets share their low resolution. window [z, y, x]: references will be cleared where it is 0; None:
    nowhere.
    """

    halves: tuple[Backprojection, ...]
    sums: tuple[tuple[Backprojection, ...], ...]
    operators: Tensor
    raw: tuple[Tensor, ...]
    curves: FscCurves
    pixel_size: float
    joined: bool = False
    window: Tensor | None = None

    def plain(self, h: int) -> Tensor:
        """Map [z, y, x] of half set h without regularisation: raw[h], or the map of the joined statistics."""
        return reconstruct(self.halves[h]) if self.joined else self.raw[h]

    def evened(self, h: int, limit: int, box: int) -> Tensor:
        """Evened map [z, y, x] of half set h: no direction that few images show stands out by its noise.

        It holds shells up to ``limit`` and is on a grid of ``box`` voxels (Backprojection.coarser).
        """
        return reconstruct_evened(self.halves[h].coarser(limit, box), self._evening[h])

    @cached_property
    def _evening(self) -> tuple[Evening, ...]:
        """How each half set [h] is evened: with the corrected FSC of the half maps, up to where they stop agreeing."""
        ratio = shell_ratio(self.curves.corrected, joined=False)
        return tuple(evening(half, ratio / (1 + ratio)) for half in self.halves)

    def quarter(self, h: int, q: int, limit: int, box: int) -> Backprojection:
        """Finished statistics of quarter set q of half set h, up to shell ``limit``, for a map of ``box`` voxels
        (Backprojection.coarser).

        They are made on demand, because not every method looks at quarter sets.
        """
        part = self.sums[h][q].coarser(limit, box)
        if part is self.sums[h][q]:
            return part.finished(self.operators)
        return part.held().finished_(self.operators)  # the coarser sums are a copy already, which may be used up

    def quarter_difference(self, h: int, limit: int, box: int, evened: bool = False) -> Tensor:
        """Map [z, y, x] of the first quarter set of half set h less that of the second.

        limit, box: as in `quarter`. evened: even the difference, as `evened` does with the half set's map.

        The difference holds nothing but noise. With weights w1 and w2 it is independent of the noise in the half set's
        own map, (w1 m1 + w2 m2) / (w1 + w2). So this map and the difference say all that both quarter maps say, for
        half their transforms.
        """
        first, second = self.sums[h]
        if len(self.operators) > 1:
            first, second = (self.quarter(h, q, limit, self.halves[h].box) for q in (0, 1))
        weight = 0.5 * self.halves[h].shell_weight()[: limit + 2]
        return reconstructed_difference(first, second, weight, box, self._evening[h] if evened else None)

    def joined_below(self, shell: int) -> HalfSets:
        """The same, with the statistics of both half sets replaced by their mean up to ``shell``.

        This keeps the half sets in one orientation (RELION's low-resolution joining). Raw maps and curves are not
        joined.
        """
        sums = tuple(zip(*(_averaged(quarter, shell) for quarter in zip(*self.sums, strict=True)), strict=True))
        return replace(self, halves=_averaged(self.halves, shell), sums=sums, joined=True)

    @staticmethod
    def build(
        sums: tuple[tuple[Backprojection, ...], ...],
        operators: Tensor,
        pixel_size: float,
        curves_of: Callable[[Tensor, Tensor], FscCurves],
    ) -> HalfSets:
        """Reconstruct both half sets plainly, and measure their FSC with ``curves_of(half1, half2)``.

        sums [h][q], operators [o, 3, 3], pixel_size in angstrom: as in the fields.
        """
        halves = tuple(_together(parts).finished_(operators) for parts in sums)
        raw = tuple(reconstruct(half) for half in halves)
        return HalfSets(halves, sums, operators, raw, curves_of(raw[0], raw[1]), pixel_size)


def _together(parts: tuple[Backprojection, ...]) -> Backprojection:
    """Sum of the parts, in new memory: the parts do not change."""
    return reduce(add, parts) if len(parts) > 1 else parts[0].copied()


def _averaged(statistics: tuple[Backprojection, ...], shell: int) -> tuple[Backprojection, ...]:
    """Replace the sums of all statistics by their mean up to ``shell``."""
    first = statistics[0]
    inside = half_volume_radius((first.sums.shape[0] - 1) // 2) <= first.padding * shell
    mean = reduce(add, (s.sums for s in statistics)) / len(statistics)
    return tuple(
        replace(s, sums=torch.where(inside.to(mean.device)[..., None], mean, s.sums)).put() for s in statistics
    )


@dataclass(frozen=True)
class MapPair:
    """Two finished half maps [z, y, x], raw and unmasked, with their FSC curves and the pixel size in angstrom.

    Regularisers work on it where the sums of the M-step no longer exist.
    """

    half1: Tensor
    half2: Tensor
    curves: FscCurves
    pixel_size: float


@dataclass(frozen=True)
class Solution:
    """What a regulariser returns.

    maps [h]: references [z, y, x], regularised and unmasked. joined [z, y, x]: map of both half sets. memory: what the
    method wants back in the next iteration. arrays: arrays worth keeping, by name. chosen: values that the method
    found, for the record (JSON).
    """

    maps: tuple[Tensor, ...]
    joined: Tensor
    memory: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)


class Regulariser(Protocol):
    """A published method: its name, what crosses between half sets, and how references are made.

    It works where its input is (a GPU, if the maps are there), and its result repeats for the same input. What it
    remembers is kept in checkpoints: numbers, text and tensors, in lists, tuples and dictionaries.
    """

    @property
    def name(self) -> str:
        """The name that a user chooses it by."""

    @property
    def crosses(self) -> str:
        """What passes from one half set to the other, in words, parts divided by commas. Where it is more than figures
        by shell and the solvent mask, so that the half maps' FSC is no test any more, it says ``(a leak)``."""

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """Regularised references from the statistics of both half sets; mask [z, y, x] in [0, 1]."""
        ...

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """The same for two finished half maps, outside any refinement: both of them and a joined map, filtered."""
        ...


class OneHalf(Protocol):
    """A regulariser that can also make the map of one half set from its sums, as RELION hands them over."""

    def alone(self, sums: Backprojection, pixel_size: float, previous: Tensor | None) -> Tensor:
        """The map [z, y, x] of one half set.

        pixel_size: in angstrom. previous [z, y, x]: the map of the last iteration, if there is one.
        """
        ...


def shell_ratio(fsc: Tensor, joined: bool) -> Tensor:
    """Signal-to-noise ratio per shell from a half-map FSC: F / (1 - F) of one half, 2F / (1 - F) of both together.

    It is zero from the first shell on where the FSC falls to zero: beyond that shell positive values are chance.
    """
    f = fsc.double().clamp(max=0.9999)
    below = torch.nonzero(f[1:] <= 0)
    if len(below):
        f = f.clone()
        f[int(below[0]) + 1 :] = 0.0
    return (2.0 if joined else 1.0) * f / (1 - f)
