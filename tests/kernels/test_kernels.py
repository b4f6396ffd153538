"""Slices: projection against scipy and analytic Gaussians, insertion as its adjoint, compiled against plain torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.gridding import trilinear_envelope
from halfmap.fourier.transform import half_volume, half_volume_extent
from halfmap.geometry.symmetry import symmetry_group
from halfmap.kernels import reference, reference_search, reference_volume
from halfmap.kernels.poses import PolishOptions, Samples, Starts

C1 = torch.eye(3, dtype=torch.float64)[None]
SINGLE, DOUBLE = (torch.float32, 3e-5), (torch.float64, 1e-12)
GEOMETRIES = [(16, 2, 7), (15, 2, 7), (16, 1, 7), (15, 1, 7), (12, 3, 4)]  # box, padding, limit


@pytest.fixture
def threads() -> Iterator[None]:
    before = kernels.thread_count()
    yield
    kernels.set_threads(before)


def real_noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def complex_noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.view_as_complex(real_noise(*shape, 2, seed=seed, dtype=dtype))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def shift_factor(band: Band, shifts: Tensor) -> Tensor:
    """exp(-2 pi i k.t / n) [b, k]."""
    angle = -2 * math.pi / band.box * shifts.double() @ band.kxy.double().T
    return torch.polar(torch.ones_like(angle), angle)


@pytest.mark.parametrize(("dtype", "tolerance"), [SINGLE, DOUBLE])
@pytest.mark.parametrize(("box", "padding", "limit"), GEOMETRIES)
def test_slices_are_scipys_linear_interpolation_of_the_whole_volume(
    scipy_slices, random_poses, box, padding, limit, dtype, tolerance
):
    volume, band = half_volume(real_noise(box, box, box, dtype=dtype), padding, limit), Band.to_shell(box, limit)
    # axis-parallel slices too, where a position falls onto grid points and onto the plane x = 0
    rotations = torch.cat([torch.from_numpy(Rotation.create_group("O").as_matrix()), random_poses(20)[0]])
    found = kernels.project_slices(volume, band.kxy.double() * padding, rotations)
    expected = scipy_slices(volume, band.kxy * padding, rotations)
    assert found.dtype == volume.dtype
    assert relative(found, expected) < tolerance


@pytest.mark.parametrize(("box", "padding", "limit"), GEOMETRIES)
def test_insertion_is_the_adjoint_of_the_projection_of_a_real_map(random_poses, box, padding, limit):
    # <P v, s> = <v, P^T s> in real inner products. P: transform of the map, freed of the envelope beforehand, slices,
    # mass and shift. P^T: insertion, unshifted; the inverse transform is a sum over both Friedel halves of the volume
    # where the slices have one coefficient of each pair, so fold the plane x = 0 and count half of it; voxels
    # beyond the box are cropped.
    v, band = real_noise(box, box, box, seed=1), Band.to_shell(box, limit)
    rotations, shifts = random_poses(6)
    s, mass = complex_noise(6, len(band), seed=2), torch.rand(6, dtype=torch.float64)
    coords = band.kxy.double() * padding

    slices = kernels.project_slices(half_volume(v, padding, limit), coords, rotations)
    left = float((mass[:, None] * slices * shift_factor(band, shifts) * s.conj()).real.sum())

    m = half_volume_extent(padding, limit)
    sums = torch.zeros(2 * m + 1, 2 * m + 1, m + 1, 3, dtype=torch.float64)
    samples = Samples(torch.arange(6), rotations, shifts, mass)
    kernels.insert_slices_(sums, s, torch.ones(6, len(band)), coords, band.kxy, box, samples)
    backprojected = half_the_sum_over_friedel_halves(torch.view_as_complex(sums[..., :2].contiguous()), box, padding)
    right = float((v * backprojected).sum())
    scale = float(slices.norm() * (mass[:, None] * s).norm())
    assert abs(left - right) < 1e-12 * scale
    assert abs(left) > 1e-4 * scale  # not zero on both sides


def half_the_sum_over_friedel_halves(sums: Tensor, box: int, padding: int) -> Tensor:
    """Real map [z, y, x]: what numpy's Fourier sums of the padded grid make of the stored half, over the envelope."""
    m, size = sums.shape[-1] - 1, padding * box
    q = np.arange(-m, m + 1)
    known = np.abs(q) * 2 <= size  # a half volume is zero beyond the padded grid
    x = np.arange(box) - box // 2
    wave = np.exp(2j * np.pi * np.outer(x, q) / size) * known
    # Re of the stored half is half of the sum over it and over its conjugate mirror image
    real = np.einsum("az,by,cx,zyx->abc", wave, wave, wave[:, m:], sums.numpy(), optimize=True).real
    envelope = trilinear_envelope(box, padding).numpy()
    return torch.from_numpy(real / (envelope[:, None, None] * envelope[:, None] * envelope))


