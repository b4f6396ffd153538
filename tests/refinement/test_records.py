"""What an iteration says about its poses."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap.expectation.search import Sampling
from halfmap.geometry.symmetry import symmetry_group
from halfmap.refinement.quarter_sets import searched_everywhere
from halfmap.refinement.records import Step, progressed
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State


def test_particles_that_were_searched_everywhere_stand_for_those_that_were_not():
    """A tenth of all would leave their poses, wherever they are looked for; some of them lack a pose to leave."""
    count, group = 4000, symmetry_group("C1")
    before = PoseTable.empty(torch.arange(count) % 2, 1)
    before.weight[500:] = 1.0
    everywhere = searched_everywhere(before.known, 0.25, 1)
    after = before.clone()
    after.weight[:] = 1.0
    turned = torch.from_numpy(Rotation.from_euler("z", 90, degrees=True).as_matrix()).float()
    after.rotations[everywhere & (torch.arange(count) % 10 == 0)] = turned
    curve = torch.ones(17).double()
    halves = SimpleNamespace(curves=SimpleNamespace(unmasked=curve, corrected=curve), operators=group,
                             raw=(torch.zeros(32, 32, 32),) * 2, pixel_size=2.0)
    plan = Plan("global", Sampling("global", 10, symmetry=group), 12, "sigma", looked_at=0.25)
    states = (cast(State, SimpleNamespace(poses=poses)) for poses in (before, after))
    none = cast(Any, None)
    found = progressed(Step(plan, *states, cast(Any, halves), none, torch.ones(count), none, {}, 0))
    assert found.jumped == pytest.approx(0.1, abs=0.02) and found.surprised == found.jumped
