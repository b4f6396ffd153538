"""Warnings come where something is wrong, and nowhere else."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.particles.table import ParticleTable
from halfmap.refinement import health
from halfmap.refinement.health import half_sets_disagree, optics_not_fitted
from halfmap.refinement.schedule import Progressed
from halfmap.validation.fsc import FscCurves

GRID = Grid(64, 3.0)
START = 30.0
START_SHELL = 6


def curves(falls_at: float, width: float = 2.0, low: float = 1.0) -> FscCurves:
    """An FSC that falls from `low` to zero around a shell."""
    s = torch.arange(33, dtype=torch.float64)
    curve = low * torch.sigmoid((falls_at - s) / width)
    curve[0] = 1.0
    return FscCurves(curve, curve, curve, curve * 0, curve, 20)


def history(*stages: str, resolution: float = 8.0) -> list[Progressed]:
    return [Progressed(stage, 6, 20, resolution, 100.0, 0.0, 0.5, 2.0) for stage in stages]


def findings(*given: object, **more: object) -> list[str]:
    return [finding.text for finding in health.findings(*given, **more)]


def box_too_small(*given: object) -> list[str]:
    return [finding.text for finding in health.box_too_small(*given)]


WELL = history("burn-in", "burn-in", "burn-in", "global", "global", "local", "final")


@pytest.mark.parametrize("length", range(1, len(WELL) + 1))
def test_a_refinement_that_goes_well_is_left_in_peace(length):
    assert findings(WELL[:length], curves(22), START, START_SHELL, GRID) == []


def test_half_maps_that_differ_where_their_start_was_the_same_are_told():
    broken = curves(3, 1.0)
    assert half_sets_disagree(broken, START_SHELL) and not half_sets_disagree(curves(22), START_SHELL)
    said = findings(WELL[:5], broken, START, START_SHELL, GRID)
    assert any("half maps disagree" in text and "30 A" in text for text in said)
    assert not any("disagree" in text for text in findings(WELL[:3], broken, START, START_SHELL, GRID))  # burn-in


def test_given_poses_may_begin_with_a_finer_map_than_the_images_support():
    local = history("local", "local", "local", "final")
    assert not any("disagree" in text for text in findings(local, curves(16), 12.0, 16, GRID))


def test_boxes_that_cut_off_what_the_defocus_moves_are_named_with_the_size_that_would_do():
    """Particle of 160 A at 2 um and 3 A: lambda dz / d is 131 A, and 160 + 2 x 131 A make 423 A (findings A2)."""
    zero = torch.zeros(4, dtype=torch.float64)
    none = np.zeros(4, np.int64)
    optics = OpticsGroup("fine", 300.0, 0.001, 0.1, 1.0, 360)
    table = ParticleTable(
        {}, (optics,), none, (Path("s.mrcs"),), none, np.arange(4), Defocus(zero + 2e4, zero + 2e4, zero, zero, zero,
        zero + 1), None, torch.zeros(4, 2, dtype=torch.float64), None, none, Path("p.star"),
    )  # fmt: skip
    (said,) = box_too_small(table, 160.0, 3.0)
    wanted = int(re.search(r"boxes of (\d+) px would", said)[1])
    assert 423 <= wanted <= 440 and "131 A" in said and "360 px" in said
    assert box_too_small(table, 160.0, 8.0) == []
    levels = [health.box_too_small(table, 160.0, finest)[0].level for finest in (3.0, 2.0)]  # moved by 131 and 197 A
    assert levels == ["note", "warning"]


def test_a_start_that_the_images_contradict_is_told_with_the_share_that_jumped():
    jumping = [WELL[0], replace(WELL[1], surprised=0.42), WELL[2], WELL[3]]
    told = [findings(jumping[:n], curves(22), START, START_SHELL, GRID, poor_start=n >= 2) for n in range(1, 5)]
    assert [len(said) for said in told] == [0, 1, 1, 1]
    assert all("42 %" in said[0] and "contradict the starting map" in said[0] for said in told[1:])


def test_a_resolution_that_never_leaves_the_start_is_told():
    stuck = history(*["burn-in"] * 6, resolution=28.0)
    assert not findings(stuck[:4], curves(22), START, START_SHELL, GRID)
    said = findings(stuck, curves(22), START, START_SHELL, GRID)
    assert len(said) == 1 and "28.0 A" in said[0] and "6 iterations" in said[0]
    assert not findings(history(*["burn-in"] * 6, resolution=20.0), curves(22), START, START_SHELL, GRID)


def test_a_long_weak_tail_of_the_fsc_is_told():
    # 0.5 is crossed at shell 10 (19 A), 0.143 at 24 (8 A)
    tail = curves(10, 7.8)
    said = findings(WELL, tail, START, START_SHELL, GRID)
    assert any("long tail" in text for text in said)
    assert not any("long tail" in text for text in findings(WELL[:5], tail, START, START_SHELL, GRID))  # still global


def test_each_finding_is_one_plain_sentence_or_two_without_a_line_break():
    bad = history(*["burn-in"] * 3, "global", "local", "final", resolution=29.0)
    said = findings(bad, curves(3, 1.0), START, START_SHELL, GRID, poor_start=True)
    assert len(said) >= 2
    assert all("\n" not in text and text[0].islower() for text in said)


def test_a_start_that_lacks_the_belt_is_noticed_and_one_with_it_is_not(simulated, refine):
    """Detergent as dense as a head-group shell, and a start made from the protein alone."""
    with_belt = simulated(micelle=True, micelle_contrast=2.2, n=150, apix=4.4)
    said = refine(with_belt, "--max-iterations", 3, diameter=170.0).said
    assert "contradict the starting map" not in said and "disagree" not in said
    # truth.mrc is the protein alone
    said = refine(with_belt, "--max-iterations", 3, start="truth.mrc", diameter=170.0).said
    assert "WARNING: the images contradict the starting map" in said


def test_a_refinement_that_never_fitted_the_optics_as_it_was_asked_says_why():
    for limit, fitted, resolution in ((None, False, 12.0), (10.0, True, 12.0)):
        assert optics_not_fitted(limit, fitted, resolution) == []
    coarse, unsettled = (optics_not_fitted(10.0, False, resolution)[0] for resolution in (12.0, 8.0))
    assert "half maps agree to 12.0 A" in coarse.text and "from 10 A on (--ctf-refine-from)" in coarse.text
    assert "before poses stood still" in unsettled.text
