"""The uniform regulariser is the Wiener filter of the half-map FSC."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.gridding import trilinear_envelope
from halfmap.fourier.transform import half_volume
from halfmap.kernels.poses import Samples
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection
from halfmap.regularisation.protocol import HalfSets, shell_ratio
from halfmap.regularisation.wiener import Uniform, wiener_ridge
from halfmap.validation.fsc import corrected_fsc

BOX, PADDING, LIMIT = 24, 2, 10
M = PADDING * (LIMIT + 1) + 2
C1 = torch.eye(3, dtype=torch.float64)[None]
LINE = np.arange(-M, M + 1)
RADIUS = np.sqrt(LINE[:, None, None] ** 2 + LINE[:, None] ** 2 + LINE[M:] ** 2) / PADDING


def from_images(y: Tensor, c: Tensor, sigma2: float, band: Band, poses) -> Backprojection:
    statistics = Backprojection.zeros(BOX, PADDING, LIMIT, torch.zeros((), dtype=torch.float64))
    samples = Samples(torch.arange(len(y)), *poses, torch.ones(len(y)))
    statistics.insert_(c * y / sigma2, c**2 / sigma2, band.kxy.double(), band, samples)
    return statistics


def noise(*shape: int, seed: int) -> Tensor:
    parts = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.view_as_complex(parts) / math.sqrt(2)


def transfer(band: Band, count: int) -> Tensor:
    """A contrast that oscillates with the radius, differently for each image."""
    defocus = torch.linspace(0.03, 0.1, count, dtype=torch.float64)
    return torch.sin(defocus[:, None] * (band.kxy**2).sum(1) + 0.2)


def half_sets(blobs, random_poses, signal: float, noise_scale: float = 1.0, sigma2: float = 1.0) -> HalfSets:
    """Two halves of two quarters each, of 150 images each."""
    band, specimen, count = Band.to_shell(BOX, LIMIT), blobs(BOX, width=1.0), 150
    c = transfer(band, count)
    quarters = []
    for q in range(4):
        poses = random_poses(count, seed=q)
        y = signal * c * specimen.images(band.kxy, *poses) + noise_scale * noise(count, len(band), seed=q)
        quarters.append(from_images(y, c, sigma2, band, poses))

    def curves(a: Tensor, b: Tensor):
        return corrected_fsc(a, b, spherical_mask(BOX, 9.0, 3.0), torch.Generator().manual_seed(0))

    return HalfSets.build((tuple(quarters[:2]), tuple(quarters[2:])), C1, 1.5, curves)


def brute_force_wiener(statistics: Backprojection, ratio: np.ndarray) -> np.ndarray:
    """N / (W + mean W / ratio), with means that are linear between shells, by numpy's whole transform."""
    N, W = statistics.numerator.numpy(), statistics.weight.double().numpy()
    shell = np.rint(RADIUS).astype(int)
    tau2_inverse = np.array([W[shell == s].mean() / max(ratio[s], 1e-6) for s in range(LIMIT + 1)])
    V = N / (W + np.interp(RADIUS, np.arange(LIMIT + 1), tau2_inverse))
    size = PADDING * BOX
    full = np.zeros((size,) * 3, complex)
    for x in range(min(M, size // 2 - 1) + 1):
        inside = np.abs(LINE) < size // 2
        plane = V[np.ix_(inside, inside, [x])][..., 0]
        z, y = np.meshgrid(LINE[inside], LINE[inside], indexing="ij")
        full[z, y, x] = plane
        full[-z, -y, -x] = plane.conj()
    v = np.fft.fftshift(np.fft.ifftn(full).real)
    start = size // 2 - BOX // 2
    v = v[start : start + BOX, start : start + BOX, start : start + BOX]
    envelope = trilinear_envelope(BOX, PADDING).numpy()
    return v / (envelope[:, None, None] * envelope[:, None] * envelope)


def test_references_are_the_brute_force_wiener_filter_of_each_half_and_of_both(blobs, random_poses):
    halves = half_sets(blobs, random_poses, signal=0.02)
    solution = Uniform("unmasked").solve(halves, torch.ones(BOX, BOX, BOX), {})
    fsc = halves.curves.unmasked.numpy().clip(max=0.9999)
    first_below = next((s for s in range(1, len(fsc)) if fsc[s] <= 0), len(fsc))
    fsc = np.where(np.arange(len(fsc)) < first_below, fsc, 0)
    for h in range(2):
        both = halves.quarter(h, 0, LIMIT, BOX) + halves.quarter(h, 1, LIMIT, BOX)
        expected = brute_force_wiener(both, fsc / (1 - fsc))
        assert np.abs(solution.maps[h].numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    expected = brute_force_wiener(halves.halves[0] + halves.halves[1], 2 * fsc / (1 - fsc))
    assert np.abs(solution.joined.numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_under_even_weights_a_half_is_multiplied_by_its_fsc_f_and_both_together_by_2f_over_1_plus_f():
    v = torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v * spherical_mask(BOX, 7.0, 3.0).double()
    # half_volume divides by the envelope before the transform, a reconstruction after it
    envelope = trilinear_envelope(BOX, PADDING)
    V = half_volume(v * (envelope[:, None, None] * envelope[:, None] * envelope), PADDING, LIMIT)
    V = V * torch.from_numpy(RADIUS <= LIMIT + 0.5)
    sums = torch.stack([7.0 * V.real, 7.0 * V.imag, torch.full(V.shape, 7.0, dtype=torch.float64)], dim=-1)
    statistics = Backprojection(sums, BOX, PADDING, LIMIT, folded=True)
    plain = reconstruct(statistics)
    for f in (0.2, 0.5, 0.9):
        fsc = torch.full((BOX // 2 + 1,), f)
        half = reconstruct(statistics, wiener_ridge(statistics, fsc, joined=False))
        both = reconstruct(statistics + statistics, wiener_ridge(statistics + statistics, fsc, joined=True))
        torch.testing.assert_close(half, f * plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both, 2 * f / (1 + f) * plain, rtol=1e-4, atol=1e-5)


def test_references_from_pure_noise_vanish_beyond_the_first_shell_without_correlation(blobs, random_poses):
    halves = half_sets(blobs, random_poses, signal=0.0)
    solution = Uniform("unmasked").solve(halves, torch.ones(BOX, BOX, BOX), {})
    fsc = halves.curves.unmasked.numpy()
    first = next(s for s in range(1, len(fsc)) if fsc[s] <= 0)
    assert first <= 6  # noise correlates by chance, but only in a few shells
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    for reference, raw in zip(solution.maps, halves.raw, strict=True):
        power = [np.bincount(shell, weights=(np.abs(np.fft.fftn(m.numpy())) ** 2).ravel()) for m in (reference, raw)]
        # one shell of transition: the filter is linear between shells
        assert (power[0] / power[1])[first + 1 : LIMIT].max() < 1e-4
        assert float(reference.norm()) < 0.2 * float(raw.norm())


def test_regularised_references_are_nearer_to_the_truth_than_plain_maps(blobs, random_poses):
    halves = half_sets(blobs, random_poses, signal=0.02)
    solution = Uniform("unmasked").solve(halves, torch.ones(BOX, BOX, BOX), {})
    truth = 0.02 * blobs(BOX, width=1.0).map()
    for h in range(2):
        assert float((solution.maps[h] - truth).norm()) < 0.8 * float((halves.raw[h] - truth).norm())
    best = min(float((m - truth).norm()) for m in solution.maps)
    assert float((solution.joined - truth).norm()) < best


@pytest.mark.parametrize("factor", [0.01, 37.0])
def test_images_times_a_factor_give_maps_times_that_factor(blobs, random_poses, factor):
    once = half_sets(blobs, random_poses, signal=0.02)
    scaled = half_sets(blobs, random_poses, 0.02 * factor, noise_scale=factor, sigma2=factor**2)
    mask = torch.ones(BOX, BOX, BOX)
    a, b = (Uniform("unmasked").solve(halves, mask, {}) for halves in (once, scaled))
    for first, second in zip((*a.maps, a.joined), (*b.maps, b.joined), strict=True):
        torch.testing.assert_close(factor * first, second, rtol=1e-4, atol=1e-5 * factor * float(first.abs().max()))


def test_the_corrected_curve_is_used_unless_the_unmasked_is_asked_for(blobs, random_poses):
    halves = half_sets(blobs, random_poses, signal=0.02)
    mask = torch.ones(BOX, BOX, BOX)
    swapped = replace(halves, curves=replace(halves.curves, unmasked=halves.curves.corrected))
    assert torch.equal(Uniform().solve(halves, mask, {}).maps[0], Uniform("unmasked").solve(swapped, mask, {}).maps[0])


def test_the_signal_to_noise_ratio_follows_from_the_fsc_and_stops_where_it_first_falls_to_zero():
    fsc = torch.tensor([1.0, 0.8, 0.5, -0.1, 0.3, 0.2])
    expected = torch.tensor([0.9999 / 1e-4, 4.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(shell_ratio(fsc, joined=False), expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(shell_ratio(fsc, joined=True), 2 * expected, rtol=1e-3, atol=1e-6)


def test_a_half_is_the_sum_of_its_quarters_and_the_raw_maps_are_plain_reconstructions(blobs, random_poses):
    halves = half_sets(blobs, random_poses, signal=0.02)
    for h in range(2):
        both = halves.quarter(h, 0, LIMIT, BOX).sums + halves.quarter(h, 1, LIMIT, BOX).sums
        torch.testing.assert_close(halves.halves[h].sums, both, rtol=0, atol=1e-12)
        assert torch.equal(halves.raw[h], reconstruct(halves.halves[h]))


def test_half_sets_joined_at_low_resolution_share_it_and_stay_apart_beyond(blobs, random_poses):
    halves, shell = half_sets(blobs, random_poses, signal=0.02), 4
    joined = halves.joined_below(shell)
    low = torch.from_numpy(RADIUS <= shell)
    mean = 0.5 * (halves.halves[0].sums + halves.halves[1].sums)
    for h in range(2):
        torch.testing.assert_close(joined.halves[h].sums[low], mean[low], rtol=1e-12, atol=1e-12)
        assert torch.equal(joined.halves[h].sums[~low], halves.halves[h].sums[~low])
        quarters = joined.quarter(h, 0, LIMIT, BOX).sums + joined.quarter(h, 1, LIMIT, BOX).sums
        torch.testing.assert_close(quarters, joined.halves[h].sums, rtol=1e-12, atol=1e-12)
        # what is reported stays that of independent halves
        assert torch.equal(joined.raw[h], halves.raw[h])
    assert joined.curves is halves.curves
