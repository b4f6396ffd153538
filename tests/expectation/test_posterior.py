"""The posterior of a pose: how modes are weighed, and which samples stand for them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.posterior import Poses, covariance_of, merge_modes, posterior_samples
from halfmap.expectation.priors import ShiftPrior
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.kernels.poses import PolishOptions, Starts

C1 = torch.eye(3, dtype=torch.float64)[None]
FLOOR = torch.diag(torch.tensor([1 / math.radians(20) ** 2] * 3 + [1 / 25] * 2, dtype=torch.float64))


def random_modes(images: int, modes: int, seed: int = 0) -> Poses:
    """Modes of standard deviations near 1 degree and 0.2 pixels, correlated."""
    random = np.random.default_rng(seed)
    rotations = Rotation.random(images * modes, rng=random).as_matrix().reshape(images, modes, 3, 3)
    sd = np.array([math.radians(1.0)] * 3 + [0.2] * 2)
    half = random.normal(size=(images, modes, 5, 5)) * 0.4 + np.eye(5)
    covariance = sd[:, None] * (half @ half.swapaxes(-1, -2)) * sd
    gain = random.uniform(0, 4, (images, modes))
    shifts = random.normal(0, 2, (images, modes, 2))
    return Poses(*(torch.from_numpy(a) for a in (rotations, shifts, gain, np.linalg.inv(covariance))))


def differences(samples, rotations: Tensor, shifts: Tensor) -> Tensor:
    """(w, dt) [j, 5] of samples from one pose, by scipy."""
    relative = Rotation.from_matrix((samples.rotations @ rotations.mT).numpy())
    return torch.cat([torch.from_numpy(relative.as_rotvec()), samples.shifts - shifts], dim=1)


def nearly_two_fold_map(box: int) -> Tensor:
    """A particle that half a turn about z changes by a few thousandths only."""
    random = np.random.default_rng(3)
    centre, weight = random.uniform(-0.2 * box, 0.2 * box, (6, 3)), random.uniform(0.5, 1.5, 6)
    both, weights = np.concatenate([centre, centre * [-1, -1, 1]]), np.concatenate([weight, 0.998 * weight])
    axis = np.arange(box) - box // 2
    one = [np.exp(-((axis - both[:, i, None]) ** 2) / (2 * 1.8**2)) for i in range(3)]
    return torch.from_numpy(np.einsum("a,az,ay,ax->zyx", weights, one[2], one[1], one[0]))


def test_laplace_weights_are_the_numerically_integrated_evidence_of_each_mode():
    # Two modes of one image of a nearly two-fold particle, and one of a weaker image (relative to its own likelihood at
    # the peak), so that heights differ in one pair and widths in the other. The likelihood is summed over a grid of
    # rotations and shifts around each mode.
    box, prior, strength = 24, 0.5, torch.tensor([[400.0], [300.0]], dtype=torch.float64)
    volume, band = half_volume(nearly_two_fold_map(box), 2, 7), Band.to_shell(box, 7)
    coords = band.kxy.double() * 2
    R = torch.from_numpy(Rotation.random(2, rng=5).as_matrix())
    mate = R[:1] @ torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    clean = kernels.project_slices(volume, coords, R)
    c = (strength / clean.norm(dim=1, keepdim=True)).expand(2, len(band)).contiguous()
    noise = torch.randn(2, len(band), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = c * clean + torch.view_as_complex(noise) / math.sqrt(2)
    image = torch.tensor([0, 0, 1])
    starts = Starts(image, torch.stack([R[0], mate[0], R[1]]), torch.zeros(3, 2, dtype=torch.float64))
    found = kernels.refine_poses(volume, coords, band.kxy, y, c, starts, PolishOptions(box, 60, prior, 1e-9, 0.2))
    peak = found.gain[[0, 0, 2]]
    poses = Poses(found.rotations[None], found.shifts[None], (found.gain - peak)[None], found.precision[None])
    assert float(poses.weight.min()) > 0.02  # all modes count

    evidence = []
    line = torch.arange(-3, 4, dtype=torch.float64)
    unit = torch.cartesian_prod(line, line, line, line, line)
    for mode in range(3):
        root = torch.linalg.cholesky(torch.linalg.inv(found.precision[mode]))
        offset = unit @ root.T
        rotation = torch.from_numpy(Rotation.from_rotvec(offset[:, :3].numpy()).as_matrix()) @ found.rotations[mode]
        grid = Starts(image[mode].expand(len(unit)).contiguous(), rotation, found.shifts[mode] + offset[:, 3:])
        gain = kernels.refine_poses(volume, coords, band.kxy, y, c, grid, PolishOptions(box, 0, prior, 0.0, 0.1)).gain
        cell = float(root.diagonal().log().sum())
        evidence.append(float(torch.logsumexp(gain - peak[mode], 0)) + cell)
    expected = torch.softmax(torch.tensor(evidence, dtype=torch.float64), 0)
    # the posterior is a quarter of a degree wide: there Laplace's approximation errs by 0.05 in the log
    torch.testing.assert_close(poses.weight[0].log(), expected.log(), atol=0.2, rtol=0)


def test_the_wider_of_two_modes_of_equal_likelihood_weighs_more_by_its_volume():
    poses = random_modes(1, 2)
    precision = poses.precision[:, :1].expand(1, 2, 5, 5).clone()
    precision[:, 1] *= 0.25  # twice as wide along each of five axes
    equal = Poses(poses.rotations, poses.shifts, torch.zeros(1, 2, dtype=torch.float64), precision)
    assert float(equal.weight[0, 1] / equal.weight[0, 0]) == pytest.approx(32.0, rel=1e-6)


def test_weights_add_up_to_one_and_an_absent_mode_has_none():
    poses = random_modes(5, 3)
    poses.gain[1, 1:] = -torch.inf
    poses.precision[1, 1:] = 0.0
    weight = poses.weight
    torch.testing.assert_close(weight.sum(1), torch.ones(5, dtype=torch.float64))
    assert weight[1].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["best", "modes", "sigma"])
def test_the_masses_of_each_images_samples_add_up_to_one(kind):
    poses = random_modes(7, 3)
    poses.gain[2, 1:] = -torch.inf
    poses.precision[2, 1:] = 0.0
    samples = posterior_samples(poses, kind)
    image, rotations, mass = samples.image, samples.rotations, samples.mass
    torch.testing.assert_close(torch.zeros(7).double().index_add_(0, image, mass), torch.ones(7).double())
    assert float(mass.min()) > 0
    eye = torch.eye(3, dtype=torch.float64)
    assert float((rotations @ rotations.mT - eye).abs().max()) < 1e-12
    assert float(torch.linalg.det(rotations).min()) > 0.99


def test_a_mode_of_negligible_weight_is_not_inserted_and_the_others_share_its_mass():
    poses = random_modes(1, 3)
    poses.gain[0] = torch.tensor([10.0, 9.5, 0.0])
    samples = posterior_samples(poses, "modes")
    image, mass = samples.image, samples.mass
    assert image.tolist() == [0, 0]
    weight = poses.weight[0, :2]
    torch.testing.assert_close(mass, weight / weight.sum())


def test_sigma_points_have_the_mean_and_the_covariance_of_their_mode():
    poses = random_modes(4, 1)
    samples = posterior_samples(poses, "sigma")
    for b in range(4):
        mine = samples.where(samples.image == b)
        d = differences(mine, poses.rotations[b, 0], poses.shifts[b, 0])
        mass = mine.mass
        covariance = torch.linalg.inv(poses.precision[b, 0] + FLOOR)
        sd = covariance.diagonal().sqrt()
        assert float((mass @ d / sd).abs().max()) < 1e-9
        outer = sd * sd[:, None]
        torch.testing.assert_close((d.T * mass) @ d / outer, covariance / outer, atol=1e-9, rtol=0)


def test_a_mode_without_information_keeps_a_bounded_spread():
    sd = covariance_of(torch.zeros(1, 5, 5, dtype=torch.float64))[0].diagonal().sqrt()
    torch.testing.assert_close(torch.rad2deg(sd[:3]), torch.full((3,), 20.0).double())
    torch.testing.assert_close(sd[3:], torch.full((2,), 5.0).double())


def test_merging_keeps_distinct_modes_in_order_of_likelihood_and_drops_near_twins_and_poor_ones():
    base = Rotation.random(1, rng=1)
    turns = np.radians([[0, 0, 0], [0.5, 0, 0], [0, 6, 0], [0, 6.5, 0], [0, 0, 40], [90, 0, 0]])
    rotations = torch.from_numpy((Rotation.from_rotvec(turns) * base).as_matrix())[None]
    gain = torch.tensor([[7.0, 10.0, 9.0, 9.5, 2.0, -20.0]], dtype=torch.float64)
    shifts = torch.arange(12, dtype=torch.float64).view(1, 6, 2)
    precision = gain[..., None, None] * torch.eye(5, dtype=torch.float64)
    modes = Poses(rotations, shifts, gain, precision)
    kept = merge_modes(modes, C1, math.radians(2), drop=14.0, most=4)
    assert kept.gain[0].tolist() == [10.0, 9.5, 2.0, -math.inf]
    # everything of a mode travels with it
    torch.testing.assert_close(kept.rotations[0, :3], rotations[0, [1, 3, 4]])
    torch.testing.assert_close(kept.shifts[0, :3], shifts[0, [1, 3, 4]])
    torch.testing.assert_close(kept.precision[0, :3], precision[0, [1, 3, 4]])
    assert merge_modes(modes, C1, math.radians(2), 14.0, 2).gain[0].tolist() == [10.0, 9.5]


def test_a_dropped_mode_does_not_hide_another_that_is_close_to_it():
    # b is a twin of a and goes; c is close to b but not to a and stays.
    turns = np.radians([[0, 0, 0], [1.5, 0, 0], [3.0, 0, 0]])
    rotations = torch.from_numpy(Rotation.from_rotvec(turns).as_matrix())[None]
    gain = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    zeros = torch.zeros(1, 3, 5, 5, dtype=torch.float64)
    kept = merge_modes(Poses(rotations, torch.zeros(1, 3, 2).double(), gain, zeros), C1, math.radians(2), 14.0, 3)
    assert kept.gain[0].tolist() == [3.0, 1.0, -math.inf]


def test_the_shift_prior_is_the_log_of_a_normal_density_relative_to_its_centre():
    shifts = torch.tensor([[0.0, 0.0], [3.0, -4.0]], dtype=torch.float64)
    log = ShiftPrior.from_spread(2.0).log_density(shifts)
    torch.testing.assert_close(log, torch.tensor([0.0, -25 / 8], dtype=torch.float64))
