"""Quarter sets, which cross-validation compares, share no image and no filament, and are even."""

from __future__ import annotations

import torch

from halfmap.refinement.quarter_sets import drawn
from halfmap.refinement.state import PoseTable


def test_what_shares_noise_stays_in_one_quarter_set() -> None:
    half = torch.arange(600) // 4 % 2
    pieces = torch.arange(600) // 4
    for seed in range(5):
        sets = drawn(PoseTable.empty(half, 1), 1, seed, pieces)
        quarter = sets.quarter_of[sets.members].reshape(-1, 4)
        assert bool((half[sets.members] == 1).all()) and bool((quarter == quarter[:, :1]).all())
        assert abs(int(quarter.sum()) - 150) <= 4  # of 75 pieces of four


def test_quarter_sets_of_different_images_differ_by_one_at_most_and_are_drawn_anew() -> None:
    half = torch.arange(301) % 2
    sets = [drawn(PoseTable.empty(half, 1), 0, seed, torch.arange(301)) for seed in range(3)]
    sizes = [int(one.quarter_of[one.members].sum()) for one in sets]
    assert len(sets[0].members) == 151 and sizes == [76] * 3
    assert not torch.equal(sets[0].quarter_of, sets[1].quarter_of)
