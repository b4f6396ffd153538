"""Triton's kernels of the global search, run by its interpreter, are plain torch's in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

pytest.importorskip("triton.language")

from halfmap import kernels
from halfmap.expectation import score
from halfmap.expectation.score import SliceGrid, best_points, shift_phases
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.geometry.orientation_grid import orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels import reference_search, triton_points, triton_search
from halfmap.kernels.triton_kernel import Kernel

TYPES = {torch.float32: "*fp32", torch.int16: "*i16", torch.int64: "*i64"}
# images, shifts, references, coefficients: less and more than a program takes of each, one, and none
SIZES = [(5, 9, 50, 37), (66, 2, 130, 16), (1, 13, 7, 3), (3, 1, 1, 1), (2, 4, 129, 33), (0, 3, 4, 5), (4, 3, 0, 5)]


def noise(*shape: int, seed: int) -> Tensor:
    """Numbers that float32 holds, as float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@dataclass(frozen=True)
class Slices:
    """Slices [r, k] taken apart."""

    real: Tensor
    imag: Tensor
    power: Tensor


@dataclass(frozen=True)
class Problem:
    """What is scored: see kernels.score_block."""

    y: Tensor
    c: Tensor
    slices: Slices
    phases: Tensor
    log_prior: Tensor

    @staticmethod
    def of(images: int, shifts: int, references: int, count: int) -> Problem:
        real, imag = noise(references, count, seed=1), noise(references, count, seed=2)
        phases = torch.polar(torch.ones(shifts, count).double(), noise(shifts, count, seed=3)).to(torch.complex64)
        return Problem(torch.view_as_complex(noise(images, count, 2, seed=4)), noise(images, count, seed=5),
                       Slices(real, imag, (real**2 + imag**2).float().double()), phases.to(torch.complex128),
                       -noise(shifts, seed=6).abs())

    def given(self, real: torch.dtype) -> list[Any]:
        slices = Slices(*(getattr(self.slices, f.name).to(real) for f in fields(Slices)))
        return [self.y.to(real.to_complex()), self.c.to(real), slices, self.phases.to(real.to_complex()),
                self.log_prior.to(real)]

    def all_scores(self) -> Tensor:
        """Scores [b, t, 2, r] in float64."""
        moved = 2 * (self.c * self.y)[:, None] * self.phases
        re = torch.einsum("btk,rk->btr", moved.real, self.slices.real)
        im = torch.einsum("btk,rk->btr", moved.imag, self.slices.imag)
        both = torch.stack([re + im, re - im], dim=2) + self.log_prior[:, None, None]
        return both - (self.c**2 @ self.slices.power.T)[:, None, None]

    def error(self) -> Tensor:
        """What TF32 may be off by [b, 1, r]: six times 2^-11 of the products, added as if their errors were random."""
        size = (2 * self.c * self.y.abs()).square() @ self.slices.power.T
        return (6 * 2.0**-11 * size.sqrt() + 1e-4)[:, None]


@pytest.fixture(autouse=True)
def launched(monkeypatch) -> list[Kernel]:
    """The kernels that are launched, with the types that they are compiled for."""
    found, launch = [], Kernel.launch

    def checked(self: Kernel, programs: int, *arguments: Any) -> None:
        assert [TYPES[a.dtype] if isinstance(a, Tensor) else "i32" for a in arguments] == list(self.types)
        found.append(self)
        launch(self, programs, *arguments)

    monkeypatch.setattr(Kernel, "launch", checked)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_triton_scores_are_those_of_float64_as_far_as_tf32_goes(size, launched):
    problem = Problem.of(*size)
    found, shift = triton_search.score_block(*problem.given(torch.float32))
    every = problem.all_scores()
    assert found.shape == shift.shape == (size[0], 2, size[2])
    assert found.dtype == torch.float32 and shift.dtype == torch.int16
    if found.numel():
        assert bool(((found - every.amax(1)).abs() < problem.error()).all())
        # the shift named is one that has this score
        named = every.gather(1, shift.long()[:, None])[:, 0]
        assert bool(((found - named).abs() < problem.error()).all())
        assert all(k in triton_search.KERNELS for k in launched)


def test_triton_scores_of_factors_that_tf32_holds_are_those_of_plain_torch():
    """Small whole numbers and shifts by quarters of a turn: every product is exact, and ties go to the first shift."""
    generator = torch.Generator().manual_seed(1)
    part, other, c = (torch.randint(-3, 4, (5, 40), generator=generator).float() for _ in range(3))
    real, imag = (torch.randint(-3, 4, (130, 40), generator=generator).float() for _ in range(2))
    y = torch.complex(part, other)
    phases = torch.tensor([1, 1j, -1, -1j, 1])[:, None].expand(5, 40).contiguous()
    given = (y, c, Slices(real, imag, real**2 + imag**2), phases, torch.tensor([0.0, -1.0, 0.0, 0.5, 0.0]))
    found, expected = triton_search.score_block(*given), reference_search.score_block(*given)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_triton_scores_do_not_depend_on_the_images_held_at_once_nor_on_the_others(monkeypatch):
    problem = Problem.of(70, 3, 9, 20)
    y, c, *rest = problem.given(torch.float32)
    whole = triton_search.score_block(y, c, *rest)
    monkeypatch.setattr(triton_search, "SHIFTED_BYTES", 1)
    parts, few = triton_search.score_block(y, c, *rest), triton_search.score_block(y[3:4], c[3:4], *rest)
    for one, other, third in zip(whole, parts, few, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one[3:4], third)


def test_triton_scores_leave_double_precision_to_plain_torch(launched):
    problem = Problem.of(3, 4, 5, 6)
    found = triton_search.score_block(*problem.given(torch.float64))
    torch.testing.assert_close(found[0], problem.all_scores().amax(1))
    assert not launched


