"""What images leave beside their models: exact ones nothing, white noise its power; sums are numpy's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.kernels import reference
from halfmap.kernels.residuals import ResidualSums

SINGLE, DOUBLE = (torch.float32, 3e-5), (torch.float64, 1e-12)
PADDING, COUNT = 2, 5


@pytest.fixture
def threads() -> Iterator[None]:
    before = kernels.thread_count()
    yield
    kernels.set_threads(before)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A volume, and images at known poses."""

    band: Band
    coords: Tensor
    volume: Tensor
    y: Tensor
    c: Tensor
    scale: Tensor
    weight: Tensor
    rotations: Tensor
    shifts: Tensor

    @staticmethod
    def random(poses: tuple[Tensor, Tensor], box: int, limit: int, dtype: torch.dtype) -> Case:
        band = Band.to_shell(box, limit)
        volume = half_volume(noise(box, box, box, seed=1).to(dtype), PADDING, limit)
        y = torch.view_as_complex(noise(COUNT, len(band), 2, seed=2)).to(volume.dtype) * 20
        c, weight = noise(COUNT, len(band), seed=3).to(dtype), noise(COUNT, len(band), seed=4).square().to(dtype)
        return Case(band, band.kxy.double() * PADDING, volume, y, c, 0.5 + torch.rand(COUNT), weight, *poses)

    def sums(self, weighted: bool = True) -> ResidualSums:
        return kernels.residual_sums(
            self.volume, self.coords, self.band.kxy, self.band.shell, self.band.box, self.y, self.c, self.scale,
            self.rotations, self.shifts, self.weight if weighted else None)  # fmt: skip


def brute_force(case: Case, slices: np.ndarray, weighted: bool) -> dict[str, np.ndarray]:
    """The same sums in float64, from given slices of the volume, one image and shell after the other."""
    shell, kxy = case.band.shell.numpy(), case.band.kxy.numpy()
    found = {name: np.zeros((COUNT, case.band.limit + 1, *more))
             for name, more in (("power", ()), ("square", ()), ("cross", (2,)), ("norm", (2,)))}
    for b in range(COUNT):
        c, s = case.c[b].double().numpy(), float(case.scale[b])
        turn = np.exp(2j * np.pi / case.band.box * (kxy @ case.shifts[b].numpy()))
        data, model = case.y[b].to(torch.complex128).numpy() * turn, c * slices[b]
        weight = case.weight[b].double().numpy() if weighted else np.ones(len(c))
        product = (data.conj() * model).real
        for n in range(1, case.band.limit + 1):
            own = shell == n
            found["power"][b, n] = np.sum(weight[own] * np.abs(data - s * model)[own] ** 2)
            found["square"][b, n] = np.sum(weight[own] * np.abs(model[own]) ** 2)
            for sign, part in enumerate((own & (c > 0), own & (c <= 0))):
                found["cross"][b, n, sign] = product[part].sum()
                found["norm"][b, n, sign] = np.sum(np.abs(model[part]) ** 2)
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [SINGLE, DOUBLE])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("box", "limit"), [(16, 7), (15, 5)])
def test_sums_are_those_of_scipys_slices_in_float64(
    random_poses, scipy_slices, dtype, tolerance, weighted, box, limit
):
    case = Case.random(random_poses(COUNT), box, limit, dtype)
    slices = scipy_slices(case.volume, case.coords, case.rotations).numpy()
    found = case.sums(weighted)
    for name, wanted in brute_force(case, slices, weighted).items():
        error = np.abs(getattr(found, name).numpy() - wanted).max(axis=0)
        assert np.all(error <= tolerance * np.abs(wanted).max(axis=0)), name


