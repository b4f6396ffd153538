"""The local FSC filter follows what the half maps have in common from place to place, chance included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.regularisation.local_fsc import LocalFsc
from halfmap.regularisation.protocol import MapPair, Solution
from halfmap.validation.fsc import FscCurves

PIXEL = 1.5


def noise(box: int, seed: int) -> Tensor:
    return torch.randn(box, box, box, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def radius(box: int) -> np.ndarray:
    k = np.fft.fftfreq(box, 1 / box)
    return np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)


def up_to(shell: float, v: Tensor) -> Tensor:
    return torch.from_numpy(np.fft.ifftn(np.fft.fftn(v.numpy()) * (radius(v.shape[-1]) <= shell)).real)


def filtered(half1: Tensor, half2: Tensor, method: LocalFsc, first: int = 8) -> Solution:
    """The filter under an FSC of 1 before shell ``first`` and 0 from there on: it crosses 0.143 at first - 0.143."""
    corrected = (torch.arange(half1.shape[-1] // 2 + 1) < first).double()
    curves = FscCurves(corrected, corrected, corrected, corrected, corrected, 3)
    return method.filter_pair(MapPair(half1, half2, curves, PIXEL), torch.ones_like(half1))


def two_sided(box: int = 64) -> tuple[Tensor, Tensor]:
    """Half maps of a specimen that holds detail up to shell 24 on the left and up to shell 9 on the right."""
    left = (torch.arange(box) < box // 2).double()
    signal = 2 * (up_to(24, noise(box, 0)) * left + up_to(9, noise(box, 1)) * (1 - left))
    return signal + noise(box, 2), signal + noise(box, 3)


def brute_force(half1: np.ndarray, half2: np.ndarray, extent: float, threshold: float) -> tuple[np.ndarray, ...]:
    """The two filtered maps and the cut-off, by the formulas, with a window at every voxel."""
    box, length = len(half1), radius(len(half1))
    shape = [np.exp(-4 * np.log(2) * (length / 3 - j) ** 2) for j in range(box)]
    away = np.arange(box) - np.arange(box)[:, None]
    window = np.exp(-4 * np.log(2) * (away / extent) ** 2)
    window /= window.sum(axis=1, keepdims=True)

    def local_mean(v):
        return np.einsum("az,by,cx,zyx->abc", window, window, window, v, optimize=True)

    kept_all, cutoff = np.ones(half1.shape, bool), np.full(half1.shape, 1.5)
    result = [np.zeros(half1.shape), np.zeros(half1.shape)]
    for j in range(box // 6 + 2):
        a, b = (np.fft.ifftn(np.fft.fftn(v) * shape[j] / sum(shape)).real for v in (half1, half2))
        fsc = local_mean(a * b) / np.sqrt(local_mean(a * a) * local_mean(b * b))
        keep = fsc > threshold if j else kept_all
        kept_all = kept_all & keep
        cutoff[kept_all] = 3 * j + 1.5
        result[0] += keep * a
        result[1] += keep * b
    return (*result, cutoff)


def test_the_filter_is_that_of_the_formulas_with_a_window_at_every_voxel():
    box, extent = 30, 9.0
    one, two = (v[::2, ::2, ::2].contiguous() for v in two_sided(60))
    solution = filtered(one, two, LocalFsc(window=extent * PIXEL, threshold=0.3))
    expected = brute_force(one.numpy(), two.numpy(), extent, 0.3)
    for found, wanted in zip(solution.maps, expected[:2], strict=True):
        # bands begin and end in slightly other places, because the correlation is interpolated on a lattice
        assert np.linalg.norm(found.numpy() - wanted) < 0.1 * np.linalg.norm(wanted)
    cutoff = box * PIXEL / solution.arrays["theta"].numpy()
    assert (np.abs(cutoff - expected[2]) < 1e-6).mean() > 0.93
    assert len(np.unique(expected[2])) >= 4


def test_theta_follows_the_band_limit_of_either_side():
    box = 64
    solution = filtered(*two_sided(box), LocalFsc(window=10 * PIXEL))
    cutoff = (box * PIXEL / solution.arrays["theta"]).numpy()
    left, right = cutoff[:, :, 10:22], cutoff[:, :, 43:53]
    assert abs(np.median(left) - 24) <= 3 and abs(np.median(right) - 9) <= 3
    assert np.quantile(left, 0.1) > np.quantile(right, 0.9)


def test_detail_is_kept_where_it_is_and_noise_removed_where_there_is_none():
    box = 64
    halves = two_sided(box)
    found = filtered(*halves, LocalFsc(window=10 * PIXEL)).maps[0]
    band = (radius(box) > 13) & (radius(box) < 21)
    fine = [torch.from_numpy(np.fft.ifftn(np.fft.fftn(v.numpy()) * band).real) for v in (found, halves[0])]
    kept = [float(fine[0][..., side].norm() / fine[1][..., side].norm()) for side in (slice(10, 22), slice(43, 53))]
    assert kept[0] > 0.95 and kept[1] < 0.5


def test_noise_alone_is_left_the_coarsest_levels_nearly_everywhere():
    box = 64
    a, b = (up_to(32, noise(box, seed)) for seed in (10, 11))
    solution = filtered(a, b, LocalFsc(window=40 * PIXEL))
    cutoff = box * PIXEL / solution.arrays["theta"]
    assert float((cutoff == 1.5).double().mean()) > 0.9
    for found, given in zip(solution.maps, (a, b), strict=True):
        assert float(found.norm()) < 0.1 * float(given.norm())


def test_chance_agreement_of_noise_is_kept_in_both_half_maps_which_is_why_it_is_a_control():
    """Independent noise correlates after the filter, far beyond the 1 / sqrt(count) of independent noise."""
    box = 64
    a, b = (up_to(32, noise(box, seed)) for seed in (10, 11))
    one, two = filtered(a, b, LocalFsc(window=8 * PIXEL)).maps
    before = float((a * b).sum() / a.norm() / b.norm())
    after = float((one * two).sum() / one.norm() / two.norm())
    assert abs(before) < 4 / math.sqrt(box**3)
    assert after > 0.2
    assert "both" in LocalFsc().crosses


def test_equal_half_maps_pass_unchanged():
    v = up_to(16, noise(33, 4))
    solution = filtered(v, v.clone(), LocalFsc())
    torch.testing.assert_close(solution.maps[0], v, rtol=0, atol=1e-7)
    assert float(solution.arrays["theta"].max()) <= 2 * PIXEL


def test_the_wiener_mode_weighs_by_the_local_signal_to_noise_ratio():
    """White signal as strong as the noise: F = 1/2 at all frequencies, and 3 F / (1 + 2 F) = 3/4."""
    box = 48
    signal, *parts = (up_to(24, noise(box, seed)) for seed in (5, 6, 7))
    a, b = (signal + part for part in parts)
    solution = filtered(a, b, LocalFsc("wiener", window=30 * PIXEL))
    for found, given in ((solution.maps[0], a), (solution.joined, (a + b) / 2)):
        assert float((found * given).sum() / given.square().sum()) == pytest.approx(0.75, abs=0.02)


def test_the_window_follows_the_resolution_and_is_never_too_narrow():
    box = 32
    a, b = two_sided(64)
    a, b = a[::2, ::2, ::2].contiguous(), b[::2, ::2, ::2].contiguous()
    for mode, factor in (("tophat", 6), ("wiener", 4)):
        for first in (8, 16):
            extent = max(15.0, factor * box * PIXEL / (first - 0.143))
            rule, given, other = (filtered(a, b, LocalFsc(mode, window=w), first).maps[0]
                                  for w in (None, extent, 1.1 * extent))
            torch.testing.assert_close(rule, given, rtol=0, atol=1e-9)
            assert float((rule - other).norm()) > 1e-3 * float(given.norm())


def test_maps_of_another_grey_scale_give_the_same_filter():
    a, b = two_sided()
    once, scaled = filtered(a, b, LocalFsc()), filtered(1e-4 * a.float(), 1e-4 * b.float(), LocalFsc())
    for one, two in zip((*once.maps, once.joined), (*scaled.maps, scaled.joined), strict=True):
        assert float((1e-4 * one - two).norm()) < 1e-3 * float(two.norm())


def test_half_maps_change_places():
    a, b = two_sided()
    one, two = filtered(a, b, LocalFsc()), filtered(b, a, LocalFsc())
    for h in range(2):
        torch.testing.assert_close(one.maps[h], two.maps[1 - h], rtol=0, atol=1e-9)
    torch.testing.assert_close(one.joined, two.joined, rtol=0, atol=1e-9)
    assert torch.equal(one.arrays["theta"], two.arrays["theta"])
