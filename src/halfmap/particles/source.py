"""A stream of normalised particle images, read ahead in the background in file order, one optics group a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from halfmap.particles.preprocess import normalise
from halfmap.particles.stack import StackReader, read_ahead
from halfmap.particles.table import ParticleTable


@dataclass(frozen=True)
class ImageBatch:
    """Images of one optics group.

    group: the optics group; index int64 [b]: their particles; images [b, y, x]: normalised; sound bool [b]: whether an
    image holds numbers and a background that varies; stored [b, y, x]: the images as they are in the stack, float32.
    """

    group: int
    index: Tensor
    images: Tensor
    sound: Tensor
    stored: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def part(self, some: slice) -> ImageBatch:
        """Some images of the batch."""
        return ImageBatch(self.group, self.index[some], self.images[some], self.sound[some], self.stored[some])


@dataclass(frozen=True)
class ParticleSource:
    """Where images come from.

    table: the particles; diameter: of the particle in angstrom (what lies around it is background); batch: images read
    at once (0: as many as their box allows).
    """

    table: ParticleTable
    diameter: float
    batch: int = 0
    reader: StackReader = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reader", StackReader(self.table))

    def batch_size(self, group: int) -> int:
        """Images of an optics group read at once: about 32 MB of pixels, unless set."""
        box = self.table.optics[group].box
        return self.batch or max(8, min(512, (1 << 23) // box**2))

    def batches(self, index: Tensor) -> list[tuple[int, np.ndarray]]:
        """Particles ``index`` [b] cut into batches: optics group and indices of each, in file order."""
        rows = self._in_file_order(index)
        groups = self.table.optics_index[rows]
        result = []
        for group in np.unique(groups):
            members = rows[groups == group]
            size = self.batch_size(int(group))
            result += [(int(group), members[i : i + size]) for i in range(0, len(members), size)]
        return result

    def share(self, index: Tensor, part: int, parts: int) -> Tensor:
        """One of ``parts`` equal stretches of the particles ``index`` [b] in file order, which one process reads."""
        rows = self._in_file_order(index)
        return torch.from_numpy(rows[part * len(rows) // parts : (part + 1) * len(rows) // parts])

    def _in_file_order(self, index: Tensor) -> np.ndarray:
        rows, table = index.cpu().numpy(), self.table
        order = np.lexsort((table.image_index[rows], table.stack_index[rows], table.optics_index[rows]))
        return np.asarray(rows[order])

    def stream(self, index: Tensor) -> Iterator[ImageBatch]:
        """The images of particles ``index`` [b], batch by batch, as `batches` cuts them."""
        batches = self.batches(index)
        for (group, members), (_, raw) in zip(batches, read_ahead(self.reader, [m for _, m in batches]), strict=True):
            stored = torch.from_numpy(raw)
            radius = 0.5 * self.diameter / self.table.optics[group].pixel_size
            images, sound = normalise(stored, radius)
            yield ImageBatch(group, torch.from_numpy(members), images, sound, stored)
