"""Large arrays in mapped files instead of memory: the system keeps in memory as much of them as there is room for.

The files have no name in their folder, so that they are gone with the process, however it ends.
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
from halfmap.runtime.device import is_real_gpu

PIECE = 1 << 24  # bytes written at once


class Scratch:
    """A folder for such files. It must exist when the first file is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: set[int] = set()  # addresses at which the files are mapped

    def keep(self, values: Tensor) -> Tensor:
        """The same values, shape and type in a mapped file that may be written to.

        Arrays that already are in a file come back as they are. The space on disk is
        reserved before anything is written, so that a full disk raises an InputError and does not end the process.
        """
        values = values.cpu()
        if not values.numel() or values.data_ptr() in self._made:
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


def on_host(values: Tensor) -> Tensor:
    """The same values in the machine's memory: what a GPU has no room for. It cannot be paged out if there is so much
    of such memory, which a GPU reads and writes by itself."""
    if not is_real_gpu(values.device):
        return values.cpu()
    try:
        return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values)
    except RuntimeError:  # the system has no more of it
        return values.cpu()
