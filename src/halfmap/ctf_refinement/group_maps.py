"""Sums over the images of each optics group at every coefficient: what phases that all images share depend on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import Range
from halfmap.imaging.forward import Geometries
from halfmap.imaging.optics import OpticsGroup

COEFFICIENTS_AT_ONCE = 1 << 19  # of images, so that what is made of them stays in the cache


class GroupMaps:
    """Maps of several kinds m for each optics group, and how many images are in them.

    They are float32, because hundreds of groups have maps of tens of thousands of coefficients; the sum of a batch,
    which is what is added, loses nothing by that.
    """

    def __init__(self, kinds: int, optics: Sequence[OpticsGroup], geometries: Geometries, used: Range) -> None:
        """geometries: against the reference; used: shells of the reference whose coefficients k are summed."""
        self.kxy: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.images = torch.zeros(len(optics), dtype=torch.float64, device=geometries.device)
        last: tuple[object, Tensor] | None = None
        for group in optics:
            if last is None or last[0] != group.frame:
                geometry = geometries.of(group)
                last = group.frame, geometry.band.kxy[used.stretch(geometry)]
            self.kxy.append(last[1])
            self.maps.append(torch.zeros((kinds, len(last[1])), dtype=torch.float32, device=geometries.device))

    def count_(self, group: int, present: Tensor) -> None:
        """Count images of a group, each as far as it holds a particle, present [b]."""
        self.images[group] += present.double().sum()

    def sums(self) -> list[Tensor]:
        """What was counted."""
        return [self.images, *self.maps]

    def of(self, group: int) -> Tensor:
        """The maps [m, k] of a group in float64 on the CPU."""
        return self.maps[group].double().cpu()


def row_blocks(images: int, coefficients: int) -> list[slice]:
    """The images of a batch in blocks that are dealt with at once."""
    step = max(1, COEFFICIENTS_AT_ONCE // max(1, coefficients))
    return [slice(start, start + step) for start in range(0, images, step)]
