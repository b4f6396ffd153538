"""A regulariser of another package: it says whose it is, and what it returns is looked at before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from halfmap.errors import InputError
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.protocol import HalfSets, MapPair, OneHalf, Regulariser, Solution


@dataclass(frozen=True)
class Plugged:
    """A regulariser and its package, by name and version."""

    method: Regulariser
    package: str

    @property
    def name(self) -> str:
        """The name that a user chooses it by."""
        return self.method.name

    @property
    def crosses(self) -> str:
        """What the package declares to pass between half sets. Nobody else can vouch for it."""
        return f"{self.method.crosses} (as {self.package} declares)"

    def solve(self, halves: HalfSets, mask: Tensor, memory: dict[str, Any]) -> Solution:
        """As its method does. Raises InputError where that returns no maps like those of the half sets."""
        return self._checked(self.method.solve(halves, mask, memory), halves.raw[0])

    def filter_pair(self, pair: MapPair, mask: Tensor) -> Solution:
        """As its method does. Raises InputError where that returns no maps like those of the pair."""
        return self._checked(self.method.filter_pair(pair, mask), pair.half1)

    def alone(self, sums: Backprojection, pixel_size: float, previous: Tensor | None) -> Tensor:
        """As its method does. Raises InputError where that returns no map of the sums' box."""
        found = cast(OneHalf, self.method).alone(sums, pixel_size, previous)
        self._require(found, "alone returns", sums.sums.new_empty(sums.box, sums.box, sums.box))
        return found

    def _checked(self, solution: Any, like: Tensor) -> Solution:
        if not isinstance(solution, Solution):
            raise self._fault("returns no Solution")
        if len(solution.maps) != 2:
            raise self._fault(f"returns {len(solution.maps)} maps of 2 half sets")
        for found in (*solution.maps, solution.joined):
            self._require(found, "returns", like)
        return solution

    def _require(self, found: Any, says: str, like: Tensor) -> None:
        if not isinstance(found, Tensor) or found.shape != like.shape or found.device != like.device:
            shown = f"{tuple(found.shape)} on {found.device}" if isinstance(found, Tensor) else type(found).__name__
            raise self._fault(f"{says} {shown}, not a map {tuple(like.shape)} on {like.device}")
        if found.dtype != like.dtype or not bool(torch.isfinite(found).all()):
            raise self._fault(f"{says} a map of {found.dtype} or with values that are no numbers")

    def _fault(self, what: str) -> InputError:
        return InputError(f"--regulariser {self.name}: its method {what}; upgrade the package {self.package}, or tell "
                          "its authors")
