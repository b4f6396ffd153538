"""Sums over the images of each optics group at every coefficient: what phases that all images share depend on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halfmap.ctf_refinement.products import Range
from halfmap.imaging.forward import Geometries
from halfmap.imaging.optics import Frame, OpticsGroup


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
        known: dict[Frame, Tensor] = {}
        for group in optics:
            if group.frame not in known:
                geometry = geometries.of(group)
                known[group.frame] = geometry.band.kxy[used.stretch(geometry)]
            kxy = known[group.frame]
            self.kxy.append(kxy)
            self.maps.append(torch.zeros((kinds, len(kxy)), dtype=torch.float32, device=geometries.device))

    def count_(self, group: int, present: Tensor) -> None:
        """Count images of a group, each as far as it holds a particle, present [b]."""
        self.images[group] += present.double().sum()

    def sums(self) -> list[Tensor]:
        """What was counted."""
        return [self.images, *self.maps]

    def of(self, group: int) -> Tensor:
        """The maps [m, k] of a group in float64 on the CPU."""
        return self.maps[group].double().cpu()
