"""What `halfmap ctf-refine` says of values, on the terminal and in its record."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from halfmap.ctf_refinement.fit import Fitted
from halfmap.ctf_refinement.parameters import Per
from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.table import ParticleTable
from halfmap.workflows.ctf_refine_words import as_given, found_lines, record_of, rounded


def test_a_value_has_as_many_decimals_as_its_error_to_the_second_digit() -> None:
    assert rounded(0.184032, 0.0108) == "0.184" and rounded(-12.345, 1.4) == "-12.3"
    assert rounded(10300.6, 33.0) == "10301" and rounded(0.25, math.inf) == "0.25"
    assert rounded(-0.0004, 0.02) == "0.000"
    assert as_given(-7.8e-6, 0.04) == "0.000"
    assert as_given(0.01, 1.8) == "0.01" and as_given(0.0, 1.8) == "0.0" and as_given(2.7, 0.31) == "2.70"


def test_what_could_not_be_fitted_is_null_in_a_record_that_any_program_reads() -> None:
    optics = tuple(OpticsGroup(name, 300.0, 2.7, 0.1, 1.0, 64) for name in ("seen", "empty"))
    zero = torch.zeros(1, dtype=torch.float64)
    number = np.zeros(1, np.int64)
    table = ParticleTable({}, optics, number, (), number, number, Defocus(zero, zero, zero, zero, zero, zero + 1), None,
                          torch.zeros(1, 2), number, number, Path("particles.star"))
    two = torch.zeros(2, 2, dtype=torch.float64)
    error = torch.tensor([[0.01, 0.02], [math.inf, math.inf]], dtype=torch.float64)
    tilt = Fitted("tilt", Per.GROUP, ("x", "y"), ("mrad", "mrad"), torch.arange(2), torch.full((2,), -1), two,
                  two + torch.tensor([[0.5], [0.0]]), error, torch.tensor([40.0, 0.0]).double(),
                  torch.tensor([True, False]), "significant and applied in 1 of 2 optics groups.")
    (told,) = json.loads(json.dumps(record_of([tilt], table), allow_nan=False))["parameters"]
    seen, empty = told["values"]
    assert seen["optics_group"] == "seen" and seen["applied"] and seen["error"] == [0.01, 0.02]
    assert empty["error"] == [None, None] and told["applied"] == 1 and told["gain_nats"] == 40.0
    line = found_lines([tilt], optics)[1].strip()
    assert line == "seen: x 0.000 -> 0.500 +- 0.010 mrad, y 0.000 -> 0.500 +- 0.020 mrad; applied (40.0 nats)"
    corrected = tuple(replace(one, spherical_aberration=0.01) for one in optics)
    assert found_lines([tilt], corrected)[1].endswith("applied (40.0 nats): the coma of 0.0026 mrad at 2.7 mm")
