"""Products of matrices, whose rows should tell neither how many rows there are nor the number of threads.

MKL and its like divide a product among threads, and take other ways for a few rows and for what is left over by a whole
number of tiles. On AMD processors the last bits of a row then follow both (MKL_CBWR mends it on Intel's only). With
rows in whole tiles they do not up to three threads; a start was still rounded otherwise with four.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 64  # rows; 16 were too few


def in_tiles(a: Tensor) -> Tensor:
    """A matrix [m, k] with rows of zeros below, up to a whole number of tiles."""
    return torch.nn.functional.pad(a, (0, 0, 0, -len(a) % TILE))


def rows_times(a: Tensor, b: Tensor) -> Tensor:
    """a @ b [m, n], of a [m, k] and b [k, n]."""
    return (in_tiles(a) @ b)[: len(a)]
