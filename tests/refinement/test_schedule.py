"""The schedule on made-up histories: each stage ends when it should, and every refinement comes to its final pass."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from halfmap.geometry.rotations import angular_distance
from halfmap.geometry.symmetry import symmetry_group
from halfmap.refinement import schedule as module
from halfmap.refinement.schedule import Plan, Progressed, Schedule, subsets_of

SCHEDULE = Schedule(128, 1.5, 150.0, symmetry_group("C1"), 30.0, 63, max_iterations=60)


def progressed(stage: str, **changes: float) -> Progressed:
    usual = {"limit": 6, "agreed": 12, "resolution": 16.0, "gain": 100.0, "jumped": 0.0, "surprised": 0.0,
             "angle_change": 0.5, "angle_sd": 3.0}
    return Progressed(stage, **(usual | changes))


def driven(schedule: Schedule, outcome: Callable[[int, Plan], Progressed]) -> tuple[list[Plan], list[Progressed]]:
    """Follow the schedule, each iteration ending as `outcome` says, until it ends or goes on for too long."""
    plans: list[Plan] = []
    history: list[Progressed] = []
    while (plan := schedule.next(history, 4.0)) is not None:
        plans.append(plan)
        assert len(plans) <= 200, "no end"
        history.append(outcome(len(plans), plan))
    return plans, history


def good(number: int, plan: Plan) -> Progressed:
    """A refinement that goes well: poses settle at once, the band is filled, the resolution ends at 4 A."""
    agreed = min(plan.sampling.limit + 4, 48)
    return progressed(plan.stage, limit=plan.sampling.limit, agreed=agreed, resolution=192.0 / agreed,
                      gain=100.0 + plan.sampling.limit, jumped=1.0 if number == 1 else 0.01,
                      angle_change=180.0 if number == 1 else 3.0 / number**2, angle_sd=1.0)


def farthest(shifts: torch.Tensor, reach: float) -> float:
    """The largest distance in angstrom from a place within `reach` of the centre to the next grid point."""
    turn = torch.linspace(0, 2 * math.pi, 73, dtype=torch.float64)
    rim = torch.stack([turn.cos(), turn.sin()], dim=1)
    places = torch.cat([rim * reach * part / 20 for part in range(21)])
    return float(torch.cdist(places, shifts.double() * 1.5).amin(dim=1).max())


def stages(plans: list[Plan]) -> list[str]:
    """The stages in their order, each once."""
    return [plan.stage for i, plan in enumerate(plans) if i == 0 or plans[i - 1].stage != plan.stage]


def test_a_good_refinement_passes_all_stages_and_ends_with_one_final_pass():
    plans, _ = driven(SCHEDULE, good)
    assert stages(plans) == ["burn-in", "global", "local", "final"]
    assert [plan.stage for plan in plans].count("final") == 1
    assert len(plans) < 25
    assert {plan.sampling.search for plan in plans if plan.stage in ("burn-in", "global")} == {"global"}
    assert {plan.sampling.search for plan in plans if plan.stage in ("local", "final")} == {"local"}


def test_beyond_the_grids_resolution_the_band_grows_by_half_at_most_and_follows_what_the_half_maps_agree_on():
    plans, history = driven(SCHEDULE, good)
    limits = [plan.sampling.limit for plan in plans]
    for before, after, seen in zip(limits, limits[1:], history, strict=False):
        assert after <= max(int(1.5 * before) + 2, SCHEDULE.shell(module.GRID_RESOLUTION))
        assert after <= max(seen.agreed + module.margin(seen.agreed), SCHEDULE.shell(30.0))
    assert limits[0] == SCHEDULE.shell(30.0) == 6
    assert limits[-1] == 48 + module.margin(48)


def test_the_band_shrinks_again_when_the_half_maps_agree_on_less():
    agreed = [progressed("global", limit=30, agreed=33), progressed("global", limit=36, agreed=15)]
    assert SCHEDULE.next([progressed("burn-in")] * 3 + agreed, 4.0).sampling.limit == 15 + module.margin(15)


@pytest.mark.parametrize("agreed", [20, 30, 40])
def test_a_box_twice_as_wide_is_searched_to_the_same_resolution(agreed):
    limits = []
    for factor in (1, 2):
        schedule = replace(SCHEDULE, box=factor * SCHEDULE.box, finest=64 * factor - 1)
        last = progressed("local", limit=factor * (agreed - 2), agreed=factor * agreed)
        limits.append(schedule.next([last], 4.0).sampling.limit)
    assert limits[0] > agreed and abs(limits[1] - 2 * limits[0]) <= 1


@pytest.mark.parametrize("finest", [5, 12, 40])
def test_no_alignment_goes_beyond_the_finest_shell_even_if_the_half_maps_agree_to_nyquist(finest):
    schedule = replace(SCHEDULE, finest=finest)
    plans, _ = driven(schedule, lambda number, plan: replace(good(number, plan), agreed=64, resolution=3.0))
    assert max(plan.sampling.limit for plan in plans) == finest
    assert max(plan.sampling.grid_limit for plan in plans) <= finest


def test_the_last_pass_is_back_projected_to_nyquist_and_others_only_somewhat_beyond_their_band():
    for box in (128, 127):
        schedule = replace(SCHEDULE, box=box)
        plans, _ = driven(schedule, good)
        assert plans[-1].insert_limit == 63 < box / 2
        for plan in plans[:-1]:
            assert plan.sampling.limit < plan.insert_limit <= max(plan.sampling.limit + 8, 1.3 * plan.sampling.limit)


@pytest.mark.parametrize("search", ["auto", "global", "local", "fixed"])
@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_the_number_of_iterations_is_respected_and_the_last_one_is_final(search, most):
    schedule = replace(SCHEDULE, search=search, max_iterations=most)
    plans, _ = driven(schedule, lambda number, plan: replace(good(number, plan), angle_change=90.0, jumped=0.5))
    assert len(plans) == (1 if search == "fixed" else most)
    assert [plan.stage for plan in plans].count("final") == 1 and plans[-1].stage == "final"
    if search in ("auto", "global"):
        # nothing is known before the first iteration: it must look everywhere, also when it is the only one
        assert plans[0].sampling.search == "global" and plans[0].sampling.grid is not None
    else:
        assert all(plan.sampling.search == search for plan in plans)


def test_a_refinement_that_never_converges_is_ended():
    schedule = replace(SCHEDULE, max_iterations=40)
    plans, _ = driven(schedule, lambda number, plan: progressed(plan.stage, limit=plan.sampling.limit, jumped=0.5,
                                                                gain=100.0, angle_change=60.0))
    assert len(plans) == 40 and plans[-1].stage == "final"


def test_burn_in_lasts_until_poses_and_likelihood_have_settled():
    rising = [progressed("burn-in", gain=100.0 * 1.05**i) for i in range(6)]
    assert [SCHEDULE.burnt_in(rising[:n]) for n in range(1, 7)] == [False] * 6
    settled = [*rising, replace(rising[-1], gain=rising[-1].gain * 1.01)]
    assert SCHEDULE.burnt_in(settled)
    assert SCHEDULE.next(settled, 4.0).stage == "global"
    jumping = [replace(h, jumped=0.2) for h in settled]
    assert not SCHEDULE.burnt_in(jumping)
    assert SCHEDULE.next(jumping, 4.0).stage == "burn-in" and SCHEDULE.next(jumping, 4.0).sampling.limit == 6


def test_burn_in_never_ends_before_its_third_iteration_and_does_not_last_for_ever():
    still = [progressed("burn-in")] * 2
    assert SCHEDULE.next(still, 4.0).stage == "burn-in"
    assert SCHEDULE.next([*still, still[0]], 4.0).stage == "global"
    plans, _ = driven(SCHEDULE, lambda number, plan: progressed(
        plan.stage, limit=plan.sampling.limit, jumped=0.5 if plan.stage == "burn-in" else 0.0, gain=100 * 1.1**number))
    assert [plan.stage for plan in plans].count("burn-in") == module.BURN_IN_MOST


def test_a_burn_in_that_jumps_without_gaining_is_given_up():
    restless = [progressed("burn-in", jumped=0.3, gain=100.0)] * 20
    ended = [n for n in range(1, 21) if SCHEDULE.burnt_in(restless[:n])]
    assert ended and ended[0] <= module.BURN_IN_PATIENCE + 4


def test_a_start_is_poor_if_many_particles_jump_after_the_first_iteration():
    first = progressed("burn-in", surprised=1.0)  # from no pose at all
    assert not SCHEDULE.poor_start([first])
    assert not SCHEDULE.poor_start([first, progressed("burn-in", surprised=0.05)])
    assert SCHEDULE.poor_start([first, progressed("burn-in", surprised=0.3)])
    assert SCHEDULE.poor_start([first, progressed("burn-in", surprised=0.3), progressed("burn-in", surprised=0.0)])
    assert not SCHEDULE.poor_start([first, progressed("burn-in"), progressed("global", surprised=0.3)])


def test_global_search_goes_on_while_particles_jump_but_not_for_ever():
    burnt = [progressed("burn-in")] * 3
    jumping = [progressed("global", limit=12, jumped=0.2)]
    assert SCHEDULE.next(burnt + jumping * 2, 4.0).stage == "global"
    settled = burnt + jumping + [progressed("global", limit=13, jumped=0.005)]
    assert SCHEDULE.next(settled, 4.0).stage == "local"
    assert SCHEDULE.next(burnt + jumping * module.GLOBAL_MOST, 4.0).stage == "local"


def test_a_resolution_to_turn_local_from_is_followed():
    burnt, schedule = [progressed("burn-in")] * 3, replace(SCHEDULE, local_from=10.0)
    coarse, fine = progressed("global", resolution=10.5), progressed("global", resolution=9.5, jumped=0.9)
    assert schedule.next([*burnt, coarse, coarse, coarse], 4.0).stage == "global"
    assert schedule.next([*burnt, coarse, fine], 4.0).stage == "local"


def test_a_global_search_stays_global_to_the_end():
    plans, _ = driven(replace(SCHEDULE, search="global"), good)
    assert stages(plans) == ["burn-in", "global", "final"]


def test_local_search_ends_when_resolution_and_poses_stand_still():
    before = [progressed("burn-in")] * 3 + [progressed("global", limit=13)] * 2
    still = progressed("local", limit=30, resolution=4.0, angle_change=0.2, angle_sd=1.0)
    assert SCHEDULE.next([*before, still, still, still], 4.0).stage == "final"
    assert SCHEDULE.next([*before, still, still], 4.0).stage == "local"
    moving = replace(still, angle_change=0.5)
    assert SCHEDULE.next([*before, still, still, moving], 4.0).stage == "local"
    better = replace(still, resolution=3.9)
    assert SCHEDULE.next([*before, still, still, better], 4.0).stage == "local"
    assert SCHEDULE.next([*before, still, better, better, better], 4.0).stage == "final"


@pytest.mark.parametrize("symmetry", ["C1", "D2", "O"])
@pytest.mark.parametrize("diameter", [40.0, 150.0, 400.0])
def test_the_grid_is_fine_enough_for_the_particle_and_holds_no_symmetric_twin(symmetry, diameter):
    schedule = replace(SCHEDULE, symmetry=symmetry_group(symmetry), diameter=diameter)
    sampling = schedule.next([], 4.0).sampling
    # half a step moves the rim of the particle by less than the detail that is scored
    detail = 192.0 / sampling.grid_limit
    assert sampling.grid_step / 2 * diameter / 2 < 0.75 * detail
    assert farthest(sampling.shifts, max(10.0, 0.08 * diameter)) < detail / 4
    count = 8 * math.pi**2 / sampling.grid_step**3 / 2 / len(schedule.symmetry)  # in-plane angles to 180 degrees only
    assert 0.3 * count < len(sampling.grid) < 5 * count + 60
    if symmetry == "D2" and len(sampling.grid) < 2000:
        between = [angular_distance(r[None], sampling.grid, schedule.symmetry) for r in sampling.grid[:5]]
        assert all(int((angle < math.degrees(sampling.grid_step) * 0.2).sum()) <= 3 for angle in between)


def test_an_angular_step_and_an_offset_range_are_taken_as_given():
    coarse = SCHEDULE.next([], 4.0).sampling
    given = replace(SCHEDULE, angular_step=4.0, offset_range=30.0).next([], 4.0).sampling
    assert math.degrees(given.grid_step) <= 4.0 < math.degrees(coarse.grid_step)
    assert 24.0 < float(given.shifts.norm(dim=1).max()) * 1.5 <= 30.0 and farthest(given.shifts, 30.0) < 8


def test_later_global_searches_look_for_centres_as_far_as_the_particles_spread():
    burnt = [progressed("burn-in")] * 2
    narrow, wide = (SCHEDULE.next(burnt, sigma).sampling.shifts for sigma in (2.0, 8.0))
    assert len(narrow) < len(wide) and float(wide.norm(dim=1).max()) * 1.5 <= 24
    assert farthest(narrow, 6.0) < 8 and farthest(wide, 24.0) < 8


def test_every_map_is_made_from_what_was_asked_for():
    for asked in ("sigma", "modes", "best"):
        plans, _ = driven(replace(SCHEDULE, posterior=asked), good)
        assert {plan.posterior for plan in plans} == {asked}


def test_no_step_of_a_schedule_depends_on_chance():
    first, second = (driven(SCHEDULE, good)[0] for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert one.stage == two.stage and one.insert_limit == two.insert_limit
        if one.sampling.grid is not None:
            assert torch.equal(one.sampling.grid, two.sampling.grid)


MANY = replace(SCHEDULE, subsets=subsets_of(1_000_000))


def better_with_more(number: int, plan: Plan) -> Progressed:
    """A refinement whose resolution ends where the number of its images lets it."""
    best = {10_000: 24, 80_000: 36, None: 48}[plan.images]
    agreed = min(plan.sampling.limit + 4, best)
    return replace(good(number, plan), agreed=agreed, resolution=192.0 / agreed, subset=plan.subset,
                   jumped=0.0 if number > 1 else 1.0)


def test_subsets_grow_and_save_something_and_few_images_have_none():
    assert subsets_of(20_000) == () and subsets_of(25_000) == (10_000,) and subsets_of(1_000_000) == (10_000, 80_000)
    assert subsets_of(8_000, 1_000) == (1_000,) and subsets_of(8_000, 8_000) == ()


def test_a_subset_goes_through_burn_in_global_and_local_and_every_larger_one_is_searched_globally_first():
    plans, _ = driven(MANY, better_with_more)
    used = list(dict.fromkeys(plan.images for plan in plans))
    assert used == [10_000, 80_000, None]
    for images in used:
        own = [plan for plan in plans if plan.images == images]
        assert own[0].sampling.search == "global"
        assert "local" in stages(own)
        new = [plan for plan in own if plan.sampling.search == "global" and not plan.sampling.centred]
        assert new[0] is own[0]  # centres of the new ones are not known
        if images != 10_000:
            assert len(new) == 1 and own[0].stage == "global" and own[0].sampling.limit > MANY.shell(15.0)
    assert stages(plans)[0] == "burn-in" and stages(plans)[-1] == "final"
    all_passes = sum(plan.images is None for plan in plans)
    assert all_passes <= 6  # global, local ones until they stand still, final


def test_a_subset_whose_poses_do_not_settle_gives_way_to_more_images():
    def lost(number: int, plan: Plan) -> Progressed:
        return replace(better_with_more(number, plan), jumped=0.3 if plan.images == 10_000 else 0.0)

    plans, history = driven(MANY, lost)
    few = [plan for plan in plans if plan.images == 10_000]
    assert {plan.stage for plan in few} == {"burn-in"}
    assert plans[len(few)].stage == "global" and plans[len(few)].images == 80_000
    assert plans[len(few)].looked_at == 1.0
    assert history[-1].resolution == 4.0


def test_poses_that_a_subset_settled_are_searched_around_but_for_a_random_part_and_never_in_an_exhaustive_run():
    def first_of_all(outcome: Callable[[int, Plan], Progressed]) -> list[Plan]:
        return [plan for plan in driven(MANY, outcome)[0] if plan.stage == "global" and plan.images is None]

    assert [plan.looked_at for plan in first_of_all(better_with_more)] == [module.LOOKED_AT]
    assert all(plan.looked_at == 1.0 for plan in driven(SCHEDULE, good)[0])
    assert all(plan.looked_at == 1.0 for plan in driven(replace(MANY, search="global"), better_with_more)[0])

    def wrong(number: int, plan: Plan) -> Progressed:  # those that are looked at leave their poses
        return replace(better_with_more(number, plan), jumped=0.1 if plan.looked_at < 1 else 0.0)

    assert [plan.looked_at for plan in first_of_all(wrong)] == [module.LOOKED_AT, 1.0]


def test_a_refinement_that_is_cut_short_searches_everywhere_for_what_it_has_not_seen():
    for most in (1, 3, 6):
        plans, _ = driven(replace(MANY, max_iterations=most), better_with_more)
        assert len(plans) == most and plans[-1].stage == "final" and plans[-1].images is None
        assert plans[-1].sampling.search == "global" and not plans[-1].sampling.centred


def test_given_poses_are_refined_with_all_images():
    local = replace(SCHEDULE, search="local")
    assert all(plan.images is None for plan in driven(local, good)[0])
