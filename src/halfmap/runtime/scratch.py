"""Large arrays in files instead of memory: mapped, so that the system keeps of them what there is room for.

The files have no name in their folder: they are gone with the process, however it ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor

from halfmap.errors import InputError

PIECE = 1 << 24  # bytes written at once


class Scratch:
    """A folder for such files; it must exist when the first is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: set[int] = set()  # where in memory the files are mapped

    def keep(self, values: Tensor) -> Tensor:
        """The same values, shape and type in a file, which may be written to; arrays of another device, and those that
        are in a file, as they are.

        Space is taken before anything is written, so that a full disk is an InputError, not the end of the process.
        """
        if values.device.type != "cpu" or not values.numel() or values.data_ptr() in self._made:
            return values
        values = values.contiguous()
        raw = values.flatten().view(torch.uint8).numpy()
        try:
            with tempfile.TemporaryFile(dir=self.folder) as stream:
                os.posix_fallocate(stream.fileno(), 0, len(raw))
                for start in range(0, len(raw), PIECE):
                    stream.write(raw[start : start + PIECE].data)
                stream.flush()
                mapped = mmap.mmap(stream.fileno(), len(raw))
        except OSError as error:
            raise InputError(f"{self.folder}: no room for {len(raw) / 1e9:.1f} GB of sums: {error.strerror or error}; "
                             "make room, name another folder with --scratch, or keep them in memory with --sums memory"
                             ) from error
        kept = torch.frombuffer(mapped, dtype=values.dtype).view(values.shape)
        self._made.add(kept.data_ptr())
        weakref.finalize(mapped, self._made.discard, kept.data_ptr())
        return kept
