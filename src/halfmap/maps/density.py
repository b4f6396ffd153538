"""Where the density of a map is: what stands out of the solvent, its centre, and how much of it a mask holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.transform import fft_size, resize_map
from halfmap.maps.filters import gaussian_lowpass
from halfmap.maps.masks import automatic_threshold, spherical_mask

VISIBLE = 15.0  # A: detail at which density is told from solvent
_FINE = 4  # voxels to that length: all that is needed to weigh density


@dataclass(frozen=True)
class Density:
    """What of a map stands out of the solvent: values [z, y, x], 0 in solvent, on a grid of its own over the same box.

    pixel_size: of that grid, in A. box, voxel: side (voxels) and pixel size (A) of the map.
    """

    values: Tensor
    pixel_size: float
    box: int
    voxel: float

    @property
    def centre(self) -> Tensor:
        """Centre of mass (x, y, z) in A off the box centre, float64 [3]."""
        return centre_of_mass(self.values, self.pixel_size)

    def held_by(self, mask: Tensor) -> float:
        """Share of the density within a mask [z, y, x] on the map's grid."""
        return self._share(self._on_grid(mask))

    def filled_share(self, mask: Tensor) -> float:
        """Share of a mask's volume that holds density."""
        weight = self._on_grid(mask)
        return float((weight * (self.values > 0)).sum() / weight.sum().clamp_min(1e-9))

    def held_within(self, diameter: float, centre: Tensor | None = None) -> float:
        """Share of the density within a sphere of ``diameter`` (A) about a point (x, y, z; A off the box centre)."""
        axis = (torch.arange(len(self.values), dtype=torch.float64) - len(self.values) // 2) * self.pixel_size
        x, y, z = (axis - c for c in (centre.tolist() if centre is not None else (0.0, 0.0, 0.0)))
        far = z[:, None, None].square() + y[:, None].square() + x.square()
        return self._share((far <= (diameter / 2) ** 2).to(self.values))

    def _share(self, weight: Tensor) -> float:
        return float((weight * self.values).sum(dtype=torch.float64) / self.values.sum(dtype=torch.float64))

    def _on_grid(self, mask: Tensor) -> Tensor:
        if self.box == len(self.values):
            return mask.to(self.values)
        return resize_map(mask.to(self.values), self.voxel, self.pixel_size, len(self.values)).clamp(0, 1)


def density_of(v: Tensor, pixel_size: float) -> Density | None:
    """The density of a map v [z, y, x], at 15 A and by the rule that masks are drawn by. None where nothing stands out
    of the solvent."""
    box = v.shape[-1]
    points = min(box, fft_size(box * pixel_size * _FINE / VISIBLE))
    fine = box * pixel_size / points
    smooth = gaussian_lowpass(v if points == box else resize_map(v, pixel_size, fine, points), fine, VISIBLE)
    sphere = spherical_mask(points, points / 2, 0).to(v.device) > 0
    level = automatic_threshold(smooth, sphere, fine)
    if level is None:
        return None
    return Density((smooth - level).clamp_min(0) * sphere, fine, box, pixel_size)


def centre_of_mass(weight: Tensor, pixel_size: float) -> Tensor:
    """Centre (x, y, z) of a weight [z, y, x] in A off the box centre, float64 [3]."""
    weight = weight.double().cpu()
    axis = (torch.arange(len(weight), dtype=torch.float64) - len(weight) // 2) * pixel_size
    sums = [weight.sum(dim=dims) for dims in ((0, 1), (0, 2), (1, 2))]
    return torch.stack([one @ axis for one in sums]) / weight.sum()
