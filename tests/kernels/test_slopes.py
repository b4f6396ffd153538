"""Products of slopes of slices, added up over images: those of scipy's interpolation, and of an analytic specimen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.kernels import reference
from halfmap.kernels.numba_cells import BLOCK
from halfmap.kernels.slopes import GRAIN

PADDING, COUNT = 2, 5


@pytest.fixture
def threads() -> Iterator[None]:
    before = kernels.thread_count()
    yield
    kernels.set_threads(before)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def complex_noise(*shape: int, seed: int) -> Tensor:
    return torch.view_as_complex(noise(*shape, 2, seed=seed))


@dataclass(frozen=True)
class Case:
    """Two volumes, and images at known poses."""

    volume: Tensor
    mate: Tensor
    coords: Tensor
    rotations: Tensor
    data: Tensor
    weight: Tensor

    @staticmethod
    def random(rotations: Tensor, box: int, limit: int, dtype: torch.dtype = torch.float64) -> Case:
        band = Band.to_shell(box, limit)
        volumes = [half_volume(noise(box, box, box, seed=seed).to(dtype), PADDING, limit) for seed in (1, 2)]
        # A magnification that is not 1, so that no coefficient lies on a grid point, where slopes are those of no cell.
        coords = band.kxy.double() @ torch.tensor([[0.981, 0.013], [0.013, 0.969]]).double() * PADDING
        data = 30.0 * complex_noise(len(rotations), len(band), seed=3).to(volumes[0].dtype)
        weight = noise(len(rotations), len(band), seed=4).square().to(dtype)
        return Case(*volumes, coords.to(dtype), rotations, data, weight)

    def sums(self) -> Tensor:
        return kernels.slope_sums(self.volume, self.mate, self.coords, self.rotations, self.data, self.weight)


def products(g: Tensor, h: Tensor, case: Case, slices: Tensor) -> Tensor:
    """The sums [5, k] from slopes g, h [2, b, k] and slices of the mate."""
    def real(a: Tensor, b: Tensor) -> Tensor:
        return (a.conj() * b).real

    w, left = case.weight.double(), case.data - case.weight * slices
    mixed = 0.5 * w * (real(g[0], h[1]) + real(g[1], h[0]))
    parts = (w * real(g[0], h[0]), mixed, w * real(g[1], h[1]), real(g[0], left), real(g[1], left))
    return torch.stack(parts).sum(dim=1)


def test_slopes_are_those_of_scipys_interpolation_between_two_near_places(scipy_slices, random_poses):
    case, step = Case.random(random_poses(COUNT)[0], 16, 6), 1e-6

    def slopes(volume: Tensor) -> Tensor:
        moves = torch.eye(2).double() * step
        return torch.stack([scipy_slices(volume, case.coords + move, case.rotations)
                            - scipy_slices(volume, case.coords - move, case.rotations) for move in moves]) / (2 * step)

    expected = products(slopes(case.volume), slopes(case.mate), case,
                        scipy_slices(case.mate, case.coords, case.rotations))
    assert torch.allclose(case.sums()[:, 1:], expected[:, 1:], rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_a_specimen_that_is_stretched_a_little_is_found_stretched_by_that(blobs, random_poses):
    box, limit, stretch = 64, 26, torch.tensor([0.004, -0.002], dtype=torch.float64)
    specimen, band, (rotations, _) = blobs(box, count=16, width=0.8), Band.to_shell(box, limit), random_poses(20)
    volume, q = half_volume(specimen.map(), PADDING, limit + 1), band.kxy.double()
    data = specimen.slices(q * (1 + stretch), rotations)
    sums = kernels.slope_sums(volume, volume, q * PADDING, rotations, data, torch.ones(20, len(band)))
    xx, xy, yy, x, y = sums * torch.tensor([PADDING**2] * 3 + [PADDING] * 2)[:, None]
    curvature = torch.stack([(q[:, 0]**2 * xx).sum(), (q[:, 0] * q[:, 1] * xy).sum(), (q[:, 1]**2 * yy).sum()])
    found = torch.linalg.solve(curvature[[0, 1, 1, 2]].view(2, 2), torch.stack([q[:, 0] @ x, q[:, 1] @ y]))
    assert torch.allclose(found, stretch, rtol=0.05)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-12)])
def test_compiled_sums_are_the_plain_ones(random_poses, dtype, tolerance):
    case = Case.random(random_poses(COUNT)[0].to(dtype), 16, 7, dtype)
    plain = reference.slope_sums(case.volume, case.mate, case.coords, case.rotations[:, :2], case.data, case.weight)
    found = case.sums()
    assert found.dtype == plain.dtype == torch.float64
    assert float((found - plain).norm() / plain.norm()) < tolerance


def test_sums_are_the_same_bits_with_any_number_of_threads(random_poses, threads):
    case = Case.random(random_poses(COUNT)[0].float(), 64, 30, torch.float32)
    assert len(case.coords) > GRAIN * BLOCK
    found = []
    for count in (1, 3):
        kernels.set_threads(count)
        found.append(case.sums())
    assert torch.equal(*found)
