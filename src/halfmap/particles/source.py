"""A stream of normalised particle images: read ahead in the background, in file order, one optics group a
batch."""

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
class ParticleSource:
    """Where images come from: the table, the particle's diameter in angstrom (its surroundings are
    background), and the images read at once (0: from the box)."""

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
        """Particles ``index`` [b] cut into (optics group, indices), each in file order."""
        rows = index.cpu().numpy()
        order = np.lexsort((self.table.image_index[rows], self.table.stack_index[rows], self.table.optics_index[rows]))
        rows = rows[order]
        groups = self.table.optics_index[rows]
        result = []
        for group in np.unique(groups):
            members = rows[groups == group]
            size = self.batch_size(int(group))
            result += [(int(group), members[i : i + size]) for i in range(0, len(members), size)]
        return result

    def stream(self, index: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield (optics group, indices [b], normalised images [b, y, x], which are sound [b])."""
        batches = self.batches(index)
        for (group, members), (_, raw) in zip(batches, read_ahead(self.reader, [m for _, m in batches]), strict=True):
            optics = self.table.optics[group]
            radius = 0.5 * self.diameter / optics.pixel_size
            images, sound = normalise(torch.from_numpy(raw), radius)
            yield group, torch.from_numpy(members), images, sound
