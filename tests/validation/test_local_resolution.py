"""Local resolution says where two half maps agree and to what detail, and does not take noise for agreement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.validation.local_resolution import COARSEST_SHELL, Window, local_crossing, local_fsc, local_resolution


def noise(box: int, seed: int) -> Tensor:
    return torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed))


def up_to(shell: float, v: Tensor) -> Tensor:
    k = np.fft.fftfreq(v.shape[-1], 1 / v.shape[-1])
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    return torch.from_numpy(np.fft.ifftn(np.fft.fftn(v.numpy()) * (radius <= shell)).real)


def brute_force(half1: Tensor, half2: Tensor, centre: list[int], width: float) -> np.ndarray:
    """The windowed FSC about one voxel by the definition, in float64, over the full transform."""
    size = 2 * int(np.ceil(0.75 * width))
    away = np.arange(size) - size // 2
    r = np.sqrt(away[:, None, None] ** 2 + away[:, None] ** 2 + away**2)
    window = np.where(r <= width / 4, 1, np.where(r >= 0.75 * width, 0, np.cos(np.pi * (r / width - 0.25)) ** 2))
    cubes = []
    for half in (half1, half2):
        cube = np.zeros((size,) * 3)
        for place in np.ndindex(cube.shape):
            voxel = [c + p - size // 2 for c, p in zip(centre, place, strict=True)]
            if all(0 <= v < half.shape[0] for v in voxel):
                cube[place] = half[tuple(voxel)]
        cubes.append(np.fft.fftn(cube * window))
    k = np.fft.fftfreq(size, 1 / size)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    a, b = cubes
    return np.array([(a * b.conj()).real[shell == s].sum() / np.sqrt((abs(a[shell == s]) ** 2).sum() *
                     (abs(b[shell == s]) ** 2).sum()) for s in range(1, size // 2 + 1)])


def two_sided(box: int = 80) -> tuple[Tensor, Tensor]:
    """Half maps of a specimen with detail to 3 voxels on the left and to 6 voxels on the right, twice the noise."""
    left = (torch.arange(box) < box // 2).float()
    signal = 2 * (up_to(box / 3, noise(box, 0)) * left + up_to(box / 6, noise(box, 1)) * (1 - left))
    return (signal + noise(box, 2)).float(), (signal + noise(box, 3)).float()


@pytest.mark.parametrize("centre", [[14, 20, 17], [30, 3, 11]])
def test_it_is_the_windowed_fsc_of_the_definition_also_at_the_edge_of_the_map(centre) -> None:
    common = noise(32, 4)
    half1, half2 = common + noise(32, 5), common + noise(32, 6)
    found = local_fsc(half1, half2, torch.tensor([centre]), Window(11.0))[0, 1:]
    np.testing.assert_allclose(found, brute_force(half1, half2, centre, 11.0), atol=2e-6)


def test_each_side_of_a_specimen_gets_its_own_band_limit_within_a_tenth() -> None:
    half1, half2 = two_sided()
    mask = torch.zeros_like(half1)
    mask[26:54, 26:54, 10:70] = 1
    found, _ = local_resolution(half1, half2, mask, Window(26.0))
    fine, coarse = found[26:54, 26:54, 10:20], found[26:54, 26:54, 60:70]
    assert float(fine.median()) == pytest.approx(3, rel=0.1)
    assert float(coarse.median()) == pytest.approx(6, rel=0.1)
    assert float(fine.max()) < float(coarse.min())
    between = found[40, 40, 20:60]
    assert 3 < float(between[20]) < 6 and float(between[:10].mean()) < float(between[-10:].mean())


@pytest.mark.parametrize("threshold,share", [(0.5, 0.995), (0.143, 0.9)])
def test_noise_has_no_resolution(threshold, share) -> None:
    half1, half2 = noise(64, 7), noise(64, 8)
    window = Window(20.0)
    points = torch.randint(0, 64, (1500, 3), generator=torch.Generator().manual_seed(9))
    crossing = local_crossing(local_fsc(half1, half2, points, window), window.thresholds(threshold))
    assert float((crossing <= COARSEST_SHELL).double().mean()) > share
    assert float(crossing.max()) < 7  # and where it seems to have one it is poor: Nyquist is shell 15


def test_a_crossing_lies_between_the_shells_where_the_curve_falls_below() -> None:
    thresholds = torch.full((8,), 0.5, dtype=torch.float64)
    curve = torch.tensor([[1, 0.1, 0.9, 0.9, 0.8, 0.7, 0.3, 0.9],     # shell 1 alone is not believed
                          [1, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],     # never below: the last shell
                          [1, 0.9, 0.2, 0.3, 0.9, 0.9, 0.9, 0.9],     # shells 1 to 3 together are below
                          [1, 1.0, 1.0, 1.0, 0.0, 0.9, 0.9, 0.9]], dtype=torch.float64)
    np.testing.assert_allclose(local_crossing(curve, thresholds), [5.5, 7, 3, 3.5], atol=1e-12)


def test_equal_maps_reach_nyquist_and_a_map_without_the_mask_the_coarsest() -> None:
    half = noise(40, 10)
    mask = torch.zeros_like(half)
    mask[15:30, 12:33, 18:26] = 1
    found, _ = local_resolution(half, half.clone(), mask, Window(12.0))
    assert float(found[mask > 0].max()) == pytest.approx(2, rel=1e-4)
    assert float(found[mask == 0].min()) == pytest.approx(18 / 3)  # 1.5 widths hold three waves
    with pytest.raises(ValueError, match="empty"):
        local_resolution(half, half, torch.zeros_like(mask), Window(12.0))


def test_lattice_points_lie_close_enough_that_closer_ones_tell_nothing_new() -> None:
    half1, half2 = (v[20:60, 20:60, 20:60].contiguous() for v in two_sided())
    mask = torch.zeros_like(half1)
    mask[12:28, 12:28, 8:34] = 1
    usual, few = local_resolution(half1, half2, mask, Window(16.0))
    dense, many = local_resolution(half1, half2, mask, Window(16.0), step=2)
    difference = (1 / usual - 1 / dense)[mask > 0]
    assert many > 5 * few
    assert float(difference.abs().mean()) < 0.04 * float((1 / dense)[mask > 0].mean())
