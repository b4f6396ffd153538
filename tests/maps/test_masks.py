"""Claims about masks and radial filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier.transform import volume_fft
from halfmap.maps.filters import apply_radial_gain, butterworth_gain, gaussian_lowpass, lowpass, sharpen
from halfmap.maps.masks import solvent_mask, spherical_mask

BOX, PIXEL = 48, 3.0


def _distance(box: int, centre: tuple[float, float, float] = (0, 0, 0)) -> Tensor:
    x = torch.arange(box, dtype=torch.float32) - box // 2
    z, y, x = x[:, None, None] - centre[0], x[:, None] - centre[1], x - centre[2]
    return (z**2 + y**2 + x**2).sqrt()


def _molecule() -> Tensor:
    """A protein of two lobes, 20 A from centre to centre, in a belt of a third of its contrast."""
    lobes = (_distance(BOX, (-3, 0, 1)) < 4) | (_distance(BOX, (4, 1, 0)) < 5)
    x = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    belt = ((x[:, None] ** 2 + x**2).sqrt() < 10) & (x[:, None, None].abs() < 4)
    return torch.where(lobes, 1.0, torch.where(belt, 0.33, 0.0))


def _noise(sd: float, seed: int = 0) -> Tensor:
    return sd * torch.randn((BOX,) * 3, generator=torch.Generator().manual_seed(seed))


def test_a_spherical_mask_is_one_inside_zero_outside_and_falls_between() -> None:
    mask, r = spherical_mask(33, 8.0, 5.0), _distance(33)
    assert float(mask[r <= 8].min()) == 1.0 and float(mask[r >= 13].max()) < 1e-6
    assert float(mask[16, 16, 16 + 10]) > float(mask[16, 16, 16 + 11]) > 0
    assert set(spherical_mask(16, 5, 0).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_automatic_mask_holds_protein_and_belt_at_any_useful_noise(noise: float) -> None:
    v = _molecule()
    mask = solvent_mask(v + _noise(noise), PIXEL, diameter=100.0)
    assert float(mask.min()) >= 0 and float(mask.max()) <= 1 and mask.dtype == torch.float32
    assert float(mask[v > 0].min()) > 0.99
    assert float(mask.mean()) < 0.35


def test_the_automatic_mask_does_not_depend_on_scale_or_offset() -> None:
    v = _molecule() + _noise(0.3)
    mask = solvent_mask(v, PIXEL, 100.0)
    torch.testing.assert_close(solvent_mask(1e-6 * v, PIXEL, 100.0), mask)
    assert float((solvent_mask(v + 7, PIXEL, 100.0) - mask).abs().max()) < 0.05


@pytest.mark.parametrize("shift", [(3, -2, 4), (-5, 5, 0)])
def test_the_automatic_mask_moves_with_the_molecule(shift: tuple[int, int, int]) -> None:
    v = _molecule()
    moved = solvent_mask(v.roll(shift, (0, 1, 2)), PIXEL)
    torch.testing.assert_close(moved, solvent_mask(v, PIXEL).roll(shift, (0, 1, 2)))


def test_distant_density_is_left_out_and_a_detached_domain_is_kept() -> None:
    dust = (-2, 15, -12)
    domain = (0, -14, 10)
    v = _molecule() + (_distance(BOX, dust) < 1.5) + (_distance(BOX, domain) < 4).float()
    mask = solvent_mask(v, PIXEL)
    at = lambda c: float(mask[c[0] + BOX // 2, c[1] + BOX // 2, c[2] + BOX // 2])  # noqa: E731
    assert at(dust) == 0.0 and at(domain) == 1.0


def test_the_cavity_of_a_closed_shell_is_inside_the_mask() -> None:
    r = _distance(BOX)
    shell = ((r > 10) & (r < 15)).float()
    mask = solvent_mask(shell + _noise(0.3), PIXEL, 110.0)
    assert float(mask[r < 15].min()) > 0.99


def test_pure_noise_gives_the_sphere() -> None:
    mask, r = solvent_mask(_noise(1.0), PIXEL, 90.0), _distance(BOX)
    assert float(mask[r <= 15].min()) == 1.0 and float(mask[r > 18].max()) < 1e-6


def test_the_extension_and_the_edge_have_the_lengths_asked_for() -> None:
    ball = (_distance(BOX) <= 8).float()
    mask = solvent_mask(ball, PIXEL, lowpass=2 * PIXEL, threshold=0.5, extend=9.0, soft=12.0)
    ray = mask[BOX // 2, BOX // 2, BOX // 2 :]
    assert float(ray[8 + 3]) == 1.0 and float(ray[8 + 7]) < 1e-6
    assert float(ray[8 + 5]) == pytest.approx(0.5, abs=1e-6)


def test_a_lowpass_keeps_what_is_below_and_removes_what_is_above() -> None:
    v = _noise(1.0).double()
    before, after = volume_fft(v), volume_fft(lowpass(v, PIXEL, resolution=BOX * PIXEL / 10, edge_shells=2))
    k = np.fft.fftfreq(BOX, 1 / BOX)
    r = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.arange(BOX // 2 + 1) ** 2)
    torch.testing.assert_close(after[r < 8.9], before[r < 8.9])
    assert float(after[r > 11.1].abs().max()) < 1e-9
    half = volume_fft(gaussian_lowpass(v, PIXEL, BOX * PIXEL / 10)) / before
    assert float(half[0, 10, 0].real) == pytest.approx(0.5, rel=1e-5)


def test_a_butterworth_gain_is_the_closed_form() -> None:
    f = torch.tensor([0.0, 0.5, 1.0, 2.0])
    torch.testing.assert_close(butterworth_gain(f, 1.0), (1 + f**16) ** -0.5)
    assert float(butterworth_gain(torch.tensor(1.0), 1.0)) == pytest.approx(2**-0.5)


def test_sharpening_multiplies_a_plane_wave_by_the_debye_waller_factor() -> None:
    x = torch.arange(BOX, dtype=torch.float64)
    wave = (2 * torch.pi * 8 * x / BOX).cos().expand(BOX, BOX, BOX).contiguous()
    expected = np.exp(100 / 4 * (8 / (BOX * PIXEL)) ** 2)
    torch.testing.assert_close(sharpen(wave, PIXEL, -100.0), wave * expected, rtol=1e-6, atol=1e-6)


def test_a_radial_gain_is_linear_between_shells_and_flat_beyond_the_last() -> None:
    v = _noise(1.0).double()
    ratio = volume_fft(apply_radial_gain(v, torch.tensor([1.0, 3.0, 2.0]))) / volume_fft(v)
    found = [float(ratio[0, y, x].real) for y, x in ((0, 0), (0, 1), (1, 1), (0, 2), (9, 9))]
    np.testing.assert_allclose(found, [1.0, 3.0, 3.0 - (np.sqrt(2) - 1), 2.0, 2.0], rtol=1e-5)
