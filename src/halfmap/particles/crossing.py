"""The way of images to a device: one batch crosses to a GPU while another is worked on there.

They cross as they are stored, once: an image of float16 or int16 is half the bytes, one of int8 a quarter, and whatever
is done to it is done there. A GPU reads memory that cannot be paged out by itself, so images are read into such memory
from the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from halfmap.particles.read_ahead import StoredImages
from halfmap.particles.stack_reader import Images
from halfmap.particles.table import Integers
from halfmap.runtime.device import is_real_gpu


@dataclass(frozen=True)
class Arrived:
    """Images [b, y, x] as stored, on a device, and the rows [b] of the table that they belong to."""

    rows: Integers
    images: Tensor


@dataclass(frozen=True)
class _OnItsWay:
    """Images that are being copied by a stream of the device, and what is recorded when they are there."""

    stored: StoredImages
    images: Tensor
    copied: torch.cuda.Event

    def arrived(self) -> Arrived:
        """The images, for work that is ordered from now on: it waits for them, this process does not."""
        working = torch.cuda.current_stream(self.images.device)
        working.wait_event(self.copied)
        self.images.record_stream(working)
        return Arrived(self.stored.rows, self.images)


def across(batches: Iterable[StoredImages], device: torch.device) -> Iterator[Arrived]:
    """Batches on a device, in order."""
    if not is_real_gpu(device):
        for batch in batches:
            yield Arrived(batch.rows, torch.from_numpy(batch.images).to(device))
        return
    stream, before = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            images = torch.from_numpy(batch.images).to(device, non_blocking=True)
            after = _OnItsWay(batch, images, stream.record_event())
        if before is not None:
            yield before.arrived()
            before.copied.synchronize()  # it was waited for long ago: now the memory that it came from may go
        before = after
    if before is not None:
        yield before.arrived()
        before.copied.synchronize()


def room_for_images(shape: tuple[int, ...], dtype: DTypeLike, device: torch.device) -> Images:
    """Memory for images that will cross to a device."""
    if not is_real_gpu(device):
        return np.empty(shape, dtype)
    like = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=like, pin_memory=True).numpy()