@pytest.mark.parametrize(("dtype", "tolerance"), [SINGLE, DOUBLE])
def test_the_compiled_projection_is_the_plain_one(random_poses, dtype, tolerance):
    volume, band = half_volume(real_noise(16, 16, 16, dtype=dtype), 2, 7), Band.to_shell(16, 7)
    coords, rotations = (band.kxy * 2).to(dtype), random_poses(30)[0].to(dtype)
    found = kernels.project_slices(volume, coords, rotations)
    assert relative(found, reference.project_slices(volume, coords, rotations[:, :2])) < tolerance


@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
@pytest.mark.parametrize(("dtype", "tolerance"), [SINGLE, DOUBLE])
def test_the_compiled_insertion_of_shifted_and_weighted_samples_is_the_plain_one(
    random_poses, dtype, tolerance, kernel
):
    band, m = Band.to_shell(16, 7), half_volume_extent(2, 7)
    values, weights = complex_noise(5, len(band), dtype=dtype), torch.rand(5, len(band), dtype=dtype)
    image = torch.tensor([0, 0, 1, 4, 3, 3, 3, 2])
    rotations, shifts = random_poses(8)
    mass = torch.linspace(0.1, 1.0, 8, dtype=dtype)
    found = torch.zeros(2 * m + 1, 2 * m + 1, m + 1, 3, dtype=dtype)
    expected = torch.zeros_like(found)
    coords = band.kxy.double() * 2
    samples = Samples(image, rotations, shifts, mass)
    kernels.insert_slices_(found, values, weights, coords, band.kxy, 16, samples, kernel)
    unshifted = mass[:, None] * values[image] * shift_factor(band, shifts).conj()
    insert = reference.insert_gaussians_ if kernel == "gaussian" else reference.insert_slices_
    insert(expected, unshifted, mass[:, None] * weights[image], coords, rotations[:, :2])
    assert relative(found[..., :2], expected[..., :2]) < tolerance
    assert relative(found[..., 2], expected[..., 2]) < tolerance


def test_gaussian_insertion_gives_every_grid_point_nearby_its_share_of_every_sample(random_poses):
    """Against a loop over the samples and their Friedel mates on the whole cube, in numpy."""
    band, m = Band.to_shell(16, 5), half_volume_extent(2, 5)
    values, weights = complex_noise(4, len(band)), torch.rand(4, len(band), dtype=torch.float64)
    # the first slice meets the plane x = 0
    rotations = torch.cat([torch.eye(3, dtype=torch.float64)[None], random_poses(3)[0]])
    sums = torch.zeros(2 * m + 1, 2 * m + 1, m + 1, 3, dtype=torch.float64)
    samples = Samples(torch.arange(4), rotations, torch.zeros(4, 2), torch.ones(4, dtype=torch.float64))
    kernels.insert_slices_(sums, values, weights, band.kxy.double() * 2, band.kxy, 16, samples, "gaussian")
    found = sums.numpy()
    plane = found[:, :, 0].copy()
    found[:, :, 0] += plane[::-1, ::-1] * [1, -1, 1]
    cube, weight = np.zeros((2 * m + 1,) * 3, complex), np.zeros((2 * m + 1,) * 3)
    width = math.sqrt(2 * math.pi) * math.erf(1.5 / math.sqrt(2))
    for j in range(4):
        for k, (kx, ky) in enumerate((2 * band.kxy).tolist()):
            q = (kx * rotations[j, 0] + ky * rotations[j, 1]).numpy()
            for place, value in ((q, values[j, k].item()), (-q, values[j, k].conj().item())):
                near = [np.array([i for i in range(-m, m + 1) if abs(i - c) < 1.5]) for c in place[::-1]]
                profiles = (np.exp(-0.5 * (i - c) ** 2) / width for i, c in zip(near, place[::-1], strict=True))
                share, at = np.einsum("z,y,x->zyx", *profiles), np.ix_(*(i + m for i in near))
                cube[at] += share * value
                weight[at] += share * float(weights[j, k])
    assert np.allclose(found[..., 2], weight[:, :, m:], atol=1e-12)
    assert np.allclose(found[..., 0] + 1j * found[..., 1], cube[:, :, m:], atol=1e-12)
    assert weight.sum() == pytest.approx(2 * float(weights.sum()), rel=0.05)


