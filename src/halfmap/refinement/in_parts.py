"""Work on many things at once, or on fewer where memory does not suffice: smaller batches instead of an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from halfmap.errors import InputError

Result = TypeVar("Result")
# What torch says on CPU and GPU; the last one comes from cuBLAS and cuFFT.
REFUSED = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def in_parts(work: Callable[[slice], Result], count: int) -> Iterator[Result]:
    """What ``work`` makes of the things 0 .. count, in their order.

    They are worked on all at once. Where memory is refused they are halved, and so on down to one. ``work`` must change
    nothing before it has all the memory it needs. Raises InputError where a single thing is too much.
    """
    waiting = [slice(0, count)]
    while waiting:
        part = waiting.pop(0)
        try:
            result = work(part)
        except (MemoryError, RuntimeError) as error:
            if not memory_refused(error):
                raise
            if part.stop - part.start < 2:
                raise InputError("memory: not enough for a single image; end other programs, or give --padding 1 or a "
                                 "coarser --max-resolution") from error
            middle = (part.start + part.stop) // 2
            waiting[:0] = [slice(part.start, middle), slice(middle, part.stop)]
            continue
        yield result


def memory_refused(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in REFUSED)
