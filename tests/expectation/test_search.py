"""Global, local and fixed search: scores are likelihoods, planted poses and grey scales come back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap.expectation.posterior import Poses
from halfmap.expectation.priors import ShiftPrior
from halfmap.expectation.score import (
    ReferenceSlices,
    SliceGrid,
    best_points,
    grid_rotation,
    profile_scale,
    score_grid,
    shift_phases,
)
from halfmap.expectation.search import GlobalSearch, Reference, Sampling, find_poses
from halfmap.fourier.band import Band
from halfmap.fourier.transform import half_volume, image_ifft
from halfmap.geometry.orientation_grid import angular_step, orientation_grid
from halfmap.geometry.shift_grid import shift_grid
from halfmap.imaging.ctf import Defocus, ctf, odd_aberration, reference_coordinates
from halfmap.imaging.forward import BandImages, ImagingGeometry, band_images
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix, OpticsGroup
from halfmap.kernels import reference_search

BOX, PIXEL, PADDING = 32, 2.0, 2
C1 = torch.eye(3, dtype=torch.float64)[None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    parts = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.view_as_complex(parts) / math.sqrt(2)


def defocus(count: int) -> Defocus:
    u = torch.linspace(6000, 20000, count, dtype=torch.float64)
    zero = torch.zeros_like(u)
    return Defocus(u, u - 500, zero + 0.4, zero, zero, zero + 1)


def one_mode(rotations: Tensor, shifts: Tensor) -> Poses:
    gain = torch.zeros(len(shifts), 1, dtype=torch.float64)
    return Poses(rotations[:, None], shifts[:, None], gain, gain.new_zeros(len(shifts), 1, 5, 5))


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """Degrees, by scipy."""
    relative = Rotation.from_matrix((a.double() @ b.double().transpose(-1, -2)).reshape(-1, 3, 3).numpy())
    return torch.rad2deg(torch.from_numpy(relative.magnitude()))


def small_problem(blobs, images: int, strength: float = 5.0):
    """Reference slices of a grid, and whitened images of grid poses with shifts of the shift grid."""
    band, specimen = Band.to_shell(BOX, 5), blobs(BOX)
    volume = half_volume(specimen.map().float(), PADDING, 5)
    grid = orientation_grid(1, C1)
    slices = ReferenceSlices.build(volume, band.kxy.double(), PADDING, grid)
    shifts = shift_grid(2.0, 1.0)
    phases = shift_phases(band.kxy, shifts, BOX)
    radius = band.kxy.double().norm(dim=1)
    c = torch.sin(torch.linspace(0.04, 0.12, images, dtype=torch.float64)[:, None] * radius**2 + 0.4)
    c = c * strength / float((torch.complex(slices.real, slices.imag).abs() ** 2).sum(1).mean().sqrt())
    generator = torch.Generator().manual_seed(1)
    rotation = torch.randint(2 * len(grid), (images,), generator=generator)
    shift = torch.randint(len(shifts), (images,), generator=generator)
    return band, volume, slices, shifts, phases, c, rotation, shift


def test_flat_indices_beyond_the_grid_are_its_rotations_turned_by_half_a_turn_in_plane(blobs):
    grid = orientation_grid(1, C1)
    every = grid_rotation(grid, torch.arange(2 * len(grid)))
    half_turn = torch.from_numpy(Rotation.from_euler("Z", 180, degrees=True).as_matrix())
    torch.testing.assert_close(every[: len(grid)], grid, rtol=0, atol=0)
    torch.testing.assert_close(every[len(grid) :], half_turn @ grid, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at_once", [(1024, 1 << 20), (100, 4000)])
def test_scores_are_the_brute_force_likelihood_of_every_rotation_and_shift(blobs, scipy_slices, monkeypatch, at_once):
    monkeypatch.setattr(reference_search, "REFERENCES_AT_ONCE", at_once[0])
    monkeypatch.setattr(reference_search, "SCORES_AT_ONCE", at_once[1])
    band, volume, slices, shifts, phases, c, rotation, shift = small_problem(blobs, 7)
    grid = grid_rotation(slices.rotations, torch.arange(2 * len(slices.rotations)))
    references = scipy_slices(volume, band.kxy * PADDING, grid)
    angle = -2 * math.pi / BOX * shifts @ band.kxy.double().T
    moved = torch.polar(torch.ones_like(angle), angle)  # [t, k]
    y = c * references[rotation] * moved[shift] + noise(7, len(band))
    prior = ShiftPrior(0.3)

    expected = torch.empty(7, len(shifts), len(grid), dtype=torch.float64)
    for b in range(7):
        models = c[b] * moved[:, None] * references
        expected[b] = (y[b].abs() ** 2).sum() - ((y[b] - models).abs() ** 2).sum(-1)
        expected[b] -= 0.5 * 0.3 * (shifts**2).sum(1)[:, None]
    found, chosen = score_grid(y.to(torch.complex64), c.float(), slices, phases, prior.log_density(shifts))
    best = expected.amax(1)
    torch.testing.assert_close(found.double(), best, rtol=1e-4, atol=2e-3)
    # the shift named is one that has this score
    value = expected.gather(1, chosen.long()[:, None])[:, 0]
    torch.testing.assert_close(value, best, rtol=1e-4, atol=2e-3)


def reference_grid(blobs, order: int = 2):
    """A half volume, coordinates of a small band, and a grid of more rotations than a block here."""
    band = Band.to_shell(BOX, 5)
    return half_volume(blobs(BOX).map().float(), PADDING, 5), band, orientation_grid(order, C1)


def test_the_best_points_are_the_first_of_all_scores_however_the_grid_is_cut_and_held(blobs, monkeypatch):
    volume, band, grid = reference_grid(blobs)
    grid = torch.cat([grid, grid[::3]])  # rotations that stand in the grid twice score the same
    shifts = shift_grid(2.0, 1.0)
    phases, prior = shift_phases(band.kxy, shifts, BOX), ShiftPrior(0.3).log_density(shifts)
    c = torch.rand(7, len(band), generator=torch.Generator().manual_seed(2)) * 1e-3
    y = noise(7, len(band)).to(torch.complex64)
    whole = ReferenceSlices.build(volume, band.kxy.double(), PADDING, grid)
    prior = prior - score_grid(y, c, whole, phases, prior)[0].topk(150, dim=1).values[:, -1].median()
    score, shift = (t.numpy() for t in score_grid(y, c, whole, phases, prior))
    order = np.argsort(-score, axis=1, kind="stable")[:, :300]
    best = np.take_along_axis(score, order, 1)
    assert (np.diff(best) == 0).sum() > 100 and best.min() < 0 < best.max(), "equal ones, and of both signs"
    for block in (1024, 2048, 8192):
        monkeypatch.setattr("halfmap.expectation.score.BLOCK", block)
        for hold in (True, False):
            slices = SliceGrid(volume, band.kxy.double(), PADDING, grid, hold)
            assert len(list(slices.blocks())) == math.ceil(len(grid) / block)
            found = best_points(y, c, slices, phases, prior, 300)
            assert np.array_equal(found.index.numpy(), order)
            assert np.array_equal(found.score.numpy(), best)
            assert np.array_equal(found.shift.numpy(), np.take_along_axis(shift, order, 1))
            one, other = (profile_scale(y, c, s, phases) for s in (slices.blocks(), [whole]))
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_planted_grey_scale_is_recovered_exactly_without_noise(blobs, scipy_slices):
    band, volume, slices, _, phases, c, rotation, shift = small_problem(blobs, 12)
    grid = grid_rotation(slices.rotations, torch.arange(2 * len(slices.rotations)))
    y = 0.37 * c * scipy_slices(volume, band.kxy * PADDING, grid[rotation]) * phases[shift].conj()
    cross, norm = profile_scale(y.to(torch.complex64), c.float(), [slices], phases)
    torch.testing.assert_close(cross / norm, torch.full((12,), 0.37), rtol=1e-4, atol=0)


def test_a_grey_scale_from_noisy_images_is_biased_upward_by_the_choice_among_references_only(blobs, scipy_slices):
    # The best of N references beats the true one by the largest of N half chi-squared values at most, about log N.
    scale, count = 0.8, 200
    band, volume, slices, shifts, phases, c, rotation, shift = small_problem(blobs, count, strength=10.0)
    grid = grid_rotation(slices.rotations, torch.arange(2 * len(slices.rotations)))
    model = c * scipy_slices(volume, band.kxy * PADDING, grid[rotation]) * phases[shift].conj()
    y = scale * model + noise(count, len(band))
    cross, norm = profile_scale(y.to(torch.complex64), c.float(), [slices], phases)
    true_norm = float((model.abs() ** 2).sum())
    error = math.sqrt(0.5 / true_norm)
    excess = math.log(len(grid) * len(shifts)) * count / true_norm
    found = float(cross.sum() / norm.sum())
    assert scale - 3 * error < found < math.sqrt(scale**2 + excess) + 3 * error
    assert found == pytest.approx(scale, rel=0.1)


def planted(blobs, random_poses, count: int, strength: float, limit: int = 12):
    """Images of random poses through CTFs under coloured noise, and the reference."""
    specimen = blobs(BOX)
    optics = OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX)
    geometry = ImagingGeometry.build(optics, BOX, PIXEL, limit)
    band = geometry.band
    rotations, shifts = random_poses(count, spread=1.2)
    transfer = ctf(band.kxy, optics, defocus(count))
    sigma2 = 1.0 + 20.0 / band.shell.double()
    clean = transfer * specimen.images(band.kxy, rotations, shifts)
    sigma2 = sigma2 * float((clean.abs() ** 2 / sigma2).sum(1).mean()) / strength**2
    y = (clean + noise(count, len(band)) * sigma2.sqrt()).to(torch.complex64)
    images = BandImages(geometry, y, y, transfer, sigma2.float(), torch.ones(count))
    reference = Reference(half_volume(specimen.map().float(), PADDING, limit), PADDING)
    return reference, images, rotations, shifts


def sampling(search: str, limit: int = 12) -> Sampling:
    return Sampling(search, limit, 7, math.radians(angular_step(2)), orientation_grid(2, C1), shift_grid(5.0, 1.0))


@pytest.mark.parametrize("strength", [12.0, 25.0, 60.0])
def test_a_global_search_misses_no_pose_that_explains_the_image_better(blobs, random_poses, strength):
    # Weak and strong images: what a pose loses between grid points grows with the signal, the margin must too.
    count = 200
    reference, images, rotations, shifts = planted(blobs, random_poses, count, strength)
    prior, s = ShiftPrior.from_spread(1.2), sampling("global")
    found = find_poses(reference, images, s, prior, grid=GlobalSearch(reference, s))
    near_truth = find_poses(reference, images, sampling("local"), prior, one_mode(rotations, shifts))
    assert float((found.gain[:, 0] > near_truth.gain[:, 0] - 1.0).double().mean()) >= 0.995


def test_a_global_search_finds_planted_poses_from_nothing_and_knows_how_far_off_they_are(blobs, random_poses):
    reference, images, rotations, shifts = planted(blobs, random_poses, 200, 60.0)
    s = sampling("global")
    found = find_poses(reference, images, s, ShiftPrior.from_spread(1.2), grid=GlobalSearch(reference, s))
    right = angle_between(found.rotations[:, 0], rotations) < 6
    assert float(right.double().mean()) > 0.99
    w = torch.from_numpy(Rotation.from_matrix((found.rotations[:, 0] @ rotations.mT).numpy()).as_rotvec())
    error = torch.cat([w, found.shifts[:, 0] - shifts], dim=1)[right]
    chi2 = torch.einsum("bi,bij,bj->b", error, found.precision[:, 0][right], error)
    assert float(chi2.mean()) == pytest.approx(5.0, abs=1.0)


def test_images_that_are_not_searched_everywhere_keep_to_their_modes_and_the_others_find_planted_poses(
    blobs, random_poses
):
    count = 60
    reference, images, rotations, shifts = planted(blobs, random_poses, count, 60.0)
    wrong = torch.from_numpy(Rotation.random(count, rng=3).as_matrix())
    everywhere = torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.5
    s = replace(sampling("global"), centred=True)
    found = find_poses(reference, images, s, ShiftPrior(), one_mode(wrong, shifts.round()), GlobalSearch(reference, s),
                       everywhere=everywhere)
    right = angle_between(found.rotations[:, 0], rotations) < 6
    assert float(right[everywhere].double().mean()) > 0.95
    kept = find_poses(reference, images, sampling("local"), ShiftPrior(), one_mode(wrong, shifts.round()))
    assert float(right[~everywhere].double().mean()) < 0.3
    assert torch.equal(found.rotations[~everywhere, 0], kept.rotations[~everywhere, 0])


@pytest.mark.parametrize("centred", [False, True])
def test_a_search_that_has_no_room_for_slices_finds_the_same_to_the_bit(blobs, random_poses, monkeypatch, centred):
    monkeypatch.setattr("halfmap.expectation.score.BLOCK", 1024)
    reference, images, rotations, shifts = planted(blobs, random_poses, 30, 30.0)
    s, prior = replace(sampling("global"), centred=centred), ShiftPrior.from_spread(1.2)
    known = one_mode(rotations, shifts.round())
    with_room, without = (GlobalSearch(reference, s, room) for room in (None, 0))
    one, other = (find_poses(reference, images, s, prior, known, grid) for grid in (with_room, without))
    for name in ("rotations", "shifts", "gain", "precision"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(with_room.grey_scale(images).cross, without.grey_scale(images).cross)


@pytest.mark.parametrize("pixel", [1.0, 2.0, 3.2])
def test_shifts_reach_as_far_in_angstrom_whatever_the_pixels_of_the_images(blobs, random_poses, pixel):
    """Images of one box length, sampled otherwise than the reference; particles 8 A off, and nothing to start from."""
    specimen, box, limit, count = blobs(BOX), round(BOX * PIXEL / pixel), 9, 12
    geometry = ImagingGeometry.build(OpticsGroup("o", 300.0, 2.7, 0.1, pixel, box), BOX, PIXEL, limit)
    assert geometry.ratio == 1.0, "a coefficient of an image is one of the reference"
    rotations, _ = random_poses(count)
    angle = torch.linspace(0, 2 * math.pi, count, dtype=torch.float64)
    off = 8.0 * torch.stack([angle.cos(), angle.sin()], dim=1)  # A
    clean = specimen.images(geometry.band.kxy, rotations, off / PIXEL)
    y = clean.to(torch.complex64)
    sigma2 = torch.full((len(geometry.band),), float((clean.abs() ** 2).sum(1).mean()) / 40.0**2)
    images = BandImages(geometry, y, y, torch.ones(y.shape), sigma2, torch.ones(count))
    reference = Reference(half_volume(specimen.map().float(), PADDING, limit), PADDING)
    s = replace(sampling("global", limit), shifts=shift_grid(8.4 / PIXEL, 1.0))
    starts = GlobalSearch(reference, s).candidates(images, ShiftPrior())
    first = [int((starts.image == b).nonzero()[0, 0]) for b in range(count)]
    found = starts.shifts[first] * pixel
    assert float((found - off).norm(dim=1).max()) < 1.5 * PIXEL
    assert float(starts.shifts.norm(dim=1).max()) * pixel == pytest.approx(8.0, abs=0.5)


def test_a_local_search_polishes_the_modes_of_the_last_iteration_and_prefers_the_true_one(blobs, random_poses):
    count = 40
    reference, images, rotations, shifts = planted(blobs, random_poses, count, 60.0)
    wrong = torch.from_numpy(Rotation.random(count, rng=3).as_matrix())
    w = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(2)).double())
    near = torch.from_numpy(Rotation.from_rotvec(0.06 * w.numpy()).as_matrix()) @ rotations
    known = Poses(torch.stack([wrong, near], dim=1), (shifts + 0.7)[:, None].expand(-1, 2, -1).contiguous(),
                  torch.zeros(count, 2).double(), torch.zeros(count, 2, 5, 5).double())  # fmt: skip
    found = find_poses(reference, images, sampling("local"), ShiftPrior(), known)
    assert float((angle_between(found.rotations[:, 0], rotations) < 6).double().mean()) > 0.95
    assert float(found.weight[:, 0].mean()) > 0.95


def test_a_fixed_search_leaves_the_poses_and_gives_their_likelihood(blobs, random_poses):
    reference, images, rotations, shifts = planted(blobs, random_poses, 10, 25.0)
    images = replace(images, scale=torch.linspace(0.5, 1.5, 10))
    found = find_poses(reference, images, sampling("fixed", limit=9), ShiftPrior(), one_mode(rotations, shifts))
    assert torch.equal(found.rotations[:, 0], rotations)
    assert torch.equal(found.shifts[:, 0], shifts)
    k = images.geometry.count(9)
    assert k == len(Band.to_shell(BOX, 9))
    specimen, band = blobs(BOX), images.geometry.band
    model = images.scale[:, None] * images.ctf[:, :k] * specimen.images(band.kxy[:k], rotations, shifts)
    y, sigma2 = images.scored[:, :k], images.sigma2[:k]
    expected = ((y.abs() ** 2 - (y - model).abs() ** 2) / sigma2).sum(1)
    # the analytic model: linear interpolation explains 0.995 of it
    torch.testing.assert_close(found.gain[:, 0], expected.double(), rtol=0.02, atol=1.0)


def test_poses_are_found_through_magnification_beam_tilt_and_another_pixel_size(blobs, random_poses):
    # Images of 36 pixels of 1.9 A of a reference of 32 voxels of 2 A, stretched by 3 %, with coma.
    count, limit = 30, 11
    specimen = blobs(BOX)
    optics = OpticsGroup("o", 300.0, 2.7, 0.1, 1.9, 36, beam_tilt=BeamTilt(12.0, -8.0),
                         magnification=MagnificationMatrix(1.03, 0.01, -0.01, 0.98))
    whole = Band.to_shell(36, 17)
    rotations, shifts = random_poses(count)
    coords = reference_coordinates(whole.kxy, optics, BOX, PIXEL)
    angle = -2 * math.pi / 36 * shifts @ whole.kxy.double().T
    model = torch.polar(torch.ones_like(angle), angle) * specimen.slices(coords, rotations)
    model = model * ctf(whole.kxy, optics, defocus(count)) * odd_aberration(whole.kxy, optics)
    plane = torch.zeros(count, 36, 19, dtype=torch.complex128)
    plane[:, whole.kxy[:, 1] % 36, whole.kxy[:, 0]] = model
    column = whole.kxy[:, 0] == 0
    plane[:, -whole.kxy[column, 1] % 36, 0] = model[:, column].conj()
    images = image_ifft(plane, 36)
    sigma = float(images.std()) * 1.5
    images = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    # the mask follows the particle; here it is open everywhere, so that both copies are the same
    centres = shifts.round().long()
    geometry = ImagingGeometry.build(optics, BOX, PIXEL, limit)
    noise_power = torch.full((19,), (36 * sigma) ** 2)
    batch = band_images(images.float(), torch.ones(1, 36, 36), geometry, defocus(count),
                        noise_power, torch.ones(count))  # fmt: skip
    assert torch.equal(batch.scored, batch.whole)
    reference = Reference(half_volume(specimen.map().float(), PADDING, limit), PADDING)
    w = torch.from_numpy(Rotation.from_rotvec([[0.03, -0.02, 0.04]]).as_matrix())
    known = one_mode(w @ rotations, centres.double())
    found = find_poses(reference, batch, sampling("local", limit), ShiftPrior(), known)
    v = torch.from_numpy(Rotation.from_matrix((found.rotations[:, 0] @ rotations.mT).numpy()).as_rotvec())
    error = torch.cat([v, found.shifts[:, 0] - shifts], dim=1)
    chi2 = torch.einsum("bi,bij,bj->b", error, found.precision[:, 0], error)
    assert float(chi2.mean()) == pytest.approx(5.0, abs=1.5)
    # no systematic turn or shift is left by a wrong sign
    sd = torch.linalg.inv(found.precision[:, 0]).diagonal(dim1=1, dim2=2).sqrt()
    assert float((error / sd).mean(0).abs().max()) < 4 / math.sqrt(count)