@pytest.mark.parametrize("weighted", [True, False])
def test_the_compiled_sums_are_the_plain_ones_also_in_shells_of_many_blocks(random_poses, weighted):
    small, band = Case.random(random_poses(COUNT), 16, 7, torch.float32), Band.to_shell(220, 105)
    y = torch.view_as_complex(noise(COUNT, len(band), 2, seed=2)).to(torch.complex64) * 20
    c, weight = noise(COUNT, len(band), seed=3).float(), noise(COUNT, len(band), seed=4).square().float()
    # the largest shells hold 330 coefficients; they all lie within the small volume
    case = replace(small, band=band, coords=band.kxy.double() / 8, y=y, c=c, weight=weight)
    plain = reference.residual_sums(
        case.volume, case.coords.float(), band.kxy, band.shell, band.box, y, c,
        weight if weighted else torch.ones(1, len(band)), case.scale, case.rotations[:, :2].float(), case.shifts)
    found = case.sums(weighted)
    mine = torch.cat([found.power[..., None], found.square[..., None], found.cross, found.norm], dim=2)
    assert bool(((mine - plain).norm(dim=1) < 2e-6 * plain.norm(dim=1)).all())


def test_an_image_that_is_its_model_leaves_nothing(blobs, random_poses):
    box, limit = 24, 11
    band, (rotations, shifts) = Band.to_shell(box, limit), random_poses(COUNT)
    volume = half_volume(blobs(box).map(), PADDING, limit)
    slices = kernels.project_slices(volume, band.kxy * PADDING, rotations)
    c, scale = noise(COUNT, len(band), seed=5), torch.linspace(0.5, 2, COUNT, dtype=torch.float64)
    turned = torch.polar(torch.ones((), dtype=torch.float64), -2 * math.pi / box * shifts @ band.kxy.double().T)
    y = scale[:, None] * c * slices * turned
    found = Case(band, band.kxy.double() * PADDING, volume, y, c, scale, c.square(), rotations, shifts).sums()
    assert float((found.power / (found.square * scale[:, None] ** 2).clamp_min(1e-300)).max()) < 1e-25
    assert torch.allclose(found.cross, scale[:, None, None] * found.norm, rtol=1e-12)
    whole = band.shell_sum((c * slices).abs().square())
    assert torch.allclose(found.norm.sum(dim=2), whole, rtol=1e-12)


def test_white_noise_leaves_its_power_and_a_cross_of_the_variance_of_half_the_norm(random_poses):
    box, limit, count, power = 32, 15, 400, 7.0
    band, (rotations, shifts) = Band.to_shell(box, limit), random_poses(count)
    y = torch.view_as_complex(noise(count, len(band), 2, seed=6) * math.sqrt(power / 2)).to(torch.complex64)
    volume = half_volume(noise(box, box, box, seed=7).float(), PADDING, limit)
    c = noise(count, len(band), seed=8).float()
    coords, scale = band.kxy.double() * PADDING, torch.zeros(count)
    found = Case(band, coords, volume, y, c, scale, c, rotations, shifts).sums(weighted=False)
    number = torch.bincount(band.shell)[1:] * count
    mean = found.power.sum(dim=0)[1:] / number
    assert bool(((mean / power - 1).abs() < 4.5 / number.sqrt()).all())
    score = found.cross.sum(dim=1) / (0.5 * power * found.norm.sum(dim=1)).sqrt()
    assert float(score.mean().abs()) < 4 / math.sqrt(2 * count) and float(score.std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.usefixtures("threads")
def test_sums_are_the_same_bits_for_any_number_of_threads_and_whatever_images_are_beside(random_poses):
    case, found = Case.random(random_poses(COUNT), 20, 9, torch.float32), []
    for number in (1, 3):
        kernels.set_threads(number)
        found.append(case.sums())
    one = slice(3, 4)
    images = ("y", "c", "scale", "weight", "rotations", "shifts")
    alone = replace(case, **{name: getattr(case, name)[one] for name in images}).sums()
    for name in ("power", "square", "cross", "norm"):
        assert torch.equal(*(getattr(sums, name) for sums in found))
        assert torch.equal(getattr(alone, name), getattr(found[0], name)[one])
