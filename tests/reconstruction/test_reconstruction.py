"""Reconstruction: a map comes back from its projections with its grey values and symmetry, and statistics add."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.band import Band
from halfmap.fourier.shells import frequency_length
from halfmap.fourier.transform import resample_volume, volume_fft
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.evening import Evening
from halfmap.kernels.poses import Samples
from halfmap.reconstruction.inverse import reconstruct, reconstructed_difference
from halfmap.reconstruction.statistics import Backprojection

C1 = torch.eye(3, dtype=torch.float64)[None]
BOX = 24


def grid_frequencies(box: int) -> Tensor:
    """(qx, qy, qz) of numpy's transform, [z, y, x, 3]."""
    k = torch.from_numpy(np.fft.fftfreq(box, 1 / box))
    qz, qy, qx = torch.meshgrid(k, k, k, indexing="ij")
    return torch.stack([qx, qy, qz], dim=-1)


def truth_up_to(specimen, limit: int) -> Tensor:
    """The blobs' map [z, y, x] with shells up to the limit, from their analytic transform."""
    q = grid_frequencies(specimen.box)
    V = torch.where(q.norm(dim=-1) <= limit + 0.5, specimen.transform(q), 0)
    return torch.from_numpy(np.fft.fftshift(np.fft.ifftn(V.numpy()).real)).contiguous()


def shell_products(a: Tensor, b: Tensor, box: int) -> np.ndarray:
    """Re sum conj(A) B over each shell."""
    A, B = (np.fft.fftn(np.fft.ifftshift(m.double().numpy())) for m in (a, b))
    shell = np.rint(grid_frequencies(box).norm(dim=-1).numpy()).astype(int).ravel()
    return np.bincount(shell, weights=(A.conj() * B).real.ravel())


def backprojection(box: int, padding: int, limit: int, dtype: torch.dtype = torch.float64) -> Backprojection:
    return Backprojection.zeros(box, padding, limit, torch.zeros((), dtype=dtype))


def insert(statistics: Backprojection, band: Band, values: Tensor, weights: Tensor, poses, mass: Tensor | None = None):
    count = len(values)
    mass = torch.ones(count) if mass is None else mass
    samples = Samples(torch.arange(count), *poses, mass)
    real = statistics.sums.dtype
    complex_type = torch.complex64 if real == torch.float32 else torch.complex128
    statistics.insert_(values.to(complex_type), weights.to(real), band.kxy.double(), band, samples)


def transfer(band: Band, count: int) -> Tensor:
    optics = OpticsGroup("o", 300.0, 2.7, 0.1, 1.5, band.box)
    u = torch.linspace(6000, 25000, count, dtype=torch.float64)
    zero = torch.zeros_like(u)
    return ctf(band.kxy, optics, Defocus(u, u - 800, zero + 0.4, zero, zero, zero + 1)).double()


