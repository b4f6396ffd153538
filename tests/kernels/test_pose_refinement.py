"""Gauss-Newton refinement of poses: its objective, gradient and precision, and the poses it finds in noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.kernels import reference_poses
from halfmap.kernels.poses import PolishOptions, Starts

BOX, LIMIT, PADDING = 32, 9, 2


@dataclass(frozen=True)
class Scene:
    """A reference, the poses of some images and their whitened contrast."""

    volume: Tensor
    band: Band
    rotations: Tensor
    shifts: Tensor
    c: Tensor

    @property
    def coords(self) -> Tensor:
        return self.band.kxy.double() * PADDING

    def model(self, slices_of, rotations: Tensor, shifts: Tensor) -> Tensor:
        """c exp(-2 pi i k.t / n) V(R^T k) [b, k], with slices by an oracle."""
        angle = -2 * math.pi / BOX * shifts.double() @ self.band.kxy.double().T
        return self.c * torch.polar(torch.ones_like(angle), angle) * slices_of(self.volume, self.coords, rotations)

    def refine(self, y: Tensor, starts, steps: int = 12, prior: float = 0.0, plain: bool = False):
        options = PolishOptions(BOX, steps, prior, 1e-7, math.radians(15))
        dtype = self.volume.real.dtype
        y, c = y.to(self.volume.dtype), self.c.to(dtype)
        coords = self.coords.to(dtype) if plain else self.coords
        refine_poses = (reference_poses if plain else kernels).refine_poses
        found = refine_poses(self.volume, coords, self.band.kxy, y, c, Starts(*starts), options)
        return found.rotations, found.shifts, found.gain, found.precision

    def single(self) -> Scene:
        return Scene(self.volume.to(torch.complex64), self.band, self.rotations, self.shifts, self.c.float())


@pytest.fixture
def scene(blobs, random_poses):
    def make(count: int, strength: float, spread: float = 1.5) -> Scene:
        specimen, band = blobs(BOX), Band.to_shell(BOX, LIMIT)
        rotations, shifts = random_poses(count, spread)
        # a contrast that changes sign, as a CTF does, and differs between images
        radius = band.kxy.double().norm(dim=1)
        c = torch.sin(torch.linspace(0.04, 0.08, count, dtype=torch.float64)[:, None] * radius**2 + 0.3)
        power = float((specimen.slices(band.kxy, rotations).abs() ** 2).sum(1).mean())
        volume = half_volume(specimen.map(), PADDING, LIMIT)
        return Scene(volume, band, rotations, shifts, c * strength / math.sqrt(power))

    return make


def noise(*shape: int, seed: int = 0) -> Tensor:
    """White noise of E|n|^2 = 1, as whitened data have."""
    parts = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.view_as_complex(parts) / math.sqrt(2)


def turned(rotations: Tensor, vectors: Tensor) -> Tensor:
    """exp([w]x) R by scipy."""
    return torch.from_numpy(Rotation.from_rotvec(vectors.numpy()).as_matrix()) @ rotations


def pose_error(found: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> Tensor:
    """(w, dt) [b, 5] with found = (exp([w]x) R, t + dt), by scipy."""
    vectors = Rotation.from_matrix((found[0] @ truth[0].transpose(1, 2)).numpy()).as_rotvec()
    return torch.cat([torch.from_numpy(vectors), found[1] - truth[1]], dim=1)


def moved(rotations: Tensor, shifts: Tensor, parameter: int, step: float) -> tuple[Tensor, Tensor]:
    change = torch.zeros(len(shifts), 5, dtype=torch.float64)
    change[:, parameter] = step
    return turned(rotations, change[:, :3]), shifts + change[:, 3:]


@pytest.mark.parametrize("prior", [0.0, 0.7])
def test_the_gain_is_the_brute_force_log_likelihood_above_no_particle_plus_the_shift_prior(scene, scipy_slices, prior):
    s = scene(8, 6.0)
    y = s.model(scipy_slices, s.rotations, s.shifts) + noise(8, len(s.band))
    at = moved(s.rotations, s.shifts, 1, 0.05)
    model = s.model(scipy_slices, *at)
    expected = -((y - model).abs() ** 2).sum(1) + (y.abs() ** 2).sum(1) - 0.5 * prior * (at[1] ** 2).sum(1)
    starts = (torch.arange(8), *at)
    for plain in (False, True):
        gain = s.refine(y, starts, steps=0, prior=prior, plain=plain)[2]
        torch.testing.assert_close(gain, expected, rtol=1e-10, atol=1e-10)
        gain = s.single().refine(y, starts, steps=0, prior=prior, plain=plain)[2]
        torch.testing.assert_close(gain, expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_the_finite_difference_of_the_objective(scene, scipy_slices):
    s, prior, h = scene(6, 6.0), 0.4, 1e-6
    y = s.model(scipy_slices, s.rotations, s.shifts) + noise(6, len(s.band))
    at = (turned(s.rotations, torch.full((6, 3), 0.04, dtype=torch.float64)), s.shifts + 0.3)
    options = PolishOptions(BOX, 0, prior, 0.0, 0.0)
    gradient = reference_poses.pose_objective(s.volume, s.coords, s.band.kxy, y, s.c, *at, options).gradient
    for p in range(5):
        ends = [s.refine(y, (torch.arange(6), *moved(*at, p, d)), steps=0, prior=prior)[2] for d in (h, -h)]
        slope = (ends[0] - ends[1]) / (2 * h)
        torch.testing.assert_close(gradient[:, p], slope, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
def test_the_precision_is_the_fisher_information_of_the_model_plus_the_prior(scene, scipy_slices, plain):
    s, prior, h = scene(6, 6.0), 0.4, 1e-6
    starts = (torch.arange(6), s.rotations, s.shifts)
    y = noise(6, len(s.band))
    precision = s.refine(y, starts, steps=0, prior=prior, plain=plain)[3]
    columns = []
    for p in range(5):
        plus, minus = (s.model(scipy_slices, *moved(s.rotations, s.shifts, p, d)) for d in (h, -h))
        columns.append(torch.view_as_real((plus - minus) / (2 * h)).flatten(1))
    jacobian = torch.stack(columns, dim=1)
    # noise of variance 1/2 in each real component: information 2 J J^T
    expected = 2 * jacobian @ jacobian.mT + prior * torch.diag(torch.tensor([0.0, 0, 0, 1, 1]).double())
    torch.testing.assert_close(precision, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("single", [False, True])
def test_compiled_and_plain_refinement_find_the_same_optimum(scene, scipy_slices, single):
    s = scene(20, 8.0)
    y = s.model(scipy_slices, s.rotations, s.shifts) + noise(20, len(s.band))
    w = 0.05 * torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    starts = (torch.arange(20), turned(s.rotations, w), s.shifts + 0.5)
    s = s.single() if single else s
    compiled, plain = s.refine(y, starts, prior=0.1), s.refine(y, starts, prior=0.1, plain=True)
    error = pose_error(compiled[:2], plain[:2])
    scale = torch.diagonal(torch.linalg.inv(plain[3]), dim1=1, dim2=2).sqrt()
    # in units of the posterior's standard deviation
    assert float((error / scale).abs().max()) < (0.05 if single else 1e-4)
    torch.testing.assert_close(compiled[2], plain[2], rtol=1e-4, atol=1e-2 if single else 1e-6)


def test_the_scatter_of_found_poses_over_noise_is_the_inverse_of_the_precision(scene, scipy_slices):
    # Standard deviations near 0.5 degrees: at several degrees the model is no longer linear over the posterior.
    draws = 4000
    s = scene(1, 200.0)
    clean = s.model(scipy_slices, s.rotations, s.shifts)
    many = Scene(s.volume, s.band, s.rotations, s.shifts, s.c.expand(draws, -1).contiguous())
    starts = (torch.arange(draws), s.rotations.expand(draws, 3, 3).contiguous(), s.shifts.expand(draws, 2).contiguous())
    rotations, shifts, _, precision = many.refine(clean + noise(draws, len(s.band)), starts)
    error = pose_error((rotations, shifts), (s.rotations, s.shifts))
    fisher = many.refine(clean.expand(draws, -1), starts, steps=0)[3][0]
    whitened = error @ torch.linalg.cholesky(fisher)
    scatter = whitened.T @ whitened / draws
    # sampling error of a variance: sqrt(2 / draws) = 2 %; kinks of linear interpolation add little
    assert float((scatter - torch.eye(5)).abs().max()) < 0.1
    assert float(whitened.mean(0).abs().max()) < 0.1
    # what each image reports of itself agrees on average
    assert float(((precision.mean(0) - fisher).abs() / fisher.diagonal().abs().max()).max()) < 0.05


def test_planted_poses_are_found_again_from_five_degrees_and_one_and_a_half_pixels_off(scene, scipy_slices):
    count = 300
    s = scene(count, 80.0)  # posterior standard deviations of about 1.3 degrees and 0.06 pixels
    y = s.model(scipy_slices, s.rotations, s.shifts) + noise(count, len(s.band))
    generator = torch.Generator().manual_seed(3)
    w = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64))
    dt = torch.nn.functional.normalize(torch.randn(count, 2, generator=generator, dtype=torch.float64))
    starts = (torch.arange(count), turned(s.rotations, math.radians(5) * w), s.shifts + 1.5 * dt)
    single = s.single()
    rotations, shifts, gain, precision = single.refine(y, starts)
    truth = single.refine(y, (torch.arange(count), s.rotations, s.shifts), steps=0)[2]
    error = pose_error((rotations, shifts), (s.rotations, s.shifts))
    chi2 = torch.einsum("bi,bij,bj->b", error, precision, error)
    found = chi2 < 20.5  # 0.1 % of a chi-squared of 5 degrees of freedom lie beyond
    assert float(found.double().mean()) > 0.97
    assert float(chi2[found].mean()) == pytest.approx(5.0, abs=0.7)
    # where it is found, the optimum beats the true pose by half a chi-squared of 5: 2.5 nats
    assert float((gain - truth)[found].min()) > -0.01
    assert float((gain - truth)[found].mean()) == pytest.approx(2.5, abs=0.4)


def test_the_shift_prior_pulls_until_it_balances_the_slope_of_the_likelihood(scene, scipy_slices):
    count, prior, h = 12, 30.0, 1e-5
    s = scene(count, 8.0)
    y = s.model(scipy_slices, s.rotations, s.shifts)
    starts = (torch.arange(count), s.rotations, s.shifts)
    rotations, shifts, _, _ = s.refine(y, starts, steps=60, prior=prior)
    assert bool((shifts.norm(dim=1) < s.shifts.norm(dim=1)).all())
    for axis in (3, 4):
        ends = [s.refine(y, (torch.arange(count), *moved(rotations, shifts, axis, d)), steps=0)[2] for d in (h, -h)]
        torch.testing.assert_close((ends[0] - ends[1]) / (2 * h), prior * shifts[:, axis - 3], rtol=0.02, atol=0.1)
