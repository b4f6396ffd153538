"""Half sets drawn at random keep together what shares noise: rows of one image, segments of one filament."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfmap.errors import InputError
from halfmap.particles.half_sets import Division, assign_halves
from halfmap.particles.star import read_star
from halfmap.particles.table import Integers, ParticleTable

COUNT = 400


@pytest.fixture
def many(star: Path) -> ParticleTable:
    """400 particles of 10 micrographs, all of different images."""
    table = read_star(star).select(np.zeros(COUNT, int))
    return replace(table, image_index=np.arange(COUNT), micrograph=np.arange(COUNT) // 40)


def whole(half: Integers, together: Integers) -> bool:
    return all(len(set(half[together == one].tolist())) == 1 for one in np.unique(together))


def with_tubes(table: ParticleTable, tube: Integers) -> ParticleTable:
    return replace(table, columns=table.columns | {"rlnHelicalTubeID": tube})


def test_rows_of_one_image_stay_together_and_half_sets_even(many: ParticleTable) -> None:
    expanded = replace(many, image_index=np.arange(COUNT) % 100, stack_index=np.zeros(COUNT, np.int64))
    halves = [assign_halves(expanded, Division(seed=seed)).half for seed in range(10)]
    for half in halves:
        assert whole(half, np.arange(COUNT) % 100) and half.sum() == COUNT // 2
    assert len({tuple(half.tolist()) for half in halves}) == 10


def test_copies_under_other_names_stay_together_where_they_are_known(many: ParticleTable) -> None:
    first = np.arange(COUNT)
    first[300:] = np.arange(100)
    for by in ("particle", "micrograph"):
        half = assign_halves(many, Division(by), first).half
        assert whole(half, first) and abs(half.mean() - 0.5) < 0.3
    # By micrograph, copies tie the micrographs that they lie on: 0 to 2 with the last three.
    assert whole(half, many.micrograph)


def test_filaments_stay_whole_on_their_own_micrograph(many: ParticleTable) -> None:
    tube = 1 + np.arange(COUNT) // 8 % 5  # five on each micrograph, of the same numbers everywhere
    half = assign_halves(with_tubes(many, tube), Division()).half
    assert whole(half, np.arange(COUNT) // 8) and half.sum() == COUNT // 2
    assert not whole(half, tube) and not whole(half, many.micrograph)
    named = assign_halves(with_tubes(many, tube), Division("filament")).half
    np.testing.assert_array_equal(named, half)
    single = assign_halves(with_tubes(many, tube), Division("particle")).half
    assert not whole(single, np.arange(COUNT) // 8)


def test_particles_of_no_filament_go_their_own_way(many: ParticleTable) -> None:
    tube = np.where(np.arange(COUNT) < 40, 1, 0)
    half = assign_halves(with_tubes(many, tube), Division()).half
    assert len(set(half[:40].tolist())) == 1 and half.sum() == COUNT // 2
    assert all(len(set(half[at : at + 20].tolist())) == 2 for at in range(40, COUNT, 20))


def test_filaments_that_are_not_there_or_no_numbers_are_named(many: ParticleTable) -> None:
    with pytest.raises(InputError, match="names no filaments"):
        assign_halves(many, Division("filament"))
    with pytest.raises(InputError, match="rlnHelicalTubeID holds what is not a number"):
        assign_halves(replace(many, columns=many.columns | {"rlnHelicalTubeID": ["x"] * COUNT}), Division())
    with pytest.raises(InputError, match=r"too few filaments.*--split-by particle"):
        assign_halves(with_tubes(many.select(np.arange(9)), np.ones(9, np.int64)), Division())


def test_images_made_of_one_image_stay_together_but_a_placeholder_says_nothing(many: ParticleTable) -> None:
    made = [f"{1 + i % 100:06d}@before.mrcs" for i in range(COUNT)]
    subtracted = replace(many, columns=many.columns | {"rlnImageOriginalName": made})
    assert whole(assign_halves(subtracted, Division()).half, np.arange(COUNT) % 100)
    unset = replace(many, columns=many.columns | {"rlnImageOriginalName": ["None"] * COUNT})
    assert assign_halves(unset, Division()).half.sum() == COUNT // 2