@pytest.mark.parametrize(("box", "padding"), [(32, 2), (33, 2), (32, 1), (33, 1)])
def test_many_projections_through_ctfs_give_back_the_map_and_its_grey_scale(blobs, random_poses, box, padding):
    count, specimen = 2500, blobs(box, width=0.8)  # sharp: a tenth of the amplitude is left at Nyquist
    band = Band.to_shell(box, box)
    rotations, shifts = random_poses(count, spread=2.0)
    c = transfer(band, count)
    y = c * specimen.images(band.kxy, rotations, shifts)
    statistics = backprojection(box, padding, band.limit, torch.float32)
    insert(statistics, band, c * y, c**2, (rotations, shifts))
    found, truth = reconstruct(statistics.finished(C1)), truth_up_to(specimen, band.limit)
    cross, power = shell_products(truth, found, box), shell_products(truth, truth, box)
    fsc = cross / np.sqrt(shell_products(found, found, box) * power)
    inside = slice(1, band.limit)  # the last shell lacks neighbours beyond it
    assert fsc[inside].min() > 0.99
    # interpolation without padding errs more
    assert np.abs((cross / power)[inside] - 1).max() < (0.02 if padding == 2 else 0.04)
    assert abs(cross[inside].sum() / power[inside].sum() - 1) < (0.005 if padding == 2 else 0.015)
    # in real space too: nothing is moved
    assert float((found - truth).norm() / truth.norm()) < (0.05 if padding == 2 else 0.1)


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("kernel", ["trilinear", "gaussian"])
def test_a_map_is_freed_of_the_envelope_of_the_kernel_it_was_inserted_with(blobs, random_poses, box, kernel):
    """Left in, a Gaussian's envelope takes a third of the density off towards the edge. Without the first shells, where
    slices cross within a kernel's width and any kernel errs."""
    count, specimen = 2500, blobs(box, width=1.0)
    band = Band.to_shell(box, box)
    rotations, shifts = random_poses(count, spread=2.0)
    statistics = Backprojection.zeros(box, 2, band.limit, torch.zeros(()), kernel)
    insert(statistics, band, specimen.images(band.kxy, rotations, shifts), torch.ones(count, len(band)),
           (rotations, shifts))
    fine = (frequency_length(box) > 2.5) & (frequency_length(box) < band.limit - 1)
    found, truth = (torch.fft.irfftn(torch.fft.rfftn(m.double()) * fine, s=m.shape)
                    for m in (reconstruct(statistics.finished(C1)), truth_up_to(specimen, band.limit)))
    x = torch.arange(box) - box // 2
    radius = (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2).double().sqrt()
    for inner, outer in ((0.0, 0.15), (0.15, 0.3), (0.3, 0.42)):
        ring = (radius >= inner * box) & (radius < outer * box)
        assert float((found * truth)[ring].sum() / (truth * truth)[ring].sum()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("symmetry", ["D2", "D4", "O", "C4"])
def test_symmetrised_statistics_are_the_insertion_of_all_mates_where_the_group_maps_the_grid_onto_itself(
    random_poses, symmetry
):
    group = symmetry_group(symmetry)
    box, padding, limit, count = 16, 2, 6, 20
    band = Band.to_shell(box, limit)
    rotations, shifts = random_poses(count)
    generator = torch.Generator().manual_seed(0)
    y = torch.view_as_complex(torch.randn(count, len(band), 2, generator=generator, dtype=torch.float64))
    w = torch.rand(count, len(band), generator=generator, dtype=torch.float64)
    once, every = (backprojection(box, padding, limit, torch.float32) for _ in range(2))
    insert(once, band, y, w, (rotations, shifts))
    for g in group:
        insert(every, band, y, w, (rotations @ g, shifts))
    found, expected = once.finished(group).sums, every.finished(C1).sums
    m = padding * (limit + 1) + 2
    line = torch.arange(-m, m + 1)
    radius = (line[:, None, None] ** 2 + line[:, None] ** 2 + line[m:] ** 2).double().sqrt()
    inside = radius <= padding * (limit + 0.5)
    error = (found - expected)[inside].abs().max() / expected[inside].abs().max()
    assert float(error) < 1e-5


@pytest.mark.parametrize("symmetry", ["C3", "D7", "T", "I1"])
def test_symmetrised_statistics_give_the_map_of_all_mates_for_any_group(blobs, random_poses, symmetry):
    group = symmetry_group(symmetry)
    box, padding = 32, 2
    band, specimen = Band.to_shell(box, 12), blobs(box)
    count = max(60, 600 // len(group))
    rotations, shifts = random_poses(count)
    # images of the symmetrised particle: the mean over its mates
    y = torch.stack([specimen.images(band.kxy, rotations @ g, shifts) for g in group]).mean(0)
    c = transfer(band, count)
    once, every = (backprojection(box, padding, band.limit, torch.float32) for _ in range(2))
    insert(once, band, c * c * y, c**2, (rotations, shifts))
    for g in group:
        insert(every, band, c * c * y, c**2, (rotations @ g, shifts))
    found, expected = reconstruct(once.finished(group)), reconstruct(every.finished(C1))
    correlation = float((found * expected).sum() / (found.norm() * expected.norm()))
    assert correlation > 0.999
    assert float(found.norm() / expected.norm()) == pytest.approx(1, abs=0.01)


def test_the_statistics_of_two_batches_add_up_to_those_of_all_images(random_poses):
    band, count = Band.to_shell(16, 6), 12
    poses = random_poses(count)
    generator = torch.Generator().manual_seed(0)
    y = torch.view_as_complex(torch.randn(count, len(band), 2, generator=generator, dtype=torch.float64))
    w = torch.rand(count, len(band), generator=generator, dtype=torch.float64)
    first, second, whole = (backprojection(16, 2, 6) for _ in range(3))
    insert(first, band, y[:5], w[:5], tuple(p[:5] for p in poses))
    insert(second, band, y[5:], w[5:], tuple(p[5:] for p in poses))
    insert(whole, band, y, w, poses)
    torch.testing.assert_close((first + second).sums, whole.sums, rtol=0, atol=1e-12)
    finished = first.finished(C1) + second.finished(C1)
    assert finished.folded
    torch.testing.assert_close(finished.sums, whole.finished(C1).sums, rtol=0, atol=1e-12)


def test_a_sample_of_mass_one_half_twice_is_a_sample_of_mass_one(random_poses):
    band = Band.to_shell(16, 6)
    rotations, shifts = random_poses(3)
    y = torch.ones(3, len(band), dtype=torch.complex128)
    w = torch.ones(3, len(band), dtype=torch.float64)
    once, twice = backprojection(16, 2, 6), backprojection(16, 2, 6)
    insert(once, band, y, w, (rotations, shifts))
    for _ in range(2):
        insert(twice, band, y, w, (rotations, shifts), torch.full((3,), 0.5))
    torch.testing.assert_close(once.sums, twice.sums, rtol=0, atol=1e-12)


@pytest.mark.parametrize("symmetry", ["C1", "D2", "C3"])
def test_finished_statistics_are_hermitian_on_the_plane_that_holds_both_mates(random_poses, symmetry):
    band = Band.to_shell(16, 6)
    generator = torch.Generator().manual_seed(0)
    y = torch.view_as_complex(torch.randn(9, len(band), 2, generator=generator, dtype=torch.float64))
    statistics = backprojection(16, 2, 6)
    insert(statistics, band, y, torch.rand(9, len(band)), random_poses(9))
    done = statistics.finished(symmetry_group(symmetry))
    torch.testing.assert_close(done.numerator[:, :, 0], done.numerator[:, :, 0].flip(0, 1).conj(), rtol=0, atol=1e-12)
    torch.testing.assert_close(done.weight[:, :, 0], done.weight[:, :, 0].flip(0, 1), rtol=0, atol=1e-12)


def test_a_single_view_leaves_the_rest_of_fourier_space_empty_and_the_map_finite(blobs, random_poses):
    specimen, band = blobs(32), Band.to_shell(32, 14)
    poses = random_poses(1, spread=0.0)
    statistics = backprojection(32, 2, 14)
    insert(statistics, band, specimen.images(band.kxy, *poses), torch.ones(1, len(band)), poses)
    found = reconstruct(statistics.finished(C1))
    assert bool(torch.isfinite(found).all())
    assert 0 < float(found.norm()) < float(truth_up_to(specimen, 14).norm())


def test_unfinished_statistics_are_not_inverted():
    with pytest.raises(ValueError, match="finished"):
        reconstruct(backprojection(16, 2, 6))


def test_the_mean_weight_of_a_shell_is_the_mean_over_its_voxels(random_poses):
    band, padding, limit = Band.to_shell(16, 6), 2, 6
    statistics = backprojection(16, padding, limit)
    insert(statistics, band, torch.ones(9, len(band)), torch.rand(9, len(band)), random_poses(9))
    weight = statistics.finished(C1)
    m = padding * (limit + 1) + 2
    z, y, x = np.meshgrid(np.arange(-m, m + 1), np.arange(-m, m + 1), np.arange(m + 1), indexing="ij")
    shell = np.rint(np.sqrt(x**2 + y**2 + z**2) / padding).astype(int)
    expected = [weight.weight.numpy()[shell == s].mean() for s in range(limit + 1)]
    np.testing.assert_allclose(weight.shell_weight().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma2", [1.0, 250.0])
def test_the_unit_of_the_noise_power_does_not_change_the_map(blobs, random_poses, sigma2):
    band, specimen = Band.to_shell(24, 10), blobs(24)
    poses = random_poses(300)
    c = transfer(band, 300)
    y = c * specimen.images(band.kxy, *poses)
    maps = []
    for power in (1.0, sigma2):
        statistics = backprojection(24, 2, 10)
        insert(statistics, band, c * y / power, c**2 / power, poses)
        maps.append(reconstruct(statistics.finished(C1)))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-6, atol=1e-9 * float(maps[0].abs().max()))


def test_the_transforms_agree_that_the_centre_is_voxel_half_the_box(blobs):
    # the truth of this file, made by numpy, against the program's transform
    specimen = blobs(24)
    V = volume_fft(truth_up_to(specimen, 8))
    q = grid_frequencies(24)[..., :13, :]
    inside = q.norm(dim=-1) <= 8
    assert float((V - specimen.transform(q))[inside].abs().max()) < 1e-8


def test_shell_means_and_division_are_what_numpy_gives_compiled_and_plain():
    m, padding = 13, 2
    sums = torch.rand(2 * m + 1, 2 * m + 1, m + 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = np.arange(-m, m + 1)
    radius = np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q[m:] ** 2) / padding
    ridge = torch.rand(7, generator=torch.Generator().manual_seed(1)).double()
    floor = torch.linspace(0.9, 0.1, 7).double()
    share = torch.linspace(0.2, 1.5, 7).double()
    weight, numerator = sums[..., 2].numpy(), torch.view_as_complex(sums[..., :2].contiguous()).numpy()
    added, least, part = (np.interp(radius, np.arange(7), profile) for profile in (ridge, floor, share))
    other = sums.flip(0)
    both = weight + other[..., 2].numpy()
    plain = numerator / np.maximum(weight, least) - numerator[::-1] / np.maximum(other[..., 2].numpy(), least)
    plain[radius > 7] = 0  # a shell beyond the profiles
    for module in (kernels, kernels.reference_volume):
        ratio = module.divided(sums, ridge, floor, padding)
        assert np.allclose(ratio.numpy(), numerator / np.maximum(weight + added, least))
        ratio = module.divided(sums, ridge, floor, padding, share)
        assert np.allclose(ratio.numpy(), numerator / np.maximum(weight + added, part * weight + least))
        difference = module.ratio_difference(sums, other, floor, padding, m, False, Evening(share, ridge))
        assert np.allclose(difference.numpy(), plain * both / np.maximum(both, part * both + added))
        inverse = module.inverse_weight_by_shell(sums, floor[:6], padding)
        total, count = module.weight_by_shell(sums, padding, 6)
        for s in range(6):
            shell = np.rint(radius) == s
            assert count[s] == shell.sum() and np.isclose(total[s], weight[shell].sum())
            assert np.isclose(inverse[s], (1 / np.maximum(weight[shell], float(floor[s]))).sum())


def test_coarser_statistics_give_the_same_map_on_a_coarser_grid(blobs, random_poses):
    band, specimen = Band.to_shell(BOX, 7), blobs(BOX, width=2.0)
    statistics = Backprojection.zeros(BOX, 2, 10, torch.zeros((), dtype=torch.float64))
    poses = random_poses(400, seed=3)
    images = specimen.images(band.kxy, *poses)
    samples = Samples(torch.arange(400), *poses, torch.ones(400))
    statistics.insert_(images, torch.ones(400, len(band)).double(), band.kxy.double(), band, samples)
    whole = reconstruct(statistics.finished(C1))
    part = reconstruct(statistics.coarser(7, 16).finished(C1))
    assert part.shape == (16, 16, 16)
    expected = resample_volume(whole, 16)
    assert (part - expected).abs().max() < 0.02 * expected.abs().max()
    assert statistics.coarser(10, BOX) is statistics
    with pytest.raises(ValueError, match="centre"):
        statistics.coarser(5, 15)


@pytest.mark.parametrize("module", [kernels, kernels.reference_volume], ids=["compiled", "plain torch"])
@pytest.mark.parametrize("folded", [False, True])
def test_the_difference_of_two_maps_is_made_at_once(blobs, random_poses, folded, module, monkeypatch):
    band, specimen = Band.to_shell(BOX, 9), blobs(BOX, width=2.0)
    both = []
    for seed in (3, 4):
        statistics = Backprojection.zeros(BOX, 2, 10, torch.zeros((), dtype=torch.float64))
        poses = random_poses(400, seed=seed)
        samples = Samples(torch.arange(400), *poses, torch.ones(400))
        noise = torch.randn(400, len(band), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        images = specimen.images(band.kxy, *poses) + torch.view_as_complex(noise)
        statistics.insert_(images, torch.ones(400, len(band)).double(), band.kxy.double(), band, samples)
        both.append(statistics)
    expected = reconstruct(both[0].finished(C1)) - reconstruct(both[1].finished(C1))
    monkeypatch.setattr("halfmap.reconstruction.inverse.kernels", module)
    parts = [s.finished(C1) if folded else s for s in both]
    weight = both[0].finished(C1).shell_weight()
    same = reconstructed_difference(*parts, weight, BOX)
    assert (same - expected).abs().max() < 0.01 * expected.abs().max()  # what lies beyond the last shell is left out
    coarse = reconstructed_difference(*parts, weight[:9], 16)
    first, second = (reconstruct(s.coarser(8, 16).finished(C1)) for s in both)
    error = torch.fft.rfftn(coarse - (first - second))[frequency_length(16) < 6.5]
    wanted = torch.fft.rfftn(first - second)[frequency_length(16) < 6.5]
    assert error.abs().square().sum() < 0.02**2 * wanted.abs().square().sum()
