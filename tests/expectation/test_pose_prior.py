"""A prior about given poses in the posterior: its density, the evidence under it, and what it does to poses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap.expectation.posterior import Poses, log_evidence
from halfmap.expectation.priors import ShiftPrior, log_peak
from halfmap.expectation.search import Reference, Sampling, find_poses
from halfmap.fourier.transform import half_volume
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.forward import BandImages, ImagingGeometry
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.poses import PosePrior

BOX, PADDING, PIXEL, LIMIT = 32, 2, 2.0, 6
TURN, SHIFT = 4.0, 0.6  # standard deviations, degrees and pixels
FULCRUM = np.array([2.0, 4.0, -3.0])
FLAT = ShiftPrior()


def prior_about(rotations: Tensor, shifts: Tensor, turn: float = TURN, shift: float = SHIFT) -> PosePrior:
    return PosePrior(rotations, shifts, torch.from_numpy(FULCRUM), math.radians(turn) ** -2, shift**-2)


def drawn(rotations: Tensor, shifts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Poses [b] drawn from the prior about these: turned about the fulcrum, then shifted."""
    random = np.random.default_rng(seed)
    vectors = np.radians(random.normal(0, TURN, (len(shifts), 3)))
    turned = Rotation.from_rotvec(vectors).as_matrix() @ rotations.numpy()
    gone = ((turned - rotations.numpy()) @ FULCRUM)[:, :2]
    moved = shifts.numpy() - gone + random.normal(0, SHIFT, (len(shifts), 2))
    return torch.from_numpy(turned), torch.from_numpy(moved)


def one_mode(rotations: Tensor, shifts: Tensor) -> Poses:
    gain = torch.zeros(len(shifts), 1, dtype=torch.float64)
    return Poses(rotations[:, None], shifts[:, None], gain, gain.new_zeros(len(shifts), 1, 5, 5))


def distance(one: Tensor, other: Tensor) -> np.ndarray:
    """Degrees, by scipy."""
    return np.degrees(Rotation.from_matrix((one @ other.mT).numpy()).magnitude())


class Scene:
    """Images [b] at poses drawn from the prior about known ones, of signal-to-noise strength^2 or of noise alone."""

    def __init__(self, blobs, random_poses, count: int, strength: float, particle: bool = True) -> None:
        self.specimen = blobs(BOX)
        self.geometry = ImagingGeometry.build(OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX), BOX, PIXEL, LIMIT)
        self.known = random_poses(count, 1.0)
        self.truth = drawn(*self.known, seed=4)
        clean = self.specimen.images(self.geometry.band.kxy, *self.truth)
        self.sigma2 = float((clean.abs() ** 2).sum(1).mean()) / strength**2
        parts = np.random.default_rng(3).normal(size=(*clean.shape, 2)) * math.sqrt(self.sigma2 / 2)
        self.y = torch.view_as_complex(torch.from_numpy(parts)) + (clean if particle else 0)
        self.reference = Reference(half_volume(self.specimen.map().float(), PADDING, LIMIT), PADDING)

    @property
    def images(self) -> BandImages:
        y = self.y.to(torch.complex64)
        return BandImages(self.geometry, y, y, torch.ones(y.shape), torch.full((y.shape[1],), self.sigma2),
                          torch.ones(len(y)))

    def found(self, about: PosePrior | None, shift: ShiftPrior = FLAT, group: str = "C1") -> Poses:
        sampling = Sampling("local", LIMIT, symmetry=symmetry_group(group), steps=20)
        return find_poses(self.reference, self.images, sampling, shift, one_mode(*self.known), about=about)

    def summed(self, draws: int) -> Tensor:
        """The likelihood ratio [b] averaged over poses that are drawn from the prior."""
        result = []
        for b, y in enumerate(self.y):
            many = (self.known[0][b].expand(draws, 3, 3), self.known[1][b].expand(draws, 2))
            model = self.specimen.images(self.geometry.band.kxy, *drawn(*many, seed=b))
            log = (2 * (model.conj() @ y).real - (model.abs() ** 2).sum(1)) / self.sigma2
            result.append(float(torch.logsumexp(log, 0)) - math.log(draws))
        return torch.tensor(result, dtype=torch.float64)


@pytest.fixture
def scene(blobs, random_poses):
    return lambda *wanted, **named: Scene(blobs, random_poses, *wanted, **named)


