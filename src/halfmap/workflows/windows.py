"""Where new images are cut out of old ones, and what that does to the columns of their table and to maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.maps.density import centre_of_mass
from halfmap.maps.grid import Grid
from halfmap.particles.same_images import ORIGINAL
from halfmap.particles.star_text import numbers_of
from halfmap.particles.table import Column, ParticleTable
from halfmap.validation.halfset_leaks import COORDINATES, micrograph_pixel


@dataclass(frozen=True)
class Windows:
    """The windows that new images are cut out of.

    point int64 [3]: the point (x, y, z) of the map that comes into its centre, in voxels off the box centre. offset
    int64 [b, 2]: from the centre of each old image to that of the new one, in pixels (x, y). box: side of the new
    images in pixels; None keeps that of the old ones.
    """

    point: Tensor
    offset: Tensor
    box: int | None

    @staticmethod
    def of(table: ParticleTable, grid: Grid, mask: Tensor | None, box: int | None) -> Windows:
        """Windows about the projected centre of mass of a mask [z, y, x]; None: about the centres of the old images.

        grid: of the mask. Both the point in the map and the offsets are whole, so that nothing is interpolated; what is
        left of a projected place is in the new origins.
        """
        count = len(table)
        if mask is None:
            return Windows(torch.zeros(3, dtype=torch.int64), torch.zeros(count, 2, dtype=torch.int64), box)
        point = (centre_of_mass(mask, grid.pixel_size) / grid.pixel_size).round().long()
        return Windows(point, _places(table, point * grid.pixel_size).round().long(), box)

    def side(self, old: int) -> int:
        """Side of the images cut out of those of ``old`` pixels."""
        return self.box or old

    def cut(self, images: Tensor, index: Tensor) -> Tensor:
        """The new images [b, y, x] of particles ``index`` [b], out of the old ones. Beyond an edge it is mirrored."""
        old = images.shape[-1]
        new = self.side(old)
        first = old // 2 - new // 2 + self.offset[index]
        if new == old and not bool(self.offset[index].any()):
            return images
        column, row = ((first[:, axis, None] + torch.arange(new)) for axis in (0, 1))
        column, row = (((old - 1) - ((old - 1) - at.abs()).abs()).clamp(0, old - 1) for at in (column, row))
        return images[torch.arange(len(images))[:, None, None], row[:, :, None], column[:, None, :]]

    def beyond(self, table: ParticleTable) -> int:
        """How many windows reach beyond the old image."""
        old = torch.tensor([group.box for group in table.optics])[table.optics_index][:, None]
        new = old if self.box is None else torch.full_like(old, self.box)
        first = old // 2 - new // 2 + self.offset
        return int(((first < 0) | (first + new > old)).any(dim=1).sum())

    def table(self, table: ParticleTable, pixel_size: float) -> ParticleTable:
        """The table of the new images: boxes, origins, and places on micrographs.

        pixel_size: of the map, in A. Origins refer to the map with its point moved into the centre (`map`).
        """
        optics = tuple(replace(group, box=self.side(group.box)) for group in table.optics)
        if not bool(self.point.any()) and not bool(self.offset.any()):
            return replace(table, optics=optics)
        size = table.pixel_size[:, None]
        origins = (self.offset - _places(table, self.point * pixel_size)) * size
        columns = dict(table.columns)
        if all(label in columns for label in COORDINATES):
            moved = (self.offset * size).numpy() / micrograph_pixel(table)[:, None]
            columns |= {label: numbers_of(columns[label]) + moved[:, axis] for axis, label in enumerate(COORDINATES)}
        return replace(table, optics=optics, origins=origins, columns=columns)

    def map(self, v: Tensor) -> Tensor:
        """A map [z, y, x] with the point moved into the centre, in the new box. What leaves the box is lost."""
        old, new = v.shape[-1], self.side(v.shape[-1])
        first = [old // 2 - new // 2 + at for at in self.point.tolist()]
        ends = [end for at in first for end in (-at, at + new - old)]  # negative ones crop
        return torch.nn.functional.pad(v, ends)


def _places(table: ParticleTable, point: Tensor) -> Tensor:
    """Where a point (x, y, z; A off the box centre) of the map lies in each image [b, 2]: pixels off its centre."""
    assert table.rotations is not None
    matrices = torch.tensor([group.magnification for group in table.optics], dtype=torch.float64).view(-1, 2, 2)
    place = (table.rotations.double() @ point.double())[:, :2, None]
    # f_specimen = M f_image, so that a place of the specimen is seen at M^T of it.
    seen = (matrices[table.optics_index].mT @ place)[..., 0]
    return (seen - table.origins) / table.pixel_size[:, None]


def new_names(table: ParticleTable, names: list[str]) -> dict[str, Column]:
    """The columns with new image names [b]; the old ones are kept as rlnImageOriginalName, unless there is one."""
    columns = dict(table.columns)
    if ORIGINAL not in columns:
        columns[ORIGINAL] = [str(name) for name in columns["rlnImageName"]]
    return columns | {"rlnImageName": names}

