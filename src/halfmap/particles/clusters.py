"""Positions that fall into groups, such as the beam shifts of images: which of them belong together.

Nobody says how many there are. Neighbours are joined, the nearest first (single linkage, along the minimum spanning
tree), and the joining ends before the step whose length is the largest multiple of the last one taken: where groups lie
apart, the smallest distance between two of them is many times the largest gap within one. Groups have two members or
more on average. Positions for which no such step stands out are refused.

Where the number of groups is given, Ward's criterion (1963, J. Am. Stat. Assoc. 58, 236) joins them: of all pairs the
one whose union has the least sum of squares more. It needs no gap between groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]
Integers = NDArray[np.int64]

CLEAR = 2.0  # least multiple that stands out
FINEST = 1e-3  # of the extent: what lies nearer together is one position
MOST_JOINED = 4000  # positions that Ward's criterion takes, which needs every pair; others come to the nearest group


@dataclass(frozen=True)
class Clusters:
    """number [i]: the group of each position, from 0; centres [g, d]; gap: the smallest distance between groups over
    the largest step within one (None where the number of groups was given)."""

    number: Integers
    centres: Positions
    gap: float | None


def clusters_of(positions: Positions, count: int | None = None) -> Clusters:
    """The groups of positions [i, 1] or [i, 2]; count: how many there are, if that is known.

    Raises ValueError, with the reason, where all are alike, no groups stand out, or there are fewer positions than
    ``count``.
    """
    distinct, place = np.unique(positions, axis=0, return_inverse=True)
    if len(distinct) == 1:
        raise ValueError("all are the same")
    if count is not None and len(distinct) < count:
        raise ValueError(f"there are only {len(distinct)} different ones")
    gap = None
    if count is None:
        number, gap = _by_gap(distinct, len(positions) // 2)
    else:
        number = _by_ward(distinct, count)
    order = _in_order(distinct, number)
    number = order[number][place.reshape(-1)]
    sizes = np.bincount(number)
    centres = [np.bincount(number, column) / sizes for column in positions.T]
    return Clusters(number, np.stack(centres, axis=1), gap)


def _in_order(distinct: Positions, number: Integers) -> Integers:
    """The new number of each group: by the first coordinate of its centre, then by the others."""
    sizes = np.bincount(number)
    centres = np.stack([np.bincount(number, column) / sizes for column in distinct.T], axis=1)
    span = np.ptp(distinct, axis=0).max()
    ranks = np.lexsort(np.round(centres / (0.02 * span)).T[::-1])
    order = np.empty(len(ranks), np.int64)
    order[ranks] = np.arange(len(ranks))
    return order


def _by_gap(distinct: Positions, most: int) -> tuple[Integers, float]:
    """The group of each position by single linkage, at most so many of them, and by how many times the step stands out
    that ends it."""
    from scipy.sparse.csgraph import connected_components

    tree = _spanning_tree(distinct).tocoo()
    order = np.argsort(tree.data, kind="stable")
    span = np.ptp(distinct, axis=0).max()
    steps = np.maximum(tree.data[order], FINEST * span)
    # The first number is the step that would end it where every position is a group of its own.
    ratios = steps / np.concatenate([[FINEST * span], steps[:-1]])
    ratios[: max(len(distinct) - most, 0)] = 0.0
    first = int(ratios.argmax())
    if ratios[first] < CLEAR:
        raise ValueError(f"no groups stand out: no gap is more than {ratios[first]:.2g} times the next smaller one")
    kept = order[:first]
    tree.row, tree.col, tree.data = tree.row[kept], tree.col[kept], tree.data[kept]
    return connected_components(tree, directed=False)[1].astype(np.int64), float(ratios[first])


def _spanning_tree(distinct: Positions) -> Any:
    """The minimum spanning tree of different positions, as a sparse matrix of lengths.

    In a plane its edges are among those of the Delaunay triangulation, so that not every pair need be looked at.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree
    from scipy.spatial import Delaunay

    centred = distinct - distinct.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    if len(spread) == 1 or len(distinct) < 4 or spread[1] < 1e-6 * spread[0]:
        along = np.argsort(centred @ axes[0])
        ends = np.stack([along[:-1], along[1:]], axis=1)
        if len(distinct) == 3 and len(spread) > 1:
            ends = np.array([[0, 1], [0, 2], [1, 2]])
    else:
        flat = Delaunay(centred / spread[0])
        corners = flat.simplices
        ends = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]], flat.coplanar[:, [0, 2]]])
        ends = np.unique(np.sort(ends, axis=1), axis=0)
    length = np.linalg.norm(distinct[ends[:, 0]] - distinct[ends[:, 1]], axis=1)
    return minimum_spanning_tree(coo_matrix((length, (ends[:, 0], ends[:, 1])), shape=(len(distinct),) * 2))


def _by_ward(distinct: Positions, count: int) -> Integers:
    """The group of each position by Ward's criterion, for so many groups."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial import cKDTree

    random = np.random.default_rng(0)
    some = np.arange(len(distinct))
    if len(distinct) > MOST_JOINED:
        some = np.sort(random.choice(len(distinct), max(MOST_JOINED, count), replace=False))
    number = fcluster(linkage(distinct[some], "ward"), count, "maxclust").astype(np.int64) - 1
    if len(some) == len(distinct):
        return number
    sizes = np.bincount(number)
    centres = np.stack([np.bincount(number, column) / sizes for column in distinct[some].T], axis=1)
    return np.asarray(cKDTree(centres).query(distinct)[1], np.int64)
