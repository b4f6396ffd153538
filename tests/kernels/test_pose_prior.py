"""A normal prior of poses about given ones: its value, slope and curvature by scipy, and what it does to poses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume
from halfmap.kernels import reference_poses
from halfmap.kernels.poses import PolishOptions, PosePrior, Starts

BOX, LIMIT, COUNT = 32, 8, 6
TURN, SHIFT = math.radians(4.0), 0.7  # standard deviations, in radians and pixels
FULCRUM = np.array([3.0, -5.0, 2.0])
OPTIONS = PolishOptions(BOX, 40, 0.0, 1e-9, math.radians(15))


def turned(rotations: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(vectors).as_matrix() @ rotations


def residuals(rotations: np.ndarray, shifts: np.ndarray, centre: PosePrior) -> np.ndarray:
    """What the prior is a sum of squares of, [b, 5]: rotation vectors, and how far the fulcrum moved in the image."""
    first, t0 = centre.rotations.numpy(), centre.shifts.numpy()
    w = (Rotation.from_matrix(rotations) * Rotation.from_matrix(first).inv()).as_rotvec()
    before = np.array([(one @ FULCRUM)[:2] for one in first]) + t0
    now = np.array([(one @ FULCRUM)[:2] for one in rotations]) + shifts
    return np.concatenate([w / TURN, (now - before) / SHIFT], axis=1)


class Scene:
    """Noisy images of a particle, the prior about poses some way off, and poses to begin with."""

    def __init__(self, blobs, random_poses, spread: float = 5.0) -> None:
        specimen, self.band = blobs(BOX), Band.to_shell(BOX, LIMIT)
        self.volume = half_volume(specimen.map(), 2, LIMIT)
        rotations, self.shifts = random_poses(COUNT, 1.0)
        self.rotations = rotations.numpy()
        clean = specimen.slices(self.band.kxy, rotations)
        angle = -2 * math.pi / BOX * self.shifts @ self.band.kxy.double().T
        self.c = torch.full(clean.shape, 40.0 / float(clean.abs().norm()) * math.sqrt(COUNT), dtype=torch.float64)
        random = np.random.default_rng(2)
        noise = torch.from_numpy(random.normal(size=(*clean.shape, 2)) / math.sqrt(2))
        self.y = self.c * clean * torch.polar(torch.ones_like(angle), angle) + torch.view_as_complex(noise)
        vectors = np.radians(random.normal(0, spread, (COUNT, 3)))
        about, t0 = turned(self.rotations, vectors), self.shifts + torch.from_numpy(random.normal(size=(COUNT, 2)))
        self.prior = PosePrior(torch.from_numpy(about), t0, torch.from_numpy(FULCRUM), 1 / TURN**2, 1 / SHIFT**2)

    def refined(self, rotations, shifts, steps: int, prior: PosePrior | None, plain: bool = False):
        starts = Starts(torch.arange(COUNT), torch.as_tensor(rotations), torch.as_tensor(shifts))
        refine = (reference_poses if plain else kernels).refine_poses
        coords = self.band.kxy.double() * 2
        return refine(self.volume, coords, self.band.kxy, self.y, self.c, starts, replace(OPTIONS, steps=steps), prior)

    def moved(self, parameter: int, step: float):
        change = np.zeros((COUNT, 5))
        change[:, parameter] = step
        return turned(self.rotations, change[:, :3]), self.shifts + torch.from_numpy(change[:, 3:])


@pytest.fixture
def scene(blobs, random_poses):
    return lambda spread=5.0: Scene(blobs, random_poses, spread)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("spread", [1e-5, 5.0, 60.0])
def test_the_gain_falls_by_half_the_square_of_turn_and_of_the_fulcrums_way_in_the_image(scene, plain, spread):
    s = scene(spread)
    with_prior, without = (s.refined(s.rotations, s.shifts, 0, p, plain) for p in (s.prior, None))
    expected = -0.5 * (residuals(s.rotations, s.shifts.numpy(), s.prior) ** 2).sum(1)
    torch.testing.assert_close(with_prior.gain - without.gain, torch.from_numpy(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("spread", [1e-5, 5.0, 60.0])
def test_the_priors_part_of_the_precision_is_the_squared_slope_of_its_residuals(scene, plain, spread):
    s, h = scene(spread), 1e-6
    with_prior, without = (s.refined(s.rotations, s.shifts, 0, p, plain) for p in (s.prior, None))
    columns = [(residuals(r, t.numpy(), s.prior) - residuals(*(a if isinstance(a, np.ndarray) else a.numpy() for a in
                s.moved(p, -h)), s.prior)) / (2 * h) for p in range(5) for r, t in [s.moved(p, h)]]
    jacobian = torch.from_numpy(np.stack(columns, axis=2))
    torch.testing.assert_close(with_prior.precision - without.precision, jacobian.mT @ jacobian, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("spread", [1e-5, 5.0, 60.0])
def test_the_gradient_is_the_finite_difference_of_likelihood_and_prior(scene, spread):
    s, h = scene(spread), 1e-6
    at = (torch.from_numpy(s.rotations), s.shifts, OPTIONS, s.prior)
    gradient = reference_poses.pose_objective(s.volume, s.band.kxy * 2.0, s.band.kxy, s.y, s.c, *at).gradient
    for p in range(5):
        ends = [s.refined(*s.moved(p, d), 0, s.prior).gain for d in (h, -h)]
        torch.testing.assert_close(gradient[:, p], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("spread", [1e-5, 5.0, 60.0])
def test_a_step_of_the_compiled_kernel_is_that_of_the_plain_one(scene, spread):
    """The compiled gradient is not returned; a step shows it, and the plain one is checked above."""
    s = scene(spread)
    for steps in (1, 2):
        one, other = (s.refined(s.rotations, s.shifts, steps, s.prior, plain) for plain in (False, True))
        torch.testing.assert_close(one.rotations, other.rotations, rtol=0, atol=1e-9)
        torch.testing.assert_close(one.shifts, other.shifts, rtol=0, atol=1e-8)
        torch.testing.assert_close(one.gain, other.gain, rtol=1e-9, atol=1e-8)
        assert float((one.shifts - s.shifts).abs().max()) > 0.1 or spread < 1


@pytest.mark.parametrize("plain", [False, True])
def test_without_data_a_pose_returns_to_the_centre_of_its_prior(scene, plain):
    s = scene(60.0)
    s.c = torch.zeros_like(s.c)
    found = s.refined(s.rotations, s.shifts, 40, s.prior, plain)
    torch.testing.assert_close(found.rotations, s.prior.rotations, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.shifts, s.prior.shifts, rtol=0, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
def test_no_pose_goes_beyond_the_limits_and_poses_within_them_are_left_alone(scene, plain):
    s = scene(8.0)
    flat = replace(s.prior, turn=0.0, shift=0.0)
    narrow = replace(flat, turn_limit=math.radians(3.0), shift_limit=0.5)
    found = s.refined(s.rotations, s.shifts, 20, narrow, plain)
    off = residuals(found.rotations.numpy(), found.shifts.numpy(), narrow)
    turn, way = np.linalg.norm(off[:, :3] * TURN, axis=1), np.linalg.norm(off[:, 3:] * SHIFT, axis=1)
    assert turn.max() < math.radians(3.0) + 1e-9 and way.max() < 0.5 + 1e-9
    assert (turn > math.radians(2.99)).sum() >= COUNT // 2  # the images pull farther
    wide = replace(flat, turn_limit=math.radians(90.0), shift_limit=20.0)
    free, bounded = (s.refined(s.rotations, s.shifts, 20, p, plain) for p in (None, wide))
    torch.testing.assert_close(bounded.rotations, free.rotations, rtol=0, atol=0)
    torch.testing.assert_close(bounded.shifts, free.shifts, rtol=0, atol=0)
    torch.testing.assert_close(bounded.gain, free.gain, rtol=0, atol=0)


def test_a_turn_about_the_fulcrum_costs_no_shift(scene):
    s = scene()
    vectors = np.radians(np.random.default_rng(0).normal(0, 10, (COUNT, 3)))
    about = turned(s.prior.rotations.numpy(), vectors)
    gone = np.array([((a - b) @ FULCRUM)[:2] for a, b in zip(about, s.prior.rotations.numpy(), strict=True)])
    shifts = s.prior.shifts - torch.from_numpy(gone)
    with_prior, without = (s.refined(about, shifts, 0, p) for p in (s.prior, None))
    expected = torch.from_numpy(-0.5 * (np.linalg.norm(vectors, axis=1) / TURN) ** 2)
    torch.testing.assert_close(with_prior.gain - without.gain, expected, rtol=1e-8, atol=1e-8)
    assert np.abs(gone).max() > 0.3  # it moves the box centre's image by as much


def test_starts_take_the_prior_of_their_own_image(scene):
    s = scene()
    starts = Starts(torch.tensor([0, 0, 3]), s.prior.rotations[[0, 0, 3]], s.prior.shifts[[0, 0, 3]])
    coords, options = s.band.kxy.double() * 2, replace(OPTIONS, steps=0)
    for refine in (kernels.refine_poses, reference_poses.refine_poses):
        both = [refine(s.volume, coords, s.band.kxy, s.y, s.c, starts, options, p).gain for p in (s.prior, None)]
        torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-9)
