"""Where a map is solved for: the cuboid around all that is kept of it. What lies outside is zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BEYOND = 2  # voxels around the window: no difference of neighbours is cut off where the map is kept


@dataclass(frozen=True)
class Support:
    """Voxels low <= (z, y, x) < high of a box of ``box`` voxels a side."""

    box: int
    low: tuple[int, ...]
    high: tuple[int, ...]

    @staticmethod
    def whole(box: int) -> Support:
        """All of the box."""
        return Support(box, (0, 0, 0), (box, box, box))

    @staticmethod
    def of(window: Tensor | None, box: int) -> Support:
        """Around the voxels of a window [z, y, x] that are not zero, on a grid of ``box`` voxels over the same extent;
        the whole box if there is no window, or nothing in it."""
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
        """The part of v[z, y, x], of ``box`` voxels a side, that lies within; copied."""
        return v[self._places].clone()

    def within_box(self, v: Tensor) -> Tensor:
        """v[z, y, x] of the support's shape in its place, zero around it."""
        whole = v.new_zeros((self.box,) * 3)
        whole[self._places] = v
        return whole

    @property
    def _places(self) -> tuple[slice, ...]:
        return tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))
