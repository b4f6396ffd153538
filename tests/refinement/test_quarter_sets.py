"""Quarter sets, which cross-validation compares, share no image and no filament, and are even."""

from __future__ import annotations

import torch

from halfmap.refinement.quarter_sets import drawn, random_part, searched_everywhere


def test_what_shares_noise_stays_in_one_quarter_set() -> None:
    half = torch.arange(600) // 4 % 2
    pieces = torch.arange(600) // 4
    for seed in range(5):
        sets = drawn(torch.nonzero(half == 1)[:, 0], 1, seed, pieces)
        quarter = sets.quarter_of[sets.members].reshape(-1, 4)
        assert bool((half[sets.members] == 1).all()) and bool((quarter == quarter[:, :1]).all())
        assert abs(int(quarter.sum()) - 150) <= 4  # of 75 pieces of four


def test_quarter_sets_of_different_images_differ_by_one_at_most_and_are_drawn_anew() -> None:
    half = torch.arange(301) % 2
    members = torch.nonzero(half == 0)[:, 0]
    sets = [drawn(members, 0, seed, torch.arange(301)) for seed in range(3)]
    sizes = [int(one.quarter_of[one.members].sum()) for one in sets]
    assert len(sets[0].members) == 151 and sizes == [76] * 3
    assert not torch.equal(sets[0].quarter_of, sets[1].quarter_of)


def test_a_larger_random_part_holds_the_smaller_one_and_pieces_stay_whole_but_for_one() -> None:
    members, pieces = torch.arange(1, 4001, 2), torch.arange(4001) // 8
    small, large = (random_part(members, share, pieces, 3) for share in (0.05, 0.4))
    assert [len(small), len(large)] == [100, 800]
    assert set(small.tolist()) < set(large.tolist()) < set(members.tolist())
    counts = torch.bincount(pieces[small])
    assert int(((counts > 0) & (counts < 4)).sum()) <= 1  # each piece has four members in this half set
    assert not torch.equal(small, random_part(members, 0.05, pieces, 4))
    assert 0.35 < float((large > 2000).double().mean()) < 0.65


def test_of_particles_with_a_pose_a_random_share_is_searched_everywhere_whichever_others_a_process_knows() -> None:
    known = torch.arange(4000) >= 1000
    drawings = torch.stack([searched_everywhere(known, 0.25, seed) for seed in range(40)])
    assert bool(drawings[:, :1000].all()), "all that have no pose"
    share = drawings[:, 1000:].double()
    assert share.mean(dim=1).sub(0.25).abs().max() < 5 * (0.25 * 0.75 / 3000) ** 0.5
    assert abs(float(share.sum(dim=0).var()) - 40 * 0.25 * 0.75) < 1.2  # binomial: drawn anew every time
    few = searched_everywhere(known & (torch.arange(4000) % 2 == 0), 0.25, 7)
    assert torch.equal(few[1000::2], drawings[7, 1000::2])
    assert bool(searched_everywhere(known, 1.0, 3).all())