@pytest.mark.parametrize("turn", [0.5, 5.0, 40.0, 1e4])
def test_the_density_of_rotations_integrates_to_one(turn):
    """Over all rotations, by random ones near the centre: their vectors are uniform in a ball of known volume, where
    8 pi^2 rotations have the density (sin(a/2) / (a/2))^2 over vectors of length a."""
    reach = min(math.pi, math.radians(6 * turn))
    vectors = np.random.default_rng(0).uniform(-reach, reach, (400_000, 3))
    angle = np.linalg.norm(vectors, axis=1)
    weight = np.sinc(angle / (2 * math.pi)) ** 2 * np.exp(-0.5 * (angle / math.radians(turn)) ** 2)
    weight[angle > math.pi] = 0
    about = replace(prior_about(torch.eye(3)[None], torch.zeros(1, 2), turn), shift=2 * math.pi)  # of density 1
    peak = math.exp(log_peak(FLAT, about, 1))
    assert peak * weight.mean() * (2 * reach) ** 3 == pytest.approx(1.0, abs=0.03)
    if turn == 1e4:
        assert peak == pytest.approx(1 / (8 * math.pi**2), rel=1e-4)


def test_the_prior_takes_the_place_of_the_flat_one_and_of_shifts_about_zero_only_where_it_knows():
    eye, zero = torch.eye(3)[None], torch.zeros(1, 2)
    flat = math.log(5 / (8 * math.pi**2)) + math.log(0.3 / (2 * math.pi))
    assert log_peak(ShiftPrior(0.3), None, 5) == pytest.approx(flat)
    assert log_peak(ShiftPrior(0.3), replace(prior_about(eye, zero), turn=0.0, shift=0.0), 5) == pytest.approx(flat)
    width = math.radians(TURN)
    normal = -1.5 * math.log(2 * math.pi * width**2) - math.log(2 * math.pi * SHIFT**2)
    assert log_peak(ShiftPrior(0.3), prior_about(eye, zero), 5) == pytest.approx(normal, abs=0.01)


def test_the_evidence_is_the_likelihood_ratio_averaged_over_the_prior(scene):
    s = scene(8, strength=5.0)
    about = prior_about(*s.known)
    ours = log_evidence(s.found(about), FLAT, 1, about)
    wanted = s.summed(4000)
    assert float(wanted.max() - wanted.min()) > 5
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0.5)
    assert abs(float((ours - wanted).mean())) < 0.2


def test_noise_has_an_evidence_of_one_on_average(scene):
    s = scene(400, strength=4.0, particle=False)
    about = prior_about(*s.known)
    z = log_evidence(s.found(about), FLAT, 1, about).exp()
    assert float(z.mean()) == pytest.approx(1.0, abs=3 * float(z.std()) / 20 + 0.1)


def test_poses_that_come_from_the_prior_are_found_better_with_it_than_without_or_with_a_tighter_one(scene):
    s = scene(300, strength=7.0)
    error = {turn: np.median(distance(s.found(prior_about(*s.known, turn)).rotations[:, 0], s.truth[0]))
             for turn in (0.5, TURN, 1e4)}
    assert error[TURN] < 0.9 * min(error[0.5], error[1e4]), error


def test_the_stated_precision_holds_under_the_prior(scene):
    s = scene(300, strength=7.0)
    found = s.found(prior_about(*s.known))
    vectors = Rotation.from_matrix((found.rotations[:, 0] @ s.truth[0].mT).numpy()).as_rotvec()
    error = torch.cat([torch.from_numpy(vectors), found.shifts[:, 0] - s.truth[1]], dim=1)
    chi2 = torch.einsum("bi,bij,bj->b", error, found.precision[:, 0], error)
    assert float(chi2.median()) == pytest.approx(4.35, rel=0.2)  # of five degrees of freedom


def test_a_pose_stays_the_symmetry_mate_that_its_prior_is_about(scene):
    s = scene(20, strength=7.0)
    about = replace(prior_about(*s.known), turn_limit=math.radians(15.0))
    s.known = (s.known[0] @ symmetry_group("C2")[1], s.known[1])  # where the search begins: mates
    found = s.found(about, group="C2")
    assert distance(found.rotations[:, 0], about.rotations).max() < 15.01
