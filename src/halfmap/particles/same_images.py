"""Which rows of a table show the same image: by the place that they name, and by the pixels themselves.

An image that was copied to another place, saved as float16 or int8, scaled, offset or relieved of a ramp is still the
same image, with the same noise. Every image is kept as a few projections of its pixels onto fixed random patterns
(Johnson & Lindenstrauss 1984, Contemp. Math. 26, 189): their angles are those of the images, to 25 % of 1 - cosine with
32 of them. Patterns hold no mean and no plane, and their spectra rise with frequency as noise does and particles do
not, so that two projections of one particle are not taken for the same image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from halfmap.fourier.real_transforms import irfft2, rfft2
from halfmap.particles.table import Integers, ParticleTable

ORIGINAL = "rlnImageOriginalName"
PATTERNS = 32  # numbers kept of an image: 128 bytes
SEARCHED = 16  # of these, the first ones are searched for neighbours; all are compared
# 1 - correlation of the images' high frequencies. int8 with 20 steps for one sd makes 2e-4, float16 at an offset of a
# hundred sds 6e-4; the nearest two of 3,000 noise-free projections with one CTF have 3e-3, noisy images 0.3 and more.
ALIKE = 1e-3
CELL = 1e-3  # signatures that agree to this are the same without a search


def same_file(stacks: Sequence[Path]) -> Integers:
    """Numbers[i] that are equal for paths of the same file."""
    known: dict[object, int] = {}
    numbers = []
    for path in stacks:
        try:
            found = path.stat()
            key: object = (found.st_dev, found.st_ino)
        except OSError:
            key = path
        numbers.append(known.setdefault(key, len(known)))
    return np.array(numbers, np.int64)


def first_named(table: ParticleTable, stacks: Integers | None = None) -> Integers:
    """The first row[b] that names the same image as row b; stacks[i]: equal numbers for stacks that are the same.

    Images that were subtracted from are those that they were made of (rlnImageOriginalName): their noise is the same.
    """
    if ORIGINAL in table.columns:
        _, first, inverse = np.unique(np.array(table.columns[ORIGINAL], str), return_index=True, return_inverse=True)
        if len(first) > 1:  # one name in all rows tells no image from another
            return np.asarray(first[inverse], np.int64)
    named = _numbers(table, same_file(table.stacks) if stacks is None else stacks, _most(table))
    _, first, inverse = np.unique(named, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def image_numbers(*tables: ParticleTable) -> list[Integers]:
    """Numbers[b] of the rows of each table, equal where they are the same image of the same file, in any of them."""
    files, most, start = same_file([path for table in tables for path in table.stacks]), _most(*tables), 0
    found = []
    for table in tables:
        found.append(_numbers(table, files[start : start + len(table.stacks)], most))
        start += len(table.stacks)
    return found


def _numbers(table: ParticleTable, stacks: Integers, most: int) -> Integers:
    return np.asarray(stacks[table.stack_index] * most + table.image_index, np.int64)


def _most(*tables: ParticleTable) -> int:
    return max(int(table.image_index.max(initial=0)) for table in tables) + 1


def signatures(images: Tensor) -> Tensor:
    """What is kept of images [b, y, x] to find copies: unit vectors [b, PATTERNS], float32; zeros for no image.

    Images should be near a mean of 0 and an sd of 1, or float32 costs digits.
    """
    seen = images.flatten(1) @ _patterns(images.shape[-1]).to(images.device).T
    length = seen.norm(dim=1, keepdim=True)
    return torch.where(length.isfinite() & (length > 0), seen / length, 0.0)


@lru_cache(maxsize=4)
def _patterns(box: int) -> Tensor:
    """Random patterns [PATTERNS, pixel], always the same, orthogonal to planes; amplitude rises with frequency."""
    white = torch.randn(PATTERNS, box, box, generator=torch.Generator().manual_seed(box), dtype=torch.float64)
    frequency = torch.hypot(torch.fft.rfftfreq(box)[None].double(), torch.fft.fftfreq(box)[:, None].double())
    rough = irfft2(rfft2(white) * frequency, box).flatten(1)
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) / box
    plane = torch.stack([torch.ones(box, box).double(), axis.expand(box, box), axis[:, None].expand(box, box)])
    plane = plane.flatten(1)
    rough -= (rough @ torch.linalg.pinv(plane)) @ plane
    return (rough / rough.norm(dim=1, keepdim=True)).float()


def first_alike(seen: Tensor, table: ParticleTable, stacks: Integers | None = None) -> Integers:
    """The first row[b] that shows the same image as row b. seen [b, PATTERNS]: signatures of the table's images.

    Images of different boxes are different; a row without signature is compared by the name of its image (stacks: as
    in `first_named`).
    """
    first, points = first_named(table, stacks), seen.numpy()
    there = np.any(points != 0, axis=1)
    boxes = np.array([optics.box for optics in table.optics])[table.optics_index]
    for box in np.unique(boxes[there]):
        rows = np.flatnonzero(there & (boxes == box))
        first[rows] = rows[_first_near(points[rows])]
    return first


def _first_near(points: NDArray[np.float32]) -> Integers:
    """The first of the unit vectors [b, p] from which each can be reached by steps between near ones.

    Only the nearest of each is looked at, and what was joined is then one, so that a stack of a million copies of one
    image takes a few searches and no list of all pairs.
    """
    steps = np.floor(points / CELL).astype(np.int64)
    odd = np.random.default_rng(0).integers(1, 1 << 62, points.shape[1]) * 2 + 1
    _, start, inverse = np.unique(steps @ odd, return_index=True, return_inverse=True)
    first = np.asarray(start[inverse], np.int64)
    while True:
        apart = np.unique(first)
        pairs = _nearest(points[apart])
        if not len(pairs):
            return first
        graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(apart), len(apart)))
        part = connected_components(graph, directed=False)[1]
        least = apart[np.unique(part, return_index=True)[1]][part]
        first = least[np.searchsorted(apart, first)]


def _nearest(points: NDArray[np.float32]) -> Integers:
    """Pairs [p, 2] of each of the unit vectors with the one nearest to it, as far as they are alike."""
    some = np.ascontiguousarray(points[:, :SEARCHED])
    tree = cKDTree(some, balanced_tree=False)
    order = tree.indices  # neighbours after one another: half the time
    within = float(np.sqrt(2 * ALIKE))
    _, found = tree.query(some[order], k=2, distance_upper_bound=within)
    mine = np.repeat(order[:, None], 2, axis=1)
    pairs = np.stack([mine, found], axis=-1).reshape(-1, 2)
    pairs = pairs[(pairs[:, 1] < len(points)) & (pairs[:, 0] != pairs[:, 1])]
    apart = points[pairs[:, 0]].astype(np.float64) - points[pairs[:, 1]]
    return np.asarray(pairs[np.square(apart).sum(axis=1) < 2 * ALIKE], np.int64)
