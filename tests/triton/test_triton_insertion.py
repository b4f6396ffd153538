"""Triton's insertion, run by its interpreter, is that of plain torch in float64, and repeats where it is asked to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton.language")

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume_extent
from halfmap.kernels import reference, triton_insertion
from halfmap.kernels.poses import Samples
from halfmap.kernels.triton_kernel import Kernel

# box, padding, limit: even and odd; more coefficients than a program takes, fewer, and a padding of three
GEOMETRIES = [(16, 2, 7), (15, 1, 7), (9, 2, 3), (8, 3, 3)]
TYPES = {torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64"}
CASES = [(kernel, bent, whole, voxel) for kernel in ("trilinear", "gaussian") for bent in (False, True)
         for whole in (False, True) for voxel in (3, 4)]


def noise(*shape: int, seed: int) -> Tensor:
    """Numbers that float32 holds, as float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@dataclass(frozen=True)
class Problem:
    """Samples of three images: the first image twice, the second not at all."""

    values: Tensor
    weights: Tensor
    coords: Tensor
    band: Band
    samples: Samples
    curvature: Tensor
    side: int

    @staticmethod
    def of(box: int, padding: int, limit: int, count: int, poses: tuple[Tensor, Tensor]) -> Problem:
        band, m = Band.to_shell(box, limit), half_volume_extent(padding, limit)
        # an axis-parallel slice falls onto grid points and the plane x = 0
        rotations = torch.cat([torch.eye(3, dtype=torch.float64)[None], poses[0][1:]])[:count].float().double()
        samples = Samples(torch.tensor([0, 2, 0, 2, 2])[:count], rotations, 30 * poses[1][:count],
                          torch.linspace(0.125, 2, 5)[:count])
        return Problem(torch.view_as_complex(noise(3, len(band), 2, seed=1)), noise(3, len(band), seed=2).square(),
                       band.kxy.double() * padding * 0.9, band, samples, torch.tensor([0.005, 0.0, -0.0025]).double(),
                       2 * m + 1)

    def sums(self, dtype: torch.dtype, voxel: int = 3) -> Tensor:
        """Sums that are not empty, [z, y, x, 3] with so many numbers a point in memory."""
        start = noise(self.side, self.side, (self.side + 1) // 2, 3, seed=4).to(dtype)
        return functional.pad(start, (0, voxel - 3))[..., :3]

    def inserted(self, sums: Tensor, kernel: str = "trilinear", bent: bool = False, module: Any = triton_insertion,
                 order: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Sums [z, y, x, 3] with the samples, in this order."""
        complex_type, order = sums.dtype.to_complex(), torch.arange(len(self.samples)) if order is None else order
        s = self.samples
        samples = Samples(s.image[order], s.rotations[order], s.shifts[order], s.mass[order])
        module.insert_samples_(
            sums, (scale * self.values).to(complex_type), (scale * self.weights).to(sums.dtype), self.coords,
            self.band.kxy, self.band.box, samples, kernel, self.curvature if bent else None)
        return sums


@pytest.fixture
def whole() -> Iterator[None]:
    """Deterministic algorithms within the test."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def launched(monkeypatch) -> list[Kernel]:
    """The kernels that are launched, with the types that they are compiled for."""
    found, launch = [], Kernel.launch

    def checked(self: Kernel, programs: int, *arguments: Any) -> None:
        given = [TYPES[a.dtype] if isinstance(a, Tensor) else "i32" for a in arguments]
        assert given == list(self.types)
        assert self in triton_insertion.KERNELS
        found.append(self)
        launch(self, programs, *arguments)

    monkeypatch.setattr(Kernel, "launch", checked)
    return found


def error(found: Tensor, expected: Tensor) -> float:
    """The largest of a part's errors, over the root of the mean square of that part."""
    return float(((found.double() - expected).abs().amax((0, 1, 2)) / expected.square().mean((0, 1, 2)).sqrt()).max())


@pytest.mark.parametrize(("kernel", "bent", "deterministic", "voxel"), CASES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_triton_insertion_is_plain_torch_in_float64(
    random_poses, geometry, kernel, bent, deterministic, voxel, launched
):
    problem = Problem.of(*geometry, 5, random_poses(5))
    expected = problem.inserted(problem.sums(torch.float64), kernel, bent, reference)
    torch.use_deterministic_algorithms(deterministic)
    try:
        sums = problem.sums(torch.float32, voxel)
        found = problem.inserted(sums, kernel, bent)
    finally:
        torch.use_deterministic_algorithms(False)
    assert error(found, expected) < 2e-5
    assert [k.constants["VOXEL"] for k in launched] == ([3, voxel] if deterministic else [voxel])
    if voxel == 4:  # what lies between the numbers stays
        assert float(found.as_strided(found.shape[:3], found.stride()[:3], 3).abs().max()) == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_triton_insertion_of_one_sample_and_of_none(random_poses, deterministic, launched):
    torch.use_deterministic_algorithms(deterministic)
    try:
        one = Problem.of(9, 2, 3, 1, random_poses(5))
        found = one.inserted(one.sums(torch.float32))
        none = Problem.of(9, 2, 3, 0, random_poses(5))
        assert torch.equal(none.inserted(none.sums(torch.float32)), none.sums(torch.float32))
    finally:
        torch.use_deterministic_algorithms(False)
    assert error(found, one.inserted(one.sums(torch.float64), module=reference)) < 2e-5


@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
def test_triton_sums_of_whole_numbers_are_the_same_bits_in_any_order_and_in_any_slabs(
    random_poses, monkeypatch, whole, kernel
):
    problem = Problem.of(9, 2, 3, 5, random_poses(5))
    first = problem.inserted(problem.sums(torch.float32), kernel)
    for order, planes in (([4, 2, 0, 1, 3], 100), ([1, 0, 3, 2, 4], 6)):
        monkeypatch.setattr(triton_insertion, "SLAB_BYTES", planes * 24 * problem.side * (problem.side + 1) // 2)
        again = problem.inserted(problem.sums(torch.float32), kernel, order=torch.tensor(order))
        assert torch.equal(first, again)
    # Floats depend on the order, or this test could not fail.
    torch.use_deterministic_algorithms(False)
    forth, back = (problem.inserted(problem.sums(torch.float32), kernel, order=torch.tensor(order))
                   for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]))
    assert not torch.equal(forth, back)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_triton_sums_of_whole_numbers_are_as_good_for_values_of_any_size(random_poses, whole, scale):
    problem = Problem.of(9, 2, 3, 5, random_poses(5))
    empty = torch.zeros_like(problem.sums(torch.float32))
    found = problem.inserted(empty.clone(), scale=scale)
    expected = problem.inserted(empty.double(), scale=scale, module=reference)
    assert error(found, expected) < 5e-5


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_triton_insertion_at_poses_that_are_none_writes_to_no_foreign_memory(random_poses, deterministic, kernel):
    problem = Problem.of(9, 2, 3, 5, random_poses(5))
    problem.samples.rotations[1:4] = torch.tensor([math.nan, 1e6, -1e3])[:, None, None]
    start = problem.sums(torch.float32)
    around = torch.zeros(3 * len(start), *start.shape[1:])
    torch.use_deterministic_algorithms(deterministic)
    try:
        problem.inserted(around[len(start) : 2 * len(start)], kernel)
    finally:
        torch.use_deterministic_algorithms(False)
    assert float(around[: len(start)].abs().max()) == float(around[2 * len(start) :].abs().max()) == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_triton_insertion_leaves_out_samples_without_mass(random_poses, deterministic):
    """Also where a pose is no number, which times nothing is not nothing."""
    problem = Problem.of(9, 2, 3, 5, random_poses(5))
    s, kept = problem.samples, torch.tensor([True, False, True, False, True])
    torch.use_deterministic_algorithms(deterministic)
    try:
        expected = problem.inserted(problem.sums(torch.float32), order=torch.nonzero(kept)[:, 0])
        s.rotations[1], s.mass[~kept] = math.nan, 0
        found = problem.inserted(problem.sums(torch.float32))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_triton_sums_of_whole_numbers_are_exact_to_the_last_bit_of_float32(random_poses, whole):
    """Addends of which float32 alone would lose a tenth: one of 2^24 and then four of 0.4 at the same points."""
    problem = Problem.of(9, 2, 3, 5, random_poses(5))
    samples = Samples(torch.tensor([0, 1, 1, 1, 1]), torch.eye(3).expand(5, 3, 3), torch.zeros(5, 2), torch.ones(5))
    weights = torch.tensor([2.0**24, 0.4])[:, None].expand(2, len(problem.band)).contiguous()
    sums = torch.zeros_like(problem.sums(torch.float32))
    coords = 2.0 * problem.band.kxy.double()
    values = torch.complex(weights, weights)
    triton_insertion.insert_samples_(sums, values, weights, coords, problem.band.kxy, 9, samples, "trilinear", None)
    held = sums[..., 2]
    assert bool(((held == 0) | (held == 2**24 + 2)).all()) and int((held > 0).sum()) == len(coords)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_triton_sums_say_so_where_an_addend_is_no_number(random_poses, whole):
    problem = Problem.of(9, 2, 3, 2, random_poses(5))
    problem.values[2, 3] = math.inf
    assert bool(problem.inserted(problem.sums(torch.float32))[..., :2].isnan().all())


def test_triton_insertion_leaves_double_precision_to_plain_torch(random_poses, launched):
    problem = Problem.of(9, 2, 3, 3, random_poses(5))
    expected = problem.inserted(problem.sums(torch.float64), module=reference)
    assert torch.equal(problem.inserted(problem.sums(torch.float64)), expected)
    assert not launched


@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
def test_triton_insertion_takes_what_the_compiled_kernels_of_the_cpu_take_and_gives_what_they_give(
    random_poses, launched, kernel
):
    problem = Problem.of(16, 2, 7, 5, random_poses(5))
    mine, its = (problem.sums(torch.float32) for _ in range(2))
    given = (problem.values.to(torch.complex64), problem.weights, problem.coords, problem.band.kxy, 16, problem.samples,
             kernel, problem.curvature)
    kernels.insert_slices_(mine, *given)
    assert not launched
    triton_insertion.insert_samples_(its, *given)
    assert error(its, mine.double()) < 2e-5
