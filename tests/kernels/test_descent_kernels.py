"""Numba's steps to a sparse and smooth map are those of plain torch in float64, on any number of threads."""

import math
from dataclasses import replace

import pytest
import torch
from fixtures.descents import KINDS, PENALTY, SHAPES, check_small_logarithms, check_step, noise, problem

from halfmap import kernels
from halfmap.kernels import descent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_and_what_it_reaches_are_those_of_plain_torch_in_float64(shape, kind):
    assert descent.has_kernels(torch.empty(0)) and not descent.has_kernels(torch.empty(0, dtype=torch.float64))
    check_step(shape, KINDS[kind])


def test_logarithms_of_numbers_next_to_one_lose_nothing():
    check_small_logarithms()


@pytest.mark.parametrize("x", [0.0, 1e-40, *(1.9**power for power in range(-45, 45))])
def test_the_logarithm_is_exact_to_the_last_digits_of_float32(x):
    """Of a map of one voxel on which nothing else weighs, F is alpha log(1 + |x| / eps)."""
    zero, voxel = torch.zeros(1, 1, 1), torch.full((1, 1, 1), x)
    given = problem((1, 1, 1), {"previous": None, "smooth": 0.0}, torch.float32)
    reached = replace(given, data=replace(given.data, linear=zero)).reached(voxel, zero, zero)
    u = float(voxel) / PENALTY.eps
    assert float(reached.value) == pytest.approx(PENALTY.sparse * math.log1p(u), rel=4e-7)


@pytest.mark.parametrize("kind", ["all", "strength by place"])
def test_the_number_of_threads_changes_no_bit(kind):
    y, applied = noise(37, 9, 11, seed=4).float(), noise(37, 9, 11, seed=5).float()
    given, bound = problem((37, 9, 11), KINDS[kind], torch.float32), torch.tensor(1.7)
    before, found = kernels.thread_count(), []
    try:
        for count in (1, 2, 3):
            kernels.set_threads(count)
            reached = given.reached(y, applied, applied)
            found.append((given.step(y, applied, bound), reached.value, reached.change))
    finally:
        kernels.set_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
