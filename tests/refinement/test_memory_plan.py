"""The memory plan counts the arrays that are made, and smaller batches take the place of an end."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from halfmap.errors import InputError
from halfmap.expectation.score import BLOCK
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.maps.masks import solvent_mask
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement.in_parts import in_parts
from halfmap.refinement.memory_plan import (
    SLICES_MOST,
    Demand,
    checked,
    demand_of,
    kept_within,
    planned,
    usual_search,
)
from halfmap.refinement.run_time import USUAL, Speed, Task, estimated_seconds, grid_operations
from halfmap.refinement.schedule import Progressed, Schedule
from halfmap.regularisation.support import Support
from halfmap.settings.regularisers import DECLARED, RegulariserOptions, need_of

LARGE = Demand(512, 2, 255, 512, 32, 147_456, 265, False, "uniform", DECLARED["uniform"].need)


@pytest.mark.parametrize(("box", "padding"), [(20, 1), (21, 2), (32, 2)])
def test_sums_are_counted_to_the_byte(box, padding):
    limit = math.ceil(box / 2) - 1
    sums = Backprojection.zeros(box, padding, limit, torch.zeros(())).sums
    reference = half_volume(torch.zeros(box, box, box), padding, limit)
    plan = planned(Demand(box, padding, limit, box, 8, 0, 0, False, "uniform", DECLARED["uniform"].need), 10**12)
    assert plan.sums == sums.numel() * sums.element_size()
    assert plan.expectation > 4 * plan.sums + reference.numel() * reference.element_size()


@pytest.mark.parametrize("regulariser", ["uniform", "nonuniform", "cutoff", "local-fsc", "sidesplitter"])
def test_box_512_is_refined_in_16_gb_with_sums_on_disk(regulariser):
    plan = checked(planned(replace(LARGE, need=DECLARED[regulariser].need), 16 * 10**9))
    assert plan.on_disk and plan.peak < 16e9
    assert not planned(LARGE, 10**11).on_disk, "memory is quicker where there is enough"


def test_sums_that_a_gpu_has_no_room_for_go_to_the_machine_first():
    whole = planned(replace(LARGE, gpu=True), 10**12)
    small = planned(whole.demand, 24 * 10**9)
    assert whole.place == "memory" and whole.moved == 0
    assert small.place == "host" and small.peak <= small.available < whole.peak
    assert small.scratch == 0 and small.moved == 7 * small.sums and "in the machine's memory" in small.words()
    assert planned(whole.demand, 24 * 10**9, "disk").scratch == 7 * small.sums


def test_so_it_is_with_a_sparse_and_smooth_map_of_a_particle_that_leaves_room_in_its_box():
    large = replace(LARGE, need=DECLARED["sparse_smooth"].need, kept=kept_within(0.7 * 512, 1.0, 512))
    assert checked(planned(large, 16 * 10**9)).on_disk
    with pytest.raises(InputError, match=r"needs 2[0-9.]+ GB"):
        checked(planned(replace(large, kept=0), 16 * 10**9))
    settings = RegulariserOptions(regulariser="sparse_smooth", ss_parameters="cross-validated")
    chosen = replace(large, need=need_of(settings))
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


@dataclass(frozen=True)
class Case:
    """A particle and its images: diameter and pixel size in A, box, and what the global stage searches at 15 A."""

    diameter: float
    box: int
    pixel_size: float
    shell: int
    rotations: int

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.box, self.pixel_size, self.diameter, C1, 30.0, math.ceil(self.box / 2) - 1)

    @property
    def coefficients(self) -> int:
        """Of a slice, counted."""
        return len(Band.to_shell(self.box, self.shell))


C1 = torch.eye(3, dtype=torch.float64)[None]
RIBOSOME = Case(320.0, 320, 1.5, 32, 12 * 4**4 * 3 * 2**4)  # HEALPix order 4, in-plane angles below 180 degrees
LARGEST = Case(500.0, 534, 1.5, 53, 12 * 4**5 * 3 * 2**5)


@pytest.mark.parametrize("case", [RIBOSOME, LARGEST])
def test_the_grid_that_is_planned_is_the_finest_that_the_schedule_asks_for(case):
    schedule = case.schedule
    demand = demand_of(schedule, 2, case.box, 32, "uniform", DECLARED["uniform"].need)
    assert demand.rotations == case.rotations
    assert demand.grid_coefficients == pytest.approx(case.coefficients, rel=0.01)
    # whatever the half maps agree on, in the first iteration after burn-in and in later ones
    for agreed in (4, schedule.shell(30.0), schedule.shell(15.0), schedule.finest):
        past = 3 * [Progressed("burn-in", schedule.shell(30.0), agreed, 30.0, 1.0, 0.0, 1.0, 1.0)]
        for _ in range(2):
            plan = schedule.next(past, 8.0)
            assert plan is not None and plan.stage == "global" and plan.sampling.grid is not None
            assert len(plan.sampling.grid) <= demand.rotations
            assert len(Band.to_shell(case.box, plan.sampling.grid_limit)) <= 1.01 * demand.grid_coefficients
            past = [*past, Progressed("global", plan.sampling.limit, agreed, 20.0, 1.0, 0.5, 1.0, 1.0)]


@pytest.mark.parametrize(("case", "gigaflop"), [(RIBOSOME, 8.5), (LARGEST, 187.0)])
def test_the_operations_of_a_global_search_are_counted(case, gigaflop):
    search = usual_search(case.schedule, "global")
    assert search is not None and search.shifts is not None
    assert len(search.shifts) == 9, "about the centres that burn-in found"
    # real and imaginary products, each a multiplication and an addition
    counted = 4 * case.rotations * 9 * case.coefficients
    assert grid_operations(search) == pytest.approx(counted, rel=0.01)
    assert grid_operations(search) == pytest.approx(1e9 * gigaflop, rel=0.05)


def test_slices_that_are_held_are_in_the_plan_and_others_leave_it():
    """Those of a 500 A particle are larger than all else together."""
    demand = demand_of(LARGEST.schedule, 2, LARGEST.box, 32, "uniform", DECLARED["uniform"].need)
    bytes_of_all = 12 * LARGEST.rotations * LARGEST.coefficients
    assert bytes_of_all > 50e9
    held = planned(demand, 10**12)
    assert held.slices_room is None and held.expectation > bytes_of_all and "block" not in held.words()
    blocks = checked(planned(demand, 64 * 10**9))
    assert blocks.slices_room is not None and not blocks.on_disk and "block by block" in blocks.words()
    assert 12 * BLOCK * LARGEST.coefficients <= blocks.slices_room < bytes_of_all / 20
    assert blocks.batch > held.batch, "slices that are made anew serve more images"
    assert planned(replace(demand, batch_given=True), 64 * 10**9).batch <= demand.batch


def test_slices_take_a_part_of_the_memory_at_most():
    demand = demand_of(RIBOSOME.schedule, 2, RIBOSOME.box, 32, "uniform", DECLARED["uniform"].need)
    bytes_of_all = 12 * RIBOSOME.rotations * RIBOSOME.coefficients
    assert planned(demand, 10**11).slices_room is None
    plan = planned(replace(demand, rotations=8 * demand.rotations), 4 * 10**10)
    assert 8 * bytes_of_all > SLICES_MOST * 4e10 and plan.slices_room is not None


def test_making_slices_anew_is_in_the_estimate_of_time():
    schedule, speed = RIBOSOME.schedule, Speed(0.0, 0.0, 0.0, 1e-9, 0.0, 0.0)
    plan = planned(demand_of(schedule, 2, RIBOSOME.box, 32, "uniform", DECLARED["uniform"].need), 10**12)
    once = RIBOSOME.rotations * RIBOSOME.coefficients * 1e-9
    blocks = replace(plan, slices_room=12 * BLOCK * RIBOSOME.coefficients, batch=50)
    held, anew = (estimated_seconds(Task(1000, RIBOSOME.box, 2, schedule, p), speed)["global"] / USUAL["global"]
                  for p in (plan, blocks))
    assert held == pytest.approx(2 * once, rel=0.01), "once for each half set"
    assert anew == pytest.approx(20 * once, rel=0.01), "once for each batch"


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
