"""A stream of normalised particle images, read ahead in the background in file order, in batches of one frame.

Optics groups of one frame (box, pixel size and magnification) share batches: microscopes that shift the beam leave
hundreds of groups of few images each, and what images cost must not depend on how they are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from halfmap.imaging.optics import CtfState
from halfmap.imaging.premultiplied import noise_sd
from halfmap.particles.crossing import across, room_for_images
from halfmap.particles.half_sets import of_one_piece
from halfmap.particles.preprocess import background_sd, normalise
from halfmap.particles.read_ahead import read_ahead
from halfmap.particles.stack_files import StackFiles
from halfmap.particles.stack_reader import StackReader
from halfmap.particles.table import ParticleTable
from halfmap.runtime.device import CPU


@dataclass(frozen=True)
class ImageBatch:
    """Images of one frame.

    groups int64 [b]: their optics groups; index int64 [b]: their particles, both on the CPU. On the device of the
    source: images [b, y, x]: normalised; sound bool [b]: whether an image holds numbers and a background that varies;
    stored [b, y, x]: the images as they are in the stack, of one of the types stack_reader.KEPT.
    """

    groups: Tensor
    index: Tensor
    images: Tensor
    sound: Tensor
    stored: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def group(self) -> int:
        """The optics group of the first image, which is that of all images of a part (`apart`)."""
        return int(self.groups[0])

    def part(self, some: slice | Tensor) -> ImageBatch:
        """Some images of the batch."""
        return ImageBatch(
            self.groups[some], self.index[some], self.images[some], self.sound[some], self.stored[some]
        )

    def apart(self) -> Iterator[ImageBatch]:
        """The images of each optics group by themselves, in the order of the groups, and in their own order."""
        if bool((self.groups == self.groups[0]).all()):
            yield self
            return
        for group in self.groups.unique():
            yield self.part(torch.nonzero(self.groups == group)[:, 0])


@dataclass(frozen=True)
class ParticleSource:
    """Where images come from.

    table: the particles; diameter: of the particle in angstrom (what lies around it is background); batch: images read
    at once (0: as many as their box allows); files: the stacks that are open, which sources of one run share; device:
    where images go as they are stored, and are normalised.
    """

    table: ParticleTable
    diameter: float
    batch: int = 0
    files: StackFiles = field(default_factory=StackFiles)
    device: torch.device = CPU

    @cached_property
    def pieces(self) -> Tensor:
        """Numbers [b], equal for particles that no two sets may share (`of_one_piece`)."""
        return torch.from_numpy(of_one_piece(self.table))

    def batch_size(self, group: int) -> int:
        """Images of an optics group read at once, unless set: what a processor's caches do well with, or what keeps a
        GPU busy."""
        box = self.table.optics[group].box
        most, pixels = (512, 1 << 23) if self.device.type == "cpu" else (1024, 1 << 26)
        return self.batch or max(8, min(most, pixels // box**2))

    def batches(self, index: Tensor) -> list[np.ndarray]:
        """Particles ``index`` [b] cut into batches of one frame: the indices of each, in file order."""
        rows = self._in_file_order(index)
        frames = self._frames()[self.table.optics_index[rows]]
        result = []
        for frame in np.unique(frames):
            members, size = rows[frames == frame], self.batch_size(int(frame))
            result += [members[i : i + size] for i in range(0, len(members), size)]
        return result

    def share(self, index: Tensor, part: int, parts: int) -> Tensor:
        """One of ``parts`` equal stretches of the particles ``index`` [b] in file order, which one process reads."""
        rows = self._in_file_order(index)
        return torch.from_numpy(rows[part * len(rows) // parts : (part + 1) * len(rows) // parts])

    def _in_file_order(self, index: Tensor) -> np.ndarray:
        rows, table = index.cpu().numpy(), self.table
        frames = self._frames()[table.optics_index[rows]]
        return np.asarray(rows[np.lexsort((table.image_index[rows], table.stack_index[rows], frames))])

    def _frames(self) -> np.ndarray:
        """The first optics group of the same frame, for each optics group [g]."""
        frames = [optics.frame for optics in self.table.optics]
        first = {frame: group for group, frame in reversed(list(enumerate(frames)))}
        return np.array([first[frame] for frame in frames])

    def stream(self, index: Tensor) -> Iterator[ImageBatch]:
        """The images of particles ``index`` [b], batch by batch, as `batches` cuts them."""
        reader = StackReader(self.table, self.files, partial(room_for_images, device=self.device))
        for stored in across(read_ahead(reader, self.batches(index)), self.device):
            members, groups = stored.rows, torch.from_numpy(self.table.optics_index[stored.rows])
            radius = 0.5 * self.diameter / self.table.optics[int(groups[0])].pixel_size
            images, sound = normalise(stored.images, radius)
            batch = ImageBatch(groups, torch.from_numpy(members), images, sound, stored.images)
            self._level_(batch)
            yield batch

    def grey_unit(self, part: ImageBatch) -> Tensor:
        """What one unit of the images of one optics group is in grey values of the stored images [b]."""
        optics = self.table.optics[part.group]
        sd = background_sd(part.stored, 0.5 * self.diameter / optics.pixel_size)
        return sd / self._level(part.group, part.index).to(sd.device)

    def _level(self, group: int, index: Tensor) -> Tensor:
        """The standard deviation [b] that the background of images has: 1, and what the CTF leaves of it where they are
        multiplied by it."""
        optics = self.table.optics[group]
        if optics.ctf_state is not CtfState.PREMULTIPLIED:
            return torch.ones(len(index))
        return noise_sd(optics, self.table.defocus[index])

    def _level_(self, batch: ImageBatch) -> None:
        """Give images that are multiplied by their CTF the noise that it leaves of noise with sd 1, in place."""
        for group in batch.groups.unique().tolist():
            if self.table.optics[group].ctf_state is CtfState.PREMULTIPLIED:
                member = batch.groups == group
                level = self._level(group, batch.index[member]).to(self.device)
                batch.images[member] *= level[:, None, None]