def test_the_compiled_choice_of_the_best_shift_is_the_plain_one():
    real, imaginary = (real_noise(4, 7, 50, seed=seed, dtype=torch.float32) for seed in (1, 2))
    norm, prior = torch.rand(4, 50), -torch.rand(7)
    found = kernels.best_shift(real, imaginary, norm, prior)
    plain = reference_search.best_shift(real, imaginary, norm, prior)
    assert torch.equal(found[1], plain[1])
    assert torch.allclose(found[0], plain[0], atol=1e-6)


def test_distinct_peaks_are_the_best_grid_points_farther_apart_than_the_angle():
    random = np.random.default_rng(0)
    grid = Rotation.random(400, rng=random)
    # every candidate has a near twin, so that there is something to leave out
    twins = Rotation.concatenate([grid, Rotation.from_rotvec(random.normal(0, 0.05, (400, 3))) * grid])
    score, order = torch.from_numpy(random.normal(0, 3.0, (5, 800))).float().sort(dim=1, descending=True)
    chosen = kernels.distinct_peaks(score, order, torch.from_numpy(twins.as_matrix()), C1, math.radians(40), 12, 5.0)
    for b in range(5):
        kept: list[int] = []
        for i, rotation in enumerate(order[b].tolist()):
            apart = all((twins[rotation] * twins[int(order[b, j])].inv()).magnitude() > math.radians(40) for j in kept)
            if score[b, i] >= score[b, 0] - 5.0 and apart and len(kept) < 12:
                kept.append(i)
        assert [i for i in chosen[b].tolist() if i >= 0] == kept


def test_every_kernel_gives_the_same_bits_for_any_number_of_threads(random_poses, threads):
    box = 33
    band, m = Band.to_shell(box, 14), half_volume_extent(2, 14)
    volume = half_volume(real_noise(box, box, box, dtype=torch.float32), 2, 14)
    values, weights = complex_noise(40, len(band), dtype=torch.float32), torch.rand(40, len(band))
    rotations, shifts = random_poses(40)
    coords, image, mass = band.kxy.double() * 2, torch.arange(40), torch.rand(40)

    def everything() -> list[Tensor]:
        sums = torch.zeros(2 * m + 1, 2 * m + 1, m + 1, 3)
        samples = Samples(image, rotations, shifts, mass)
        kernels.insert_slices_(sums, values, weights, coords, band.kxy, box, samples)
        gaussians = torch.zeros_like(sums)
        kernels.insert_slices_(gaussians, values, weights, coords, band.kxy, box, samples, "gaussian")
        starts, options = Starts(image, rotations, shifts), PolishOptions(box, 3, 0.1, 1e-3, 0.2)
        poses = vars(kernels.refine_poses(volume, coords, band.kxy, values, weights, starts, options)).values()
        slices = kernels.project_slices(volume, coords, rotations)
        folded = sums.clone()
        folded[:, :, 0] += sums[:, :, 0].flip(0, 1) * torch.tensor([1.0, -1.0, 1.0])
        mates = [kernels.symmetrise_(folded.clone(), symmetry_group(name), 28.0, 2) for name in ("C3", "T", "O", "I1")]
        return [sums, gaussians, slices, *mates, *poses]

    results = []
    for count in (1, 2, 3, 7):
        kernels.set_threads(count)
        results.append(everything())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("box", "padding", "limit"), GEOMETRIES)
