"""The expectation step: noise and contrast come back as simulated, quarters partition, halves never mix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.search import Sampling
from halfmap.fourier.band import Band
from halfmap.fourier.transform import image_fft, image_ifft
from halfmap.geometry.orientation_grid import angular_step, orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import ImagingGeometry
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.poses import Samples
from halfmap.particles.preprocess import soft_circle
from halfmap.particles.source import ImageBatch
from halfmap.reconstruction.statistics import Backprojection
from halfmap.refinement import em
from halfmap.refinement.contrast import contrast_of, updated_scale
from halfmap.refinement.imaging_model import ImagingModel, signal_left
from halfmap.refinement.schedule import Plan
from halfmap.refinement.state import PoseTable, State
from halfmap.refinement.tally import Tally, updated_noise, updated_shift_sigma

PIXEL = 2.0
C1 = torch.eye(3, dtype=torch.float64)[None]


@dataclass(frozen=True)
class Microscope:
    """Simulated particles of one optics group with their true poses, served from memory."""

    specimen: object
    optics: OpticsGroup
    defocus: Defocus
    rotations: Tensor
    shifts: Tensor
    images: Tensor
    diameter: float

    @property
    def table(self) -> SimpleNamespace:
        return SimpleNamespace(optics=(self.optics,), defocus=self.defocus)

    @property
    def pieces(self) -> Tensor:
        return torch.arange(len(self.images))

    def stream(self, index: Tensor) -> Iterator[ImageBatch]:
        for members in index.split(64):
            images = self.images[members]
            groups = torch.zeros(len(members), dtype=torch.int64)
            yield ImageBatch(groups, members, images, torch.ones(len(members), dtype=torch.bool), images)

    def state(self, half: Tensor, groups: int = 1) -> State:
        box, count = self.optics.box, len(half)
        poses = PoseTable.empty(half, 3)
        poses.rotations[:, 0], poses.shifts[:, 0] = self.rotations.float(), self.shifts.float()
        poses.weight[:, 0] = 1.0
        reference = self.specimen.map().float()
        flat = torch.full((box // 2 + 1,), float(box**2), dtype=torch.float64)
        assert count == len(self.images)
        return State(0, (reference, reference), (flat,), torch.ones(groups).double(), 3.0, poses, torch.ones(()))


def spectrum(box: int) -> Tensor:
    """Noise power by |k|, E|n_k|^2 / n^2 [y, x // 2 + 1]: falls by a factor 3."""
    ky, kx = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64), torch.arange(box // 2 + 1).double()
    return 0.5 + torch.exp(-(ky[:, None] ** 2 + kx**2) / (2 * (box / 5) ** 2))


@pytest.fixture
def simulated(blobs, random_poses):
    def make(box: int, count: int, signal: float, contrast: Tensor | None = None, seed: int = 0) -> Microscope:
        specimen = blobs(box, spread=0.08)
        specimen = replace(specimen, weight=signal * specimen.weight)
        optics = OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, box)
        u = torch.linspace(4000, 9000, count, dtype=torch.float64)
        zero = torch.zeros_like(u)
        defocus = Defocus(u, u - 300, zero + 0.4, zero, zero, zero + 1)
        rotations, shifts = random_poses(count, seed=seed)
        band = Band.to_shell(box, box)
        coefficients = ctf(band.kxy, optics, defocus) * specimen.images(band.kxy, rotations, shifts)
        plane = torch.zeros(count, box, box // 2 + 1, dtype=torch.complex128)
        plane[:, band.kxy[:, 1] % box, band.kxy[:, 0]] = coefficients
        column = band.kxy[:, 0] == 0
        plane[:, -band.kxy[column, 1] % box, 0] = coefficients[:, column].conj()
        clean = image_ifft(plane, box)
        if contrast is not None:
            clean = clean * contrast[:, None, None]
        white = torch.randn(count, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        noise = torch.fft.irfft2(torch.fft.rfft2(white) * spectrum(box).sqrt(), s=(box, box))
        images = (clean + noise).float()
        return Microscope(specimen, optics, defocus, rotations, shifts, images, 0.62 * box * PIXEL)

    return make


def step(
    particles: Microscope, state: State, sampling: Sampling, limit: int, groups: Tensor | None = None,
    posterior: str = "best", seed: int = 1,
) -> em.Expectation:
    """The expectation step, back-projecting up to ``limit``; all images in one scale group unless told."""
    groups = torch.zeros(len(particles.images), dtype=torch.int64) if groups is None else groups
    model = ImagingModel(particles.optics.box, PIXEL, C1, groups)
    return em.expectation_step(state, particles, model, Plan(sampling.search, sampling, limit, posterior), seed)


def new_scale(state: State, tally: Tally) -> Tensor:
    return updated_scale(state, tally, contrast_of(tally, state.scale))


def halves_of(count: int) -> Tensor:
    return torch.arange(count) % 2


def expected_noise(box: int, mask: Tensor) -> Tensor:
    """Mean power of masked noise over the mask's mean square [y, x // 2 + 1]: the spectrum smoothed by the mask's.

    The autocorrelation of masked noise is that of the noise times that of the mask.
    """
    autocorrelation = torch.fft.irfft2(spectrum(box), s=(box, box))
    power = torch.fft.rfft2(mask.double()).abs() ** 2
    return torch.fft.rfft2(autocorrelation * torch.fft.irfft2(power, s=(box, box))).real / (mask.double() ** 2).sum()


def test_the_noise_estimate_is_the_simulated_spectrum(simulated):
    box, count, limit = 48, 500, 21
    particles = simulated(box, count, signal=0.5)
    state = particles.state(halves_of(count))
    outcome = step(particles, state, Sampling("fixed", 12), limit)
    found = updated_noise(state, outcome.tally, ((0,),))[0]

    mask = soft_circle(box, 0.5 * particles.diameter / PIXEL)
    band = Band.to_shell(box, limit)
    counts = band.shell_sum(torch.ones(len(band)).double())
    truth, smoothed = (
        band.shell_sum(band.gather(p[None].to(torch.complex128)).real)[0] / counts * box**2
        for p in (spectrum(box), expected_noise(box, mask))
    )
    shells = slice(2, limit + 1)
    # a mask of this size ties neighbouring coefficients together: about a third are independent
    error = 1 / torch.sqrt(counts * count / 3)
    assert bool(((found[: limit + 1] / smoothed - 1).abs() < 4 * error + 0.004)[shells].all())
    assert float((found[: limit + 1] / truth - 1)[shells].abs().max()) < 0.03
    # shells that were not looked at keep what was known of them
    assert torch.equal(found[limit + 1 :], state.sigma2[0][limit + 1 :])


def test_the_noise_estimate_is_the_same_however_little_images_count(simulated):
    """Even where all of them together count less than one coefficient, as in images of noise alone."""
    state = simulated(16, 4, 1.0).state(halves_of(4))
    found = []
    for probability in (1.0, 1e-7):
        tally = Tally.zeros(state)
        tally.noise[0][1:8], tally.count[0][1:8] = 300.0 * probability, 40.0 * probability
        found.append(updated_noise(state, tally, ((0,),))[0])
    assert torch.allclose(found[0], found[1]) and float(found[0][3]) == pytest.approx(7.5)


def test_the_noise_estimate_from_poses_that_are_wrong_contains_the_signal(simulated):
    box, count = 32, 200
    particles = simulated(box, count, signal=3.0)
    right = particles.state(halves_of(count))
    wrong = particles.state(halves_of(count))
    wrong.poses.rotations[:] = wrong.poses.rotations.roll(1, dims=0)
    tallies = [step(particles, state, Sampling("fixed", 8), 12).tally for state in (right, wrong)]
    noise = [updated_noise(right, tally, ((0,),))[0] for tally in tallies]
    assert float(noise[1][3] / noise[0][3]) > 1.2


@pytest.mark.parametrize("start", [(1.0, 1.0, 1.0, 1.0), (2.0, 0.5, 1.0, 1.5)])
def test_planted_contrasts_of_groups_are_recovered_from_any_start(simulated, start):
    box, count = 32, 400
    group = torch.arange(count) // 2 % 4
    planted = torch.tensor([0.7, 1.3, 1.0, 1.0], dtype=torch.float64)
    particles = simulated(box, count, 2.0, contrast=planted[group])
    state = replace(particles.state(halves_of(count)), scale=torch.tensor(start, dtype=torch.float64))
    outcome = step(particles, state, Sampling("fixed", 10), 12, group)
    found = new_scale(state, outcome.tally)
    found = found / (found * outcome.tally.norm).sum() * outcome.tally.norm.sum()  # a common factor belongs to the map
    # sampling error of a least-squares scale: noise over signal, halved because only its real part matters
    error = (0.5 / outcome.tally.norm).sqrt()
    assert float(error.max()) < 0.02
    assert bool(((found - planted).abs() < 4 * error + 0.01).all())


def test_the_mean_contrast_is_left_to_the_map_and_no_group_strays_beyond_a_factor_five(simulated):
    particles = simulated(16, 4, 1.0)
    state = particles.state(halves_of(4), groups=5)
    tally = Tally.zeros(state)
    tally.norm[:] = torch.tensor([10.0, 10.0, 20.0, 10.0, 0.0])
    tally.present[:], tally.images[:] = 1.0, 1.0
    tally.cross[:] = torch.tensor([20.0, 20.0, 40.0, -300.0, 0.0])
    scale = new_scale(state, tally)
    assert float((scale * tally.norm).sum() / tally.norm.sum()) == pytest.approx(1.0)
    assert float(scale[3] / scale[0]) == pytest.approx(0.2)  # negative: held at a fifth of the median
    assert float(scale[4] / scale[0]) == pytest.approx(1.0)  # without images: the median


def test_a_changed_noise_estimate_of_one_group_moves_no_contrast_that_the_map_was_made_with(simulated):
    """The next map fits the images at the old contrast: it must not be met by another one for all groups."""
    state = replace(simulated(16, 4, 1.0).state(halves_of(4), groups=2),
                    scale=torch.tensor([0.6, 1.7], dtype=torch.float64))
    tally = Tally.zeros(state)
    for weight in (1.0, 30.0):  # of the second group, by its noise
        tally.norm[:] = torch.tensor([1e8, 1e8 * weight])  # so many images that no prior is felt
        tally.cross[:] = tally.norm * state.scale
        tally.present[:], tally.images[:] = 1.0, 1.0
        assert torch.allclose(new_scale(state, tally), state.scale)


def test_the_scale_found_enters_the_next_statistics_as_the_contrast_of_the_model(simulated):
    box, count = 24, 40
    particles = simulated(box, count, 2.0)
    group = torch.arange(count) // 2 % 2
    state = particles.state(halves_of(count), groups=2)
    state = replace(state, scale=torch.tensor([0.5, 2.0], dtype=torch.float64))
    outcome = step(particles, state, Sampling("fixed", 9), 9, group)
    found = sum(q.sums for q in outcome.statistics[0])
    expected = inserted(particles, torch.arange(0, count, 2), 9, state.scale[group])
    assert relative(found, expected) < 2e-5


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def inserted(particles: Microscope, members: Tensor, limit: int, scale: Tensor | None = None) -> Tensor:
    """One insertion of all whole images at their true poses, in float64, under the flat noise of the first state."""
    box = particles.optics.box
    band = Band.to_shell(box, limit)
    y = band.gather(image_fft(particles.images[members].double()))
    c = ctf(band.kxy, particles.optics, particles.defocus[members]).double()
    c = c if scale is None else c * scale[members][:, None]
    total = Backprojection.zeros(box, 2, limit, torch.zeros((), dtype=torch.float64))
    poses = particles.rotations[members], particles.shifts[members]
    samples = Samples(torch.arange(len(members)), *poses, torch.ones(len(members)))
    geometry = ImagingGeometry.build(particles.optics, box, PIXEL, limit)
    power = ProjectedPower.of(particles.specimen.map().float(), PIXEL)
    left = signal_left(power, geometry, particles.defocus[members], 0.5 * particles.diameter / PIXEL, None).box
    weights = left[:, band.shell] * c**2 / box**2
    total.insert_(c * y / box**2, weights, band.kxy.double(), band, samples)
    return total.sums


@pytest.mark.parametrize("triton", [False, True])
def test_the_quarter_sets_of_a_half_partition_it_and_add_up_to_one_insertion_of_its_images(
    simulated, triton, monkeypatch
):
    monkeypatch.setattr(kernels, "compiled_by_triton", lambda device: triton)  # images of the other set have no mass
    box, count, limit = 24, 50, 9
    particles = simulated(box, count, 2.0)
    state = particles.state(halves_of(count))
    outcome = step(particles, state, Sampling("fixed", limit), limit, seed=3)
    for half in (0, 1):
        members = torch.arange(half, count, 2)
        a, b = (q.sums for q in outcome.statistics[half])
        assert relative(a + b, inserted(particles, members, limit)) < 2e-5
        # each image is in one of them: projected onto the weight that single images leave, all or nothing is there
        single = torch.stack([inserted(particles, m[None], limit)[..., 0].flatten() for m in members])
        share = torch.linalg.lstsq(single.T, a[..., 0].double().flatten()[:, None]).solution[:, 0]
        assert float((share - share.round()).abs().max()) < 1e-3
        assert sorted(set(share.round().tolist())) == [0.0, 1.0]
        assert abs(int(share.round().sum()) - len(members) / 2) <= 0.5
    again, other = (step(particles, state, Sampling("fixed", limit), limit, seed=seed) for seed in (3, 4))
    assert torch.equal(again.statistics[0][0].sums, outcome.statistics[0][0].sums)
    assert not torch.equal(other.statistics[0][0].sums, outcome.statistics[0][0].sums)


@pytest.mark.parametrize("posterior", ["modes", "sigma"])
def test_marginalising_over_poses_inserts_each_image_with_a_total_mass_of_one(simulated, posterior):
    box, count = 24, 30
    particles = simulated(box, count, 2.0)
    state = particles.state(halves_of(count))
    total = []
    for kind in ("best", posterior):
        outcome = step(particles, state, Sampling("local", 9), 9, posterior=kind)
        total.append(sum(float(q.weight.double().sum()) for q in outcome.statistics[0]))
    assert total[1] == pytest.approx(total[0], rel=1e-5)


def searches() -> dict[str, Sampling]:
    step = math.radians(angular_step(1))
    whole = Sampling("global", 8, 6, step, orientation_grid(1, C1), shift_grid(2.0, 1.0), candidates=4)
    return {"fixed": Sampling("fixed", 8), "local": Sampling("local", 8), "global": whole}


@pytest.mark.parametrize("search", ["fixed", "local", "global"])
def test_other_images_in_one_half_leave_the_other_half_bitwise_the_same(simulated, search):
    box, count = 24, 40
    particles = simulated(box, count, 2.0)
    half = halves_of(count)
    state = particles.state(half)
    images = particles.images.clone()
    images[half == 1] = torch.randn(images[half == 1].shape, generator=torch.Generator().manual_seed(9))
    changed = replace(particles, images=images)
    a, b = (step(p, state, searches()[search], 9, posterior="sigma") for p in (particles, changed))
    for q in (0, 1):
        assert torch.equal(a.statistics[0][q].sums, b.statistics[0][q].sums)
        assert not torch.equal(a.statistics[1][q].sums, b.statistics[1][q].sums)
    assert torch.equal(a.poses.rotations[half == 0], b.poses.rotations[half == 0])
    assert torch.equal(a.poses.shifts[half == 0], b.poses.shifts[half == 0])


def test_each_half_is_aligned_to_its_own_reference(simulated):
    box, count = 24, 40
    particles = simulated(box, count, 2.0)
    half = halves_of(count)
    state = particles.state(half)
    other = replace(state, references=(state.references[0], state.references[1].flip(2)))
    a, b = (step(particles, s, Sampling("local", 8), 9) for s in (state, other))
    assert torch.equal(a.poses.rotations[half == 0], b.poses.rotations[half == 0])
    assert not torch.equal(a.poses.rotations[half == 1], b.poses.rotations[half == 1])


def test_shifts_beyond_a_pixel_are_found_about_the_last_position_and_recorded_as_a_whole(simulated):
    # Particles far off the centre are moved by whole pixels first; what is written is the whole offset.
    box, count = 32, 120
    particles = simulated(box, count, 0.8)
    state = replace(particles.state(halves_of(count)), sigma2=(box**2 * spectrum(box)[0],))
    state.poses.shifts[:, 0] += 0.4
    outcome = step(particles, state, Sampling("local", 11), 12)
    assert float(particles.shifts.abs().max()) > 2.5
    # the reported standard deviation (per axis) is what the error really is
    ratio = (outcome.poses.shifts[:, 0] - particles.shifts).norm(dim=1) / outcome.poses.shift_sd.double()
    assert float((ratio**2).mean()) == pytest.approx(2.0, rel=0.4)
    # an EM update of the prior's width: mean square of the shifts found, and what is not known of them
    found = outcome.poses
    spread = np.sqrt((found.shifts[:, 0].numpy() ** 2).mean() + (found.shift_sd.numpy() ** 2).mean())
    estimated = updated_shift_sigma(found, torch.full((count,), PIXEL))
    assert estimated == pytest.approx(PIXEL * float(spread), rel=1e-5)
    assert estimated == pytest.approx(PIXEL * float(particles.shifts.std()), rel=0.05)
