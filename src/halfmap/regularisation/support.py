"""The part of the box that a map is solved for: a cuboid around what is kept of the map. Outside it the map is zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BEYOND = 2  # voxels around the window: differences between neighbours are whole wherever the map is kept


@dataclass(frozen=True)
class Support:
    """Voxels low <= (z, y, x) < high of a box with ``box`` voxels a side."""

    box: int
    low: tuple[int, ...]
    high: tuple[int, ...]

    @staticmethod
    def whole(box: int) -> Support:
        """All of the box."""
        return Support(box, (0, 0, 0), (box, box, box))

    @staticmethod
    def of(window: Tensor | None, box: int) -> Support:
        """The cuboid around all voxels of a window [z, y, x] that are not zero, on a grid of ``box`` voxels over the
        same extent; the whole box if there is no window, or nothing in it."""
        inside = None if window is None else window != 0
        if window is None or inside is None or not bool(inside.any()):
            return Support.whole(box)
        ratio, centre, low, high = box / len(window), len(window) // 2, [], []
        for others in ((1, 2), (0, 2), (0, 1)):
            first, last = (int(i) for i in torch.nonzero(inside.amax(others))[[0, -1], 0])
            low.append(max(0, int((first - centre) * ratio // 1) + box // 2 - BEYOND))
            high.append(min(box, -int((centre - last) * ratio // 1) + box // 2 + BEYOND + 1))
        return Support(box, tuple(low), tuple(high))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along z, y, x."""
        return tuple(b - a for a, b in zip(self.low, self.high, strict=True))

    def cut(self, v: Tensor) -> Tensor:
        """Copy of the part of v [z, y, x], with ``box`` voxels a side, that lies in the support."""
        return v[self._places].clone()

    def within_box(self, v: Tensor) -> Tensor:
        """Put v [z, y, x], which has the support's shape, into a box of zeros."""
        whole = v.new_zeros((self.box,) * 3)
        whole[self._places] = v
        return whole

    @property
    def _places(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))
