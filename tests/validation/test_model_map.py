"""A model is put where it fits a map, and the correlation of both is what their noise allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap.imaging.density import Cloud
from halfmap.validation.fsc import fsc
from halfmap.validation.model_map import (
    coarse_correlation,
    crossing,
    density_mask,
    fitted_pose,
    model_resolution,
    moved_map,
)

BOX, PIXEL = 48, 2.0
STILL = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def chain(count: int = 400, seed: int = 0, b: float = 120.0) -> Cloud:
    """Atoms along a folded chain without symmetry, of one B factor (A^2)."""
    rng = np.random.default_rng(seed)
    place, places = np.zeros(3), []
    while len(places) < count:
        step = rng.normal(size=3)
        trial = place + 3.8 * step / np.linalg.norm(step)
        if np.linalg.norm(trial * [1, 1.4, 2]) < 28:
            place = trial
            places.append(place)
    xyz = torch.from_numpy(np.array(places) - np.mean(places, axis=0)).float()
    return Cloud(xyz, torch.full((count, 1), 5.0), torch.full((count, 1), 4 * np.pi**2 / b))


def gaussians(cloud: Cloud, at: np.ndarray) -> np.ndarray:
    """The potential of a cloud at places at[p,3] (x, y, z in A), by its formula, times the pixel size."""
    total = np.zeros(len(at))
    for xyz, weight, exponent in zip(cloud.xyz.numpy(), cloud.weight.numpy(), cloud.exponent.numpy(), strict=True):
        square = ((at - xyz) ** 2).sum(axis=1)
        total += float(weight[0]) * (exponent[0] / np.pi) ** 1.5 * np.exp(-exponent[0] * square)
    return total * PIXEL


def shell_power(v: Tensor) -> np.ndarray:
    """Mean squared coefficient of every shell of a map."""
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    power = np.abs(np.fft.fftn(v.double().numpy())).ravel() ** 2
    return (np.bincount(shell, power) / np.bincount(shell))[: BOX // 2 + 1]


@pytest.mark.parametrize("angle,shift", [(5.0, (2.0, -3.0, 1.5)), (12.0, (-4.0, 1.0, 5.0))])
def test_the_fit_finds_a_known_rotation_and_shift_under_noise(angle, shift) -> None:
    cloud = chain()
    axis = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
    rotation = torch.from_numpy(Rotation.from_rotvec(np.radians(angle) * axis).as_matrix())
    found = moved_map(cloud, rotation, torch.tensor(shift, dtype=torch.float64), BOX, PIXEL)
    found = found + 2 * found.std() * torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    expected = moved_map(cloud, *STILL, BOX, PIXEL)
    turned, moved = fitted_pose(found, expected, PIXEL)
    error = Rotation.from_matrix((turned.T @ rotation).numpy()).magnitude()
    assert np.degrees(error) < 0.8  # 0.5 A at the rim, for noise of twice the signal
    np.testing.assert_allclose(moved, shift, atol=0.15)
    placed = moved_map(cloud, turned, moved, BOX, PIXEL)
    assert coarse_correlation(found, placed, PIXEL) > coarse_correlation(found, expected, PIXEL) + 0.05


def test_the_models_map_is_the_sum_of_its_gaussians_where_its_atoms_were_moved() -> None:
    cloud = chain(60, b=300.0)
    rotation = torch.from_numpy(Rotation.from_euler("zyx", [40, 20, -70], degrees=True).as_matrix())
    shift = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    found = moved_map(cloud, rotation, shift, BOX, PIXEL)
    voxels = np.random.default_rng(3).integers(14, 34, (200, 3))  # z, y, x
    places = (voxels[:, ::-1] - BOX // 2) * PIXEL
    expected = gaussians(cloud, (places - shift.numpy()) @ rotation.numpy())
    np.testing.assert_allclose(found[tuple(voxels.T)], expected, atol=5e-3 * float(found.max()))
    agreement = fsc(found, moved_map(cloud, rotation, shift, BOX, PIXEL))
    assert float(agreement.min()) > 0.9999


def test_with_noise_the_correlation_crosses_where_its_power_says() -> None:
    clean = moved_map(chain(), *STILL, BOX, PIXEL)
    mask = density_mask(clean, PIXEL)
    sigma = 0.5 * float(clean.std())
    signal, noise = shell_power(clean * mask), sigma**2 * float(mask.square().sum())
    expected = torch.from_numpy(np.sqrt(signal / (signal + noise)))  # of a noisy map with a perfect one
    shells = np.arange(BOX // 2 + 1)
    for threshold in (0.5, 0.143):
        found = []
        for seed in range(3):
            random = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
            curve = fsc((clean + sigma * random) * mask, clean * mask)
            assert float((curve - expected)[4:].abs().mean()) < 0.05
            found.append(model_resolution(curve, BOX, PIXEL, threshold) or 2 * PIXEL)
        first = shells[4:][(expected.numpy() < threshold)[4:]]
        there = BOX * PIXEL / (first[0] - 0.5) if len(first) else 2 * PIXEL
        assert np.mean(found) == pytest.approx(there, rel=0.08)


def test_the_mask_holds_the_model_and_little_else() -> None:
    cloud = chain()
    mask = density_mask(moved_map(cloud, *STILL, BOX, PIXEL), PIXEL)
    voxel = (cloud.xyz / PIXEL).round().long() + BOX // 2
    inside = mask[voxel[:, 2], voxel[:, 1], voxel[:, 0]]
    assert float((inside > 0.99).double().mean()) > 0.97
    assert float(mask.mean()) < 0.25 and float(mask.min()) == 0


def test_a_dip_coarser_than_12_a_is_what_surrounds_the_model_unless_nothing_follows() -> None:
    curve = torch.ones(49, dtype=torch.float64)  # shell 8 of a box of 96 A is at 12 A
    curve[3:5], curve[21:] = 0.3, 0.0
    assert model_resolution(curve, 96, 1.0, 0.5) == pytest.approx(96 / 20.5)
    assert crossing(curve, 96, 1.0, 0.5) == pytest.approx(96 / 20.5)
    curve[6:] = 0.0
    assert model_resolution(curve, 96, 1.0, 0.5) == pytest.approx(96 / (2 + 0.5 / 0.7))
    assert model_resolution(torch.ones(49), 96, 1.0, 0.5) is None
