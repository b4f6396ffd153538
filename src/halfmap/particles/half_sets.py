"""Half sets drawn at random: rows whose noise is the same or overlaps stay in one of them.

Those are rows of one image (copies, and what symmetry expansion makes of it), and segments of one filament, because
neighbouring segments overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from halfmap.errors import InputError
from halfmap.particles.same_images import first_named
from halfmap.particles.table import Integers, ParticleTable

SplitBy = Literal["auto", "particle", "filament", "micrograph"]
TUBE = "rlnHelicalTubeID"


@dataclass(frozen=True)
class Division:
    """How half sets are drawn.

    by: what stays together besides the rows of one image; auto is by filament where the file names filaments, else by
    particle. seed: of the draw.
    """

    by: SplitBy = "auto"
    seed: int = 0


def filaments(table: ParticleTable) -> Integers | None:
    """Number[b] of each particle's filament, counted through all micrographs; -1 for none. None without filaments.

    They are those of rlnHelicalTubeID, which counts from 1 on every micrograph. Raises InputError where it is no
    number.
    """
    if TUBE not in table.columns:
        return None
    tube = table.numbers(TUBE).astype(np.int64)
    if not np.any(tube > 0):
        return None
    number = np.unique(np.stack([table.micrograph, tube]), axis=1, return_inverse=True)[1].reshape(-1)
    return np.where(tube > 0, number, -1)


def divided_by(table: ParticleTable, by: SplitBy) -> SplitBy:
    """What ``auto`` means for this table. Raises InputError for filaments where there are none."""
    if by not in ("auto", "filament"):
        return by
    there = filaments(table) is not None
    if by == "filament" and not there:
        raise InputError(f"{table.source}: names no filaments ({TUBE}); leave --split-by filament out")
    return "filament" if there else "particle"


def assign_halves(table: ParticleTable, division: Division, image: Integers | None = None) -> ParticleTable:
    """The table divided into two random halves, the same ones for the same seed.

    image[b]: equal numbers for the same image (None: where rows name the same one). Where every row may go its own
    way, the sizes differ by one at most. Else what belongs together (an image, a filament, a micrograph), largest
    first, goes to the half that is smaller so far. Raises InputError where a half would be empty.
    """
    generator = np.random.default_rng(division.seed)
    by = divided_by(table, division.by)
    whole = _kept_together(table, by, first_named(table) if image is None else image)
    counts = np.bincount(whole)
    half = np.zeros(len(table), np.int64)
    if counts.max(initial=0) <= 1:
        half[generator.permutation(len(table))[len(table) // 2:]] = 1
    else:
        shuffled = generator.permutation(len(counts))
        side, sizes = np.zeros(len(counts), np.int64), [0, 0]
        order = shuffled[np.argsort(-counts[shuffled], kind="stable")]
        for one, count in zip(order.tolist(), counts[order].tolist(), strict=True):
            to = int(sizes[1] < sizes[0])
            side[one] = to
            sizes[to] += count
        half = side[whole]
    if len(set(half.tolist())) < 2:
        what = f"{by}s" if by != "particle" or counts.max(initial=0) <= 1 else "different images"
        raise InputError(f"{table.source}: too few {what} to make two halves; "
                         f"{'add particles' if by == 'particle' else 'divide by particle (--split-by particle)'}")
    return replace(table, half=half)


def of_one_piece(table: ParticleTable) -> Integers:
    """Numbers[b], equal for rows whose noise is the same or overlaps: those that name one image, or lie on one
    filament."""
    return _kept_together(table, divided_by(table, "auto"), first_named(table))


def _kept_together(table: ParticleTable, by: SplitBy, image: Integers) -> Integers:
    """Numbers[b], equal for rows that stay in one half set: of one image, and of one filament or micrograph."""
    number = np.unique(image, return_inverse=True)[1].reshape(-1)
    if by == "particle":
        return np.asarray(number, np.int64)
    whole = table.micrograph
    if by == "filament":
        tube = filaments(table)
        assert tube is not None  # divided_by has looked
        alone = tube < 0
        whole = np.where(alone, tube.max() + 1 + np.arange(len(tube)), tube)
    whole = np.unique(whole, return_inverse=True)[1].reshape(-1)
    images = int(number.max(initial=-1)) + 1
    size = images + int(whole.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(number)), (number, images + whole)), shape=(size, size))
    part = connected_components(graph, directed=False)[1]
    return np.asarray(np.unique(part[images + whole], return_inverse=True)[1].reshape(-1), np.int64)
