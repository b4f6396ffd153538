"""Which resolution shows an optical error, and how the values of two passes are put together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from halfmap.ctf_refinement.fit import Fitted
from halfmap.ctf_refinement.parameters import PARAMETERS, Per
from halfmap.ctf_refinement.registry import continued
from halfmap.ctf_refinement.sensitivity import NOTICEABLE, usual_error
from halfmap.imaging.ctf import odd_aberration
from halfmap.imaging.optics import BeamTilt, OpticsGroup

OPTICS = OpticsGroup("one", 300.0, 2.7, 0.1, 1.0, 240)


def test_a_usual_beam_tilt_turns_phases_by_what_is_said_and_is_seen_from_the_resolution_needed_on() -> None:
    error = usual_error("tilt", OPTICS, 150.0)
    along = torch.tensor([[40, 0]])  # 6 A
    phase = odd_aberration(along, replace(OPTICS, beam_tilt=BeamTilt(error.size, 0.0)))
    assert phase is not None and float(phase.angle().abs()) == pytest.approx(error.at(6.0), rel=1e-3)
    assert error.at(error.needed) == pytest.approx(NOTICEABLE[Per.GROUP])


def test_trefoil_and_the_coma_of_a_corrected_microscope_are_seen_as_those_of_any_other() -> None:
    corrected = replace(OPTICS, spherical_aberration=0.01)
    for name in ("tilt", "trefoil"):
        usual, here = usual_error(name, OPTICS, 150.0), usual_error(name, corrected, 150.0)
        assert here.at(3.0) == usual.at(3.0) and here.unit == "mrad of beam tilt at 2.7 mm"
    assert usual_error("tilt", OPTICS, 150.0).unit == "mrad"


def test_two_hundred_angstrom_of_defocus_are_a_third_of_a_radian_at_six_angstrom() -> None:
    assert usual_error("defocus", OPTICS, 150.0).at(6.0) == pytest.approx(0.344, abs=1e-3)
    assert all(usual_error(name, OPTICS, 150.0).at(2.0) > 0.05 for name in PARAMETERS)


def fitted(before: list[float], change: list[float], applied: list[bool], gain: float) -> Fitted:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[:, None]

    n = len(before)
    return Fitted("magnification", Per.GROUP, ("x",), ("%",), torch.arange(n), torch.full((n,), -1), column(before),
                  column(change), column([0.1] * n), torch.full((n,), gain).double(), torch.tensor(applied), "")


def test_a_second_pass_adds_to_the_values_of_the_first_where_it_found_something() -> None:
    first = fitted([1.0, 1.0, 1.0], [0.5, 0.5, 0.25], [True, True, False], 10.0)
    then = fitted([1.5, 1.5, 1.0], [0.125, 0.0625, 0.25], [True, False, False], 2.0)
    (both,) = continued([first], [then])
    assert both.before[:, 0].tolist() == [1.0, 1.0, 1.0] and both.change[:, 0].tolist() == [0.625, 0.5, 0.25]
    assert both.applied.tolist() == [True, True, False] and both.gain.tolist() == [12.0, 10.0, 10.0]
    assert continued([first], []) == (first,)
