"""Whether an image holds a particle: evidence against noise alone, by numbers that owe nothing to Laplace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from halfmap.expectation.posterior import log_evidence, particle_probability
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.search import GlobalSearch, Reference, Sampling, find_poses
from halfmap.fourier.transform import half_volume
from halfmap.geometry.orientation_grid import angular_step, orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.forward import BandImages, ImagingGeometry
from halfmap.imaging.optics import OpticsGroup

BOX, PADDING, PIXEL, LIMIT = 32, 2, 2.0, 4
SPREAD = 1.5  # pixels, of shifts
C1 = symmetry_group("C1")


def noise(*shape: int, seed: int) -> Tensor:
    parts = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.view_as_complex(parts) / math.sqrt(2)


@pytest.fixture
def scene(blobs, random_poses):
    """A reference, images of noise alone, and the same with a particle of signal-to-noise ``strength``^2."""

    def make(count: int, strength: float):
        specimen = blobs(BOX)
        geometry = ImagingGeometry.build(OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX), BOX, PIXEL, LIMIT)
        clean = specimen.images(geometry.band.kxy, *random_poses(count, spread=SPREAD))
        sigma2 = float((clean.abs() ** 2).sum(1).mean()) / strength**2
        empty = noise(count, len(geometry.band), seed=3) * math.sqrt(sigma2)

        def images(y: Tensor) -> BandImages:
            y = y.to(torch.complex64)
            return BandImages(geometry, y, y, torch.ones(y.shape), torch.full((y.shape[1],), sigma2),
                              torch.ones(count))

        reference = Reference(half_volume(specimen.map().float(), PADDING, LIMIT), PADDING)
        return specimen, reference, images(empty), images(empty + clean)

    return make


def found(reference: Reference, images: BandImages, modes: int = 3) -> Tensor:
    """The program's log evidence of each image after a global search."""
    sampling = Sampling("global", LIMIT, LIMIT, math.radians(angular_step(2)), orientation_grid(2, C1),
                        shift_grid(4.0, 1.0), modes=modes, candidates=4 * modes)
    prior = ShiftPrior.from_spread(SPREAD)
    poses = find_poses(reference, images, sampling, prior, grid=GlobalSearch(reference, sampling))
    return log_evidence(poses, prior, 1)


def summed(specimen, images: BandImages) -> Tensor:
    """The same integral by brute force: every rotation of a grid of 7.5 degrees, every shift in steps of a pixel."""
    grid = orientation_grid(3, C1)
    shifts = torch.cartesian_prod(*[torch.arange(-5.0, 5.1, dtype=torch.float64)] * 2)
    band = images.geometry.band
    sigma2 = float(images.sigma2[0])
    model = specimen.slices(band.kxy, grid)
    angle = 2 * math.pi / BOX * shifts @ band.kxy.double().T
    turned = torch.polar(torch.ones_like(angle), angle)
    # The density of the shift prior, and one rotation's share of all of them.
    weight = -0.5 * (shifts**2).sum(1) / SPREAD**2 - math.log(2 * math.pi * SPREAD**2) - math.log(2 * len(grid))
    result = []
    for y in images.scored.to(torch.complex128):
        parts = []
        for one in (y, y.conj()):  # the grid holds half of all rotations; its mates are the conjugate slices
            moved = one * (turned if one is y else turned.conj())
            parts.append((2 * (moved @ model.conj().T).real - (model.abs() ** 2).sum(1)) / sigma2 + weight[:, None])
        result.append(torch.logsumexp(torch.stack(parts).flatten(), 0))
    return torch.stack(result)


def test_the_evidence_of_a_particle_is_the_likelihood_ratio_summed_over_all_poses(scene):
    specimen, reference, _, images = scene(10, strength=5.0)
    ours, wanted = found(reference, images), summed(specimen, images)
    assert float(wanted.min()) > 3 and float(wanted.max() - wanted.min()) > 5  # weak and strong ones
    # Laplace's approximation of broad modes: within a nat on average, where one pose has a probability of exp(-17).
    assert abs(float((ours - wanted).mean())) < 1.0
    assert float((ours - wanted).abs().max()) < 2.5


def test_images_of_noise_have_little_evidence_and_their_mean_is_not_above_one(scene):
    """E[Z] = 1 under noise: the search may be as wide as it likes and finds no more than the prior allows it to."""
    _, reference, empty, filled = scene(200, strength=5.0)
    z = found(reference, empty, modes=20).exp()
    assert float(z.mean()) < 1 + 3 * float(z.std()) / math.sqrt(len(z))
    p = particle_probability(found(reference, empty), 0.5)
    assert float(p.mean()) < 0.05
    assert float((particle_probability(found(reference, filled), 0.5) > 0.9).double().mean()) > 0.95


def test_the_share_that_is_estimated_is_the_share_that_is_there(scene):
    _, reference, empty, filled = scene(200, strength=5.0)
    evidence = torch.cat([found(reference, filled), found(reference, empty)[:100]])
    share = 0.5
    for _ in range(20):
        share = float(particle_probability(evidence, share).mean())
    assert share == pytest.approx(2 / 3, abs=0.04)


def test_a_clean_set_keeps_nearly_all_of_its_mass(scene):
    _, reference, _, filled = scene(200, strength=5.0)
    evidence, share = found(reference, filled), 0.5
    for _ in range(20):
        share = float(particle_probability(evidence, share).mean())
    assert share > 0.98


def test_neither_share_is_ever_ruled_out():
    evidence = torch.tensor([-800.0, 0.0, 800.0], dtype=torch.float64)
    for share in (0.0, 1.0):
        p = particle_probability(evidence, share)
        assert p[0] < 1e-9 and p[2] > 1 - 1e-9 and 0 < float(p[1]) < 1
