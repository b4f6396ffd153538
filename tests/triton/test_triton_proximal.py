"""Triton's steps to a sparse and smooth map, run by its interpreter, are those of plain torch in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton.language")

from halfmap import kernels
from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels import descent, triton_proximal
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.normal_equations import NormalEquations
from halfmap.regularisation.proximal import Penalty, Problem, descend

SHAPES = [(5, 6, 7), (1, 9, 4), (8, 8, 8)]
PENALTY = Penalty(sparse=0.7, smooth=0.4, inertia=0.2, eps=0.3, eps_gradient=0.2, rounding=0.25, spacing=1.3)
KINDS: dict[str, dict[str, Any]] = {
    "all": {}, "no previous map": {"previous": None}, "strength by place": {"local": True},
    "not smooth": {"smooth": 0.0}, "not sparse": {"sparse": 0.0, "local": True}}


def noise(*shape: int, seed: int) -> Tensor:
    """Numbers that float32 holds, as float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def problem(shape: tuple[int, ...], kind: dict[str, Any], real: torch.dtype) -> Problem:
    """F of noise; its A is not needed."""
    kind = dict(kind)
    previous = kind.pop("previous", noise(*shape, seed=2).to(real))
    local = (0.5 + noise(*shape, seed=3).square()).to(real) if kind.pop("local", False) else 1.0
    data = NormalEquations(torch.empty(0), noise(*shape, seed=1).to(real), (), 0, 1.0, 1.0, 1.0)
    return Problem(data, replace(PENALTY, local=local, **kind), previous)


@pytest.fixture
def by_triton(monkeypatch) -> None:
    """Tensors of the CPU are those of a GPU for which Triton compiles, to the descent."""
    monkeypatch.setattr(kernels, "compiled_by_triton", lambda device: True)
    monkeypatch.setattr(descent, "elsewhere", lambda name, device: getattr(triton_proximal, name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_triton_step_and_what_it_reaches_are_those_of_plain_torch_in_float64(by_triton, shape, kind):
    y, applied, bound = noise(*shape, seed=4), noise(*shape, seed=5), torch.tensor(1.7, dtype=torch.float64)
    y[0, 0, :2] = 0.0  # no slope, and nothing to be thresholded
    found = problem(shape, KINDS[kind], torch.float32)
    plain = problem(shape, KINDS[kind], torch.float64)
    step, expected = found.step(y.float(), applied.float(), bound), plain.step(y, applied, bound)
    torch.testing.assert_close(step.double(), expected, rtol=1e-5, atol=2e-6)
    reached = found.reached(step, applied.float(), y.float())
    wanted = plain.reached(step.double(), applied, y)
    assert float(reached.value) == pytest.approx(float(wanted.value), rel=2e-6)
    assert float(reached.change) == pytest.approx(float(wanted.change), rel=1e-6)


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
    expected = descend(given, torch.zeros_like(data.linear), 6, 1e-4)
    assert len(found.objective) == len(expected.objective) > 3
    assert found.objective == pytest.approx(expected.objective, rel=1e-4)
    torch.testing.assert_close(found.map, expected.map, rtol=0, atol=1e-3 * float(expected.map.abs().max()))


def test_triton_logarithms_of_numbers_next_to_one_lose_nothing(by_triton):
    """A hundred thousand times as small as eps: float32 alone would lose a percent."""
    shape = (4, 8, 8)
    tiny = 1e-6 * noise(*shape, seed=6)
    kind = {"previous": None, "smooth": 0.0, "sparse": 1e6}
    reached = problem(shape, kind, torch.float32).reached(tiny.float(), tiny.float(), tiny.float())
    wanted = problem(shape, kind, torch.float64).reached(tiny, tiny, tiny)
    assert float(reached.value) == pytest.approx(float(wanted.value), rel=1e-5)
