"""Tables selected from and divided into halves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from halfmap.particles.half_sets import Division, assign_halves
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import with_poses


def test_selected_particles_keep_their_values_and_their_row(star: Path) -> None:
    table = read_star(star)
    index = np.array([5, 0, 2])
    few = table.select(index)
    assert len(few) == 3 and few.rows.tolist() == [5, 0, 2]
    assert few.name(0) == f"{star}: row 6"
    assert few.columns["rlnSomethingOfMine"] == ["f", "a", "c"]
    np.testing.assert_array_equal(few.rotations, table.rotations[index])
    np.testing.assert_array_equal(few.defocus.u, table.defocus.u[index])
    assert few.half.tolist() == table.half[index].tolist()
    write_star("few.star", few)
    assert read_star("few.star").image_index.tolist() == table.image_index[index].tolist()
    mask = np.isin(np.arange(7), index)
    assert table.select(mask).rows.tolist() == [0, 2, 5]
    assert table.select(torch.tensor([3])).rows.tolist() == [3]


def test_halves_by_particle_are_balanced_random_and_repeatable(star: Path) -> None:
    table = read_star(star)
    halves = [assign_halves(table, Division(seed=seed)).half for seed in range(20)]
    assert {int(half.sum()) for half in halves} == {4}
    assert len({tuple(half.tolist()) for half in halves}) > 5
    np.testing.assert_array_equal(assign_halves(table, Division(seed=3)).half, halves[3])
    write_star("halves.star", assign_halves(table, Division(seed=3)))
    assert (
        starfile.read("halves.star", always_dict=True)["particles"]["rlnRandomSubset"] - 1
    ).tolist() == halves[3].tolist()


def test_halves_by_micrograph_keep_micrographs_whole_and_balanced(star: Path) -> None:
    table = read_star(star).select(np.random.default_rng(0).integers(0, 7, 300))
    micrograph = np.random.default_rng(1).integers(0, 40, 300)
    table = replace(table, micrograph=micrograph, image_index=np.arange(300))
    half = assign_halves(table, Division("micrograph", 0)).half
    for m in range(40):
        assert len(set(half[micrograph == m].tolist())) == 1
    # Largest first: the difference never exceeds one micrograph, where chance alone would give about fifty.
    assert abs(int((half == 0).sum()) - int((half == 1).sum())) <= np.bincount(micrograph).max() < 20
    assert not np.array_equal(half, assign_halves(table, Division("micrograph", 1)).half)


def test_an_extra_column_of_the_wrong_length_is_refused(star: Path) -> None:
    table = read_star(star)
    with pytest.raises(ValueError, match="rlnClassNumber"):
        with_poses(table, table.rotations, table.origins, extra={"rlnClassNumber": np.ones(6)})


def test_new_poses_leave_the_old_table_as_it_was(star: Path) -> None:
    table = read_star(star)
    before = table.rotations.clone()
    posed = with_poses(
        table, table.rotations.flip(0), table.origins + 1, extra={"rlnClassNumber": np.ones(7)}
    )
    assert torch.equal(table.rotations, before) and "rlnClassNumber" not in table.columns
    assert torch.equal(posed.origins, table.origins + 1) and posed.half is table.half
