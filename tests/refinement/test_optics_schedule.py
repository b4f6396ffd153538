"""When a refinement fits its optics."""

from __future__ import annotations

from dataclasses import replace

import torch

from halfmap.refinement.schedule import Progressed, Schedule

STILL = Progressed("local", 40, 40, 4.0, 100.0, 0.0, 0.05, 1.0)


def _schedule(optics_from: float | None) -> Schedule:
    return Schedule(128, 1.5, 150.0, torch.eye(3, dtype=torch.float64)[None], 30.0, 63, search="local",
                    optics_from=optics_from)


def _course(schedule: Schedule, resolution: float) -> list[str]:
    """What is done by a refinement whose local iterations all come to the same, a word for each iteration."""
    history: list[Progressed] = []
    words = []
    while (plan := schedule.next(history, 3.0)) is not None:
        words.append("fit" if plan.optics is not None else plan.stage)
        history.append(replace(STILL, stage=plan.stage, resolution=resolution, optics=plan.optics is not None))
    return words


def test_optics_are_fitted_when_poses_stand_still_and_before_every_iteration_until_they_do_again() -> None:
    assert _course(_schedule(5.0), 4.0) == ["local"] * 3 + ["fit"] * 3 + ["final"]


def test_optics_are_not_fitted_at_a_resolution_coarser_than_asked_for() -> None:
    assert _course(_schedule(5.0), 6.0) == ["local"] * 3 + ["final"]


def test_optics_are_fitted_to_the_shells_from_30_A_to_where_half_maps_agree() -> None:
    plan = _schedule(5.0).next([STILL] * 3, 3.0)
    assert plan is not None and plan.optics is not None
    assert plan.optics.first == int(128 * 1.5 / 30) + 1
    assert plan.optics.last == STILL.agreed