def test_the_smaller_triton_tiles_for_other_gpus_give_the_same(monkeypatch):
    given = Problem.of(5, 3, 9, 20).given(torch.float32)
    large = triton_search.score_block(*given)
    monkeypatch.setattr(triton_search, "_kernel_for", lambda device: triton_search.KERNELS[1])
    assert torch.equal(large[0], triton_search.score_block(*given)[0])


@pytest.mark.parametrize("size", SIZES)
def test_triton_takes_the_best_shift_that_plain_torch_takes(size):
    images, shifts, references, _ = size
    given = [noise(images, shifts, references, seed=seed) for seed in (1, 2)]
    given += [noise(images, references, seed=3).abs(), -noise(shifts, seed=4).abs()]
    found = triton_points.best_shift(*(t.float() for t in given))
    expected = reference_search.best_shift(*given)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=0, atol=2e-6)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize(("most", "blocks"), [
    (5, [40, 7, 100]), (7, [3, 2, 1, 1, 30]), (256, [1500, 0, 1100]), (1, [5, 1]),
])  # fmt: skip
def test_triton_keeps_the_best_points_that_plain_torch_keeps(most, blocks):
    """Of scores many of which are equal, of both signs, in blocks of any size; less than are kept to begin with."""
    generator = torch.Generator().manual_seed(most)
    kept = [torch.full((3, most), -torch.inf), torch.zeros(3, most, dtype=torch.int16),
            torch.full((3, most), reference_search.LAST)]
    every: list[list[Tensor]] = [[], [], []]
    for count in blocks:
        scores = (2 * torch.randn(3, count, generator=generator)).round() / 2
        shifts = torch.randint(0, 30, (3, count), generator=generator).short()
        numbers = torch.randperm(count, generator=generator) + sum(blocks[: len(every[0])])
        triton_points.keep_best_(*kept, scores, shifts, numbers)
        for one, more in zip(every, (scores, shifts, numbers.expand(3, -1)), strict=True):
            one.append(more)
        found = reference_search.best_points(*kept, most)
        scores, shifts, numbers = (torch.cat(parts, dim=1) for parts in every)
        order = torch.from_numpy(np.lexsort((numbers.numpy(), -scores.numpy())))[:, :most]
        for mine, other in zip(found, (scores, shifts, numbers), strict=True):
            assert torch.equal(mine[:, : order.shape[1]], other.gather(1, order))
        assert bool((found[0][:, order.shape[1] :] == -torch.inf).all())


@pytest.mark.parametrize(("group", "count", "most", "drop"), [
    ("C1", 100, 12, 5.0), ("D2", 64, 5, math.inf), ("O", 33, 4, 4.0), ("C1", 1, 3, 5.0), ("C1", 0, 3, 5.0),
])  # fmt: skip
def test_triton_finds_the_distinct_peaks_that_the_cpu_finds(group, count, most, drop, launched):
    random = np.random.default_rng(0)
    grid = Rotation.random(60, rng=random)
    # every candidate has a near twin, so that there is something to leave out
    twins = Rotation.concatenate([grid, Rotation.from_rotvec(random.normal(0, 0.05, (60, 3))) * grid])
    scores = torch.from_numpy(random.normal(0, 3.0, (4, 120))).float().sort(dim=1, descending=True)
    given = (scores.values[:, :count].contiguous(), scores.indices[:, :count], torch.from_numpy(twins.as_matrix()),
             symmetry_group(group), math.radians(25), most, drop)
    found = triton_points.distinct_peaks(*given)
    assert torch.equal(found, kernels.distinct_peaks(*given))
    if count:
        assert torch.equal(found, reference_search.distinct_peaks(*given))
    assert found.shape == (4, most) and len(launched) == (count > 0)


def sort_(best: kernels.BestPoints) -> None:
    best.score, best.shift, best.index = reference_search.best_points(best.score, best.shift, best.index, best.most)


def test_a_global_search_by_triton_finds_the_points_that_the_cpu_finds(blobs, monkeypatch):
    """The best points of a grid that is cut into blocks, for images of a molecule at poses of the grid."""
    box, limit = 16, 4
    band, grid = Band.to_shell(box, limit), orientation_grid(1, torch.eye(3, dtype=torch.float64)[None])[::3]
    volume = half_volume(blobs(box).map().float(), 2, limit)
    shifts = shift_grid(1.0, 1.0)
    phases = shift_phases(band.kxy, shifts, box)
    slices = SliceGrid(volume, band.kxy.double(), 2, grid)
    held = next(iter(slices.blocks()))
    c = torch.full((6, len(band)), 5 / float(held.power.sum(1).mean().sqrt()))
    truth = torch.complex(held.real, held.imag)[:6]
    y = c * truth * phases[:1].conj() + torch.view_as_complex(noise(6, len(band), 2, seed=7).float()) / math.sqrt(2)
    prior = torch.zeros(len(shifts))
    expected = best_points(y, c, slices, phases, prior, 20)
    monkeypatch.setattr(score, "BLOCK", 100)
    monkeypatch.setattr(kernels, "score_block", triton_search.score_block)
    monkeypatch.setattr(kernels.BestPoints, "add_", lambda best, *new: triton_points.keep_best_(
        best.score, best.shift, best.index, *new))
    monkeypatch.setattr(kernels.BestPoints, "sort_", sort_)
    found = best_points(y, c, slices, phases, prior, 20)
    assert torch.equal(found.index[:, 0], expected.index[:, 0])
    torch.testing.assert_close(found.score, expected.score, rtol=0, atol=0.05)
