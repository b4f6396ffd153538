"""Where references are kept: within a solvent mask, or within a sphere around the particle."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.maps.grid import Grid
from halfmap.maps.masks import SPHERE_EDGE, solvent_mask, spherical_mask


@dataclass(frozen=True)
class Masking:
    """grid: of the maps. diameter: of the particle, in angstrom. given [z, y, x]: the user's solvent mask; None draws
    one around the map in every iteration. flatten: whether references are cleared outside the solvent mask, or outside
    the sphere only."""

    grid: Grid
    diameter: float
    given: Tensor | None = None
    flatten: bool = True

    def to(self, device: torch.device) -> Masking:
        """The same, with the mask on another device."""
        return self if self.given is None else replace(self, given=self.given.to(device))

    def mask(self, half1: Tensor, half2: Tensor) -> Tensor:
        """The solvent mask [z, y, x] of two half maps. It is the same for both."""
        if self.given is not None:
            return self.given
        return solvent_mask((half1 + half2) / 2, self.grid.pixel_size, self.diameter).to(half1)

    def window(self, mask: Tensor) -> Tensor:
        """What references are multiplied by: the solvent mask, or the sphere."""
        return mask if self.flatten else self._sphere(mask, SPHERE_EDGE)

    def first_mask(self, like: Tensor) -> Tensor:
        """The solvent mask before there are half maps, where and as ``like`` is."""
        return self._first_sphere(like) if self.given is None else self.given

    def first_window(self, mask: Tensor) -> Tensor:
        """What the starting map is multiplied by."""
        return mask if self.flatten else self._first_sphere(mask)

    def _first_sphere(self, like: Tensor) -> Tensor:
        return self._sphere(like, min(SPHERE_EDGE, self.grid.box / 8))

    def _sphere(self, like: Tensor, edge: float) -> Tensor:
        """A soft sphere of the particle's diameter, as far as the box holds it."""
        radius = min(self.diameter / (2 * self.grid.pixel_size), self.grid.box / 2 - edge)
        return spherical_mask(self.grid.box, radius, edge).to(like)
