"""Positions fall into the groups that they were made of, and no groups are found where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from halfmap.particles.clusters import clusters_of

SPACING = 0.12


def lattice(rows: int, columns: int) -> np.ndarray:
    """Places of holes, on an oblique lattice far off the origin."""
    i, j = (index.ravel() for index in np.indices((rows, columns)))
    return np.stack([3 + SPACING * i + 0.03 * j, -1 + 0.9 * SPACING * j], axis=1)


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one, other], axis=1), axis=0)
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


@pytest.mark.parametrize(("rows", "columns", "spread", "shots"), [
    (7, 7, 0.0, 3), (7, 7, 0.004, 40), (3, 3, 0.006, 12), (1, 5, 0.004, 30), (2, 1, 0.004, 6), (9, 9, 0.006, 100),
])
def test_shots_at_the_holes_of_a_lattice_fall_into_its_holes(rows, columns, spread, shots):
    random, centres = np.random.default_rng(rows), lattice(rows, columns)
    truth = random.permutation(np.repeat(np.arange(len(centres)), shots))
    found = clusters_of(centres[truth] + random.normal(0, spread, (len(truth), 2)))
    assert same_partition(found.number, truth) and found.gap > 2
    for number, centre in enumerate(found.centres):
        assert np.linalg.norm(centre - centres[truth[found.number == number][0]]) < 5 * spread / np.sqrt(shots) + 1e-9


def test_one_column_of_numbers_is_grouped_too_and_numbered_upwards():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 200)
    found = clusters_of((truth * 2.0 + random.normal(0, 0.05, 200))[:, None])
    assert np.array_equal(found.number, truth)


def test_a_given_number_of_groups_is_found_where_no_gap_stands_out():
    random, truth = np.random.default_rng(1), np.repeat(np.arange(4), 300)
    centres = np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]])
    positions = centres[truth] + random.normal(0, 0.17, (1200, 2))
    with pytest.raises(ValueError, match="no groups stand out"):
        clusters_of(positions)
    found = clusters_of(positions, 4)
    shares = [np.bincount(found.number[truth == kind], minlength=4).max() / 300 for kind in range(4)]
    assert min(shares) > 0.95 and len(np.unique(found.number)) == 4 and found.gap is None


@pytest.mark.parametrize("shape", ["normal", "even"])
def test_positions_without_groups_are_refused(shape):
    random = np.random.default_rng(2)
    positions = random.normal(0, 1, (500, 2)) if shape == "normal" else random.uniform(0, 1, (500, 2))
    with pytest.raises(ValueError, match="no groups stand out"):
        clusters_of(positions)
    with pytest.raises(ValueError, match="all are the same"):
        clusters_of(np.ones((10, 2)))
    with pytest.raises(ValueError, match="only 2 different"):
        clusters_of(np.repeat([[0.0, 0], [1, 0]], 5, axis=0), 3)


def test_more_positions_than_pairs_can_be_held_for_are_grouped_alike(monkeypatch):
    monkeypatch.setattr("halfmap.particles.clusters.MOST_JOINED", 60)
    random, truth = np.random.default_rng(3), np.repeat(np.arange(9), 40)
    found = clusters_of(lattice(3, 3)[truth] + random.normal(0, 0.004, (360, 2)), 9)
    assert same_partition(found.number, truth)