def test_the_inserted_weight_is_all_that_was_given(random_poses, box, padding, limit):
    # The eight corner weights of a sample add up to one, also where Friedel's law turns it over.
    band, m = Band.to_shell(box, limit), half_volume_extent(padding, limit)
    sums = torch.zeros(2 * m + 1, 2 * m + 1, m + 1, 3, dtype=torch.float64)
    rotations, shifts = random_poses(6)
    weights, mass = torch.rand(6, len(band), dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    samples = Samples(torch.arange(6), rotations, shifts, mass)
    kernels.insert_slices_(sums, complex_noise(6, len(band)), weights, band.kxy * padding, band.kxy, box, samples)
    assert float(sums[..., 2].sum()) == pytest.approx(float((mass[:, None] * weights).sum()), rel=1e-12)


@pytest.mark.parametrize("box", [32, 33])
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), (4.0, -2.5, 1.0), (-3.0, 5.0, -4.0)])
def test_a_gaussian_projects_onto_the_analytic_gaussian_in_relions_frame(box, offset):
    # A = from_euler("ZYZ").T takes the reference to the image: a blob at x projects to the first two rows of A x.
    width, limit, padding = 1.5, box // 2 - 2, 2
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    one = [torch.exp(-((axis - c) ** 2) / (2 * width**2)) for c in offset]
    volume = half_volume(one[2][:, None, None] * one[1][:, None] * one[0], padding, limit)
    fixed = np.array([[0, 0, 0], [30, 0, 0], [0, 50, 0], [0, 0, -70], [12, 65, -110], [55, 180, 20]])
    angles = np.concatenate([fixed, np.random.default_rng(0).uniform(-180, 180, (60, 3))])
    A = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    band = Band.to_shell(box, limit)
    found = kernels.project_slices(volume, band.kxy.double() * padding, torch.from_numpy(A.copy())).numpy()

    k = band.kxy.numpy()
    centre = (A @ np.array(offset))[:, :2]
    decay = np.exp(-2 * (np.pi * width / box) ** 2 * (k**2).sum(1))
    expected = (2 * np.pi * width**2) ** 1.5 * decay * np.exp(-2j * np.pi / box * centre @ k.T)
    # Along an axis, linear interpolation of the wave of a point at x passes sinc^2(x / 2n) of it on average, all of it
    # on a grid point: after division by the envelope the error is at most 1 / sinc^2 - 1, (pi x / 2n)^2 / 3.
    square = [c**2 + width**2 for c in offset]
    worst = sum((np.pi / (padding * box)) ** 2 / 3 * x for x in square)
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1.1 * worst
    # grid axes apart, nothing is gained or turned on average
    factor = np.vdot(expected[6:], found[6:]) / np.vdot(expected[6:], expected[6:])
    assert abs(factor - 1) < 0.15 * worst


@pytest.mark.parametrize("padding", [1, 2])
def test_a_shift_of_the_images_is_undone_by_insertion_and_applied_by_the_model(blobs, random_poses, padding):
    # Twelve images of one particle, each moved by its own t, inserted with their t, equal unmoved ones without.
    specimen, band = blobs(24), Band.to_shell(24, 9)
    rotations, shifts = random_poses(12, spread=3.0)
    m = half_volume_extent(padding, 9)
    moved, still = (torch.zeros(2 * m + 1, 2 * m + 1, m + 1, 3, dtype=torch.float64) for _ in range(2))
    weights, mass, image = torch.ones(12, len(band)), torch.ones(12), torch.arange(12)
    coords = band.kxy.double() * padding
    for sums, t in ((moved, shifts), (still, torch.zeros_like(shifts))):
        values = specimen.images(band.kxy, rotations, t)
        kernels.insert_slices_(sums, values, weights, coords, band.kxy, 24, Samples(image, rotations, t, mass))
    assert relative(moved, still) < 1e-12


@pytest.mark.parametrize("shape", [(60,), (3, 4, 5), (0, 7)])
def test_sums_by_index_are_numpys(shape):
    generator = torch.Generator().manual_seed(3)
    values, index = torch.randn(shape, generator=generator), torch.randint(5, shape, generator=generator)
    expected = np.bincount(index.numpy().ravel(), values.double().numpy().ravel(), 6)
    for sums_at in (kernels.sums_at, reference_volume.sums_at):
        np.testing.assert_allclose(sums_at(index, values, 6).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_volumes_are_the_same_made_of_all_planes_at_once_or_of_two_at_a_time(monkeypatch):
    m, generator = 6, torch.Generator().manual_seed(1)
    first, second = (torch.rand(2 * m + 1, 2 * m + 1, m + 1, 3, generator=generator) for _ in range(2))
    floor = torch.linspace(0.5, 0.1, 4, dtype=torch.float64)
    maps = [torch.fft.rfftn(torch.randn(11, 11, 11, generator=generator)) for _ in range(2)]
    gain = torch.linspace(1, 0, 200)

    def made() -> list[Tensor]:
        return [*reference_volume.weight_by_shell(first, 2, 4), reference_volume.divided(first, floor, floor, 2),
                reference_volume.inverse_weight_by_shell(first, floor, 2),
                *(reference_volume.ratio_difference(first, second, floor, 2, 5, fold) for fold in (True, False)),
                reference_volume.shell_products(*maps, torch.ones(6)),
                reference.combined_transforms(*maps, 8, gain, gain)]

    whole = made()
    monkeypatch.setattr(reference_volume, "POINTS", 2 * first[0, ..., 0].numel())
    monkeypatch.setattr(reference, "CHUNK", 128)
    for one, other in zip(made(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
