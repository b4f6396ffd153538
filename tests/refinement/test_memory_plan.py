"""The memory plan counts the arrays that are made, and smaller batches take the place of an end."""

import math
from dataclasses import replace

import pytest
import torch

from halfmap.errors import InputError
from halfmap.fourier.transform import half_volume
from halfmap.maps.masks import solvent_mask
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.in_parts import in_parts
from halfmap.refinement.memory_plan import Demand, checked, kept_within, needs_of, planned
from halfmap.regularisation.support import Support

LARGE = Demand(512, 2, 255, 512, 32, 147_456, 265, False, "uniform")


@pytest.mark.parametrize(("box", "padding"), [(20, 1), (21, 2), (32, 2)])
def test_sums_are_counted_to_the_byte(box, padding):
    limit = math.ceil(box / 2) - 1
    sums = Backprojection.zeros(box, padding, limit, torch.zeros(())).sums
    reference = half_volume(torch.zeros(box, box, box), padding, limit)
    plan = planned(Demand(box, padding, limit, box, 8, 0, 0, False, "uniform"), 10**12)
    assert plan.sums == sums.numel() * sums.element_size()
    assert plan.expectation > 4 * plan.sums + reference.numel() * reference.element_size()


@pytest.mark.parametrize("regulariser", ["uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter"])
def test_box_512_is_refined_in_16_gb_with_sums_on_disk(regulariser):
    plan = checked(planned(replace(LARGE, regulariser=regulariser), 16 * 10**9))
    assert plan.on_disk and plan.peak < 16e9
    assert not planned(LARGE, 10**11).on_disk, "memory is quicker where there is enough"


def test_so_it_is_with_a_sparse_and_smooth_map_of_a_particle_that_leaves_room_in_its_box():
    large = replace(LARGE, regulariser="sparse_smooth", kept=kept_within(0.7 * 512, 1.0, 512))
    assert checked(planned(large, 16 * 10**9)).on_disk
    with pytest.raises(InputError, match=r"needs 2[0-9.]+ GB"):
        checked(planned(replace(large, kept=0), 16 * 10**9))
    chosen = replace(large, regulariser=needs_of("sparse_smooth", "cross-validated"))
    assert planned(chosen, 10**12).solve > planned(large, 10**12).solve


@pytest.mark.parametrize("pixel_size", [1.0, 4.0])
def test_references_are_kept_within_the_cube_that_is_counted(pixel_size):
    """Density at the very rim of the sphere, in noise; and nothing but noise, where the mask is the sphere."""
    box, diameter = 64, 40 * pixel_size
    q = torch.arange(box) - box // 2
    for place in ((19, 0, 0), (0, -19, 0), (0, 0, 19), None):
        v = 0.01 * torch.randn(box, box, box, generator=torch.Generator().manual_seed(0))
        if place is not None:
            z, y, x = place
            v += 5.0 * ((q[:, None, None] - z).square() + (q[:, None] - y).square() + (q - x).square() < 30)
        mask = solvent_mask(v, pixel_size, diameter)
        side = kept_within(diameter, pixel_size, box)
        assert max(Support.of(mask, box).shape) <= side <= box
    assert kept_within(16 * pixel_size, pixel_size, box) < box


def test_a_smaller_batch_comes_before_the_disk():
    most = planned(LARGE, 10**12)
    less = planned(LARGE, most.expectation - 1)
    solve_bound = replace(LARGE, batch=4096)
    assert less.on_disk or less.batch < most.batch
    plan = planned(solve_bound, planned(solve_bound, 10**12).peak - 1)
    assert not plan.on_disk and plan.batch < 4096


def test_where_nothing_fits_it_is_said_what_would():
    with pytest.raises(InputError, match=r"box 512.*--padding 1"):
        checked(planned(LARGE, 12 * 10**9))
    with pytest.raises(InputError, match="--sums disk"):
        checked(planned(LARGE, 16 * 10**9, "memory"))
    with pytest.raises(InputError, match="binned"):
        checked(planned(replace(LARGE, padding=1), 10**9))


def test_a_run_that_goes_on_is_told_only_what_can_still_be_done():
    with pytest.raises(InputError, match=r"even with sums on disk.*--max-memory") as refused:
        checked(planned(LARGE, 12 * 10**9), begun=True)
    assert "--padding" not in str(refused.value) and "--sums" not in str(refused.value)


def test_work_is_halved_until_it_fits_and_keeps_its_order():
    tried = []

    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return list(range(part.start, part.stop))

    assert [i for part in in_parts(work, 11) for i in part] == list(range(11))
    assert tried[0] == 11 and max(tried[3:]) <= 6


def test_other_faults_are_not_hidden_and_one_image_too_much_is_said():
    def fails(part: slice) -> None:
        raise RuntimeError("shapes do not agree")

    def never_fits(part: slice) -> None:
        raise MemoryError

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_parts(fails, 4))
    with pytest.raises(InputError, match="single image"):
        list(in_parts(never_fits, 4))
