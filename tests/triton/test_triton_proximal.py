"""Triton's steps to a sparse and smooth map, run by its interpreter, are those of plain torch in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fixtures.descents import KINDS, SHAPES, check_small_logarithms, check_step, noise

pytest.importorskip("triton.language")

from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels import triton_proximal
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation import proximal
from halfmap.regularisation.normal_equations import NormalEquations
from halfmap.regularisation.proximal import Penalty, Problem, descend


@pytest.fixture
def by_triton(monkeypatch) -> None:
    """Tensors of the CPU are those of a GPU for which Triton compiles, to the descent."""
    for name in ("proximal_step", "descent_sums"):
        monkeypatch.setattr(proximal, name, getattr(triton_proximal, name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_triton_step_and_what_it_reaches_are_those_of_plain_torch_in_float64(by_triton, shape, kind):
    check_step(shape, KINDS[kind])


def test_a_triton_descent_ends_where_that_of_plain_torch_does(by_triton, monkeypatch):
    empty = Backprojection.zeros(12, 2, 5, torch.zeros(()))
    numerator = 20 * noise(*empty.sums.shape[:3], 2, seed=1).float()
    sums = replace(empty, sums=torch.cat([numerator, torch.ones_like(numerator[..., :1])], -1))
    data = NormalEquations.of(sums.finished(symmetry_group("C1")))
    size = float(data.linear.square().mean().sqrt())
    weights = Penalty(0.3 * size, 0.1 * size, 0.1, size, size, data.noise)
    given = Problem(data, weights, None)
    found = descend(given, torch.zeros_like(data.linear), 6, 1e-4)
    monkeypatch.undo()
    monkeypatch.setattr(proximal, "has_kernels", lambda x: False)
    expected = descend(given, torch.zeros_like(data.linear), 6, 1e-4)
    assert len(found.objective) == len(expected.objective) > 3
    assert found.objective == pytest.approx(expected.objective, rel=1e-4)
    torch.testing.assert_close(found.map, expected.map, rtol=0, atol=1e-3 * float(expected.map.abs().max()))


def test_triton_logarithms_of_numbers_next_to_one_lose_nothing(by_triton):
    check_small_logarithms()
