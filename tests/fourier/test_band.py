"""The Band holds each independent coefficient once, so that the likelihood needs no weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from halfmap.fourier.band import Band, band_limit
from halfmap.fourier.transform import image_fft

BOXES = [8, 9, 15, 16, 33]


def noise(count: int, box: int, sd: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sd * torch.randn(count, box, box, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_a_band_holds_exactly_one_of_each_friedel_pair_and_not_the_origin(box: int, limit: int) -> None:
    kept = [tuple(k) for k in Band.to_shell(box, limit).kxy.tolist()]
    top = min(limit, math.ceil(box / 2) - 1)
    span = range(-box, box + 1)
    wanted = {(x, y) for x in span for y in span if 0 < math.floor(math.hypot(x, y) + 0.5) <= top}
    assert len(set(kept)) == len(kept)
    assert not any((-x, -y) in set(kept) for x, y in kept)
    assert {pair for x, y in kept for pair in ((x, y), (-x, -y))} == wanted


@pytest.mark.parametrize("box", BOXES)
def test_every_coefficient_of_a_band_lies_strictly_inside_nyquist(box: int) -> None:
    band = Band.to_shell(box, box)
    assert 2 * int(band.kxy.abs().max()) < box
    assert band.limit == band_limit(box)


@pytest.mark.parametrize("box", BOXES)
def test_a_lower_resolution_is_a_prefix_of_the_band(box: int) -> None:
    band = Band.to_shell(box, box)
    for limit in range(1, band.limit + 1):
        lower = Band.to_shell(box, limit)
        count = band.count(limit)
        assert count == len(lower)
        assert torch.equal(band.kxy[:count], lower.kxy)
        assert torch.equal(band.prefix(limit).kxy, lower.kxy)
        assert lower.limit == limit


@pytest.mark.parametrize("box", [15, 16])
def test_gathered_coefficients_are_the_direct_fourier_sums_about_the_centre_pixel(box: int) -> None:
    images, band = noise(2, box, 1.0), Band.to_shell(box, box)
    axis = np.arange(box) - box // 2
    kx, ky = band.kxy.numpy().T
    wave_x = np.exp(-2j * np.pi * np.outer(kx, axis) / box)
    wave_y = np.exp(-2j * np.pi * np.outer(ky, axis) / box)
    expected = np.einsum("ky,kx,byx->bk", wave_y, wave_x, images.numpy())
    assert np.abs(band.gather(image_fft(images)).numpy() - expected).max() < 1e-11
    assert np.abs(band.transform(images).numpy() - expected).max() < 1e-11
    assert np.abs(band.transform(images, slice(7, None)).numpy() - expected[:, 7:]).max() < 1e-11


@pytest.mark.parametrize("box", [15, 16])
def test_a_shell_sum_adds_the_coefficients_whose_length_rounds_to_the_shell(box: int) -> None:
    band = Band.to_shell(box, box)
    values = torch.rand(3, len(band), dtype=torch.float64)
    shell = np.rint(np.hypot(*band.kxy.numpy().T)).astype(int)
    expected = [np.bincount(shell, weights=row, minlength=band.limit + 1) for row in values.numpy()]
    np.testing.assert_allclose(band.shell_sum(values).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("box", [15, 16])
def test_the_band_sum_is_the_gaussian_log_likelihood_of_all_pixels(box: int) -> None:
    # For white noise of standard deviation s the likelihood of the pixels, written out, compares two models that
    # differ inside the band only; sigma2 = E|n_k|^2 = n^2 s^2.
    band, s = Band.to_shell(box, box), 1.7
    data, first, second = noise(3, box, 1.0, seed=3)
    inside = torch.zeros(box, box, dtype=torch.bool)
    inside[band.kxy[:, 1] % box, band.kxy[:, 0] % box] = True
    inside[-band.kxy[:, 1] % box, -band.kxy[:, 0] % box] = True
    difference = torch.fft.ifft2(torch.where(inside, torch.fft.fft2(second), 0)).real
    second = first + difference

    def pixels(model: torch.Tensor) -> float:
        return float(-((data - model) ** 2).sum() / (2 * s**2))

    def coefficients(model: torch.Tensor) -> float:
        return float(-(band.gather(image_fft((data - model)[None])).abs() ** 2).sum() / (box * s) ** 2)

    assert coefficients(second) - coefficients(first) == pytest.approx(pixels(second) - pixels(first), rel=1e-12)


@pytest.mark.parametrize("box", [15, 16])
def test_white_noise_has_the_power_sigma2_in_every_coefficient_half_of_it_in_each_part(box: int) -> None:
    count, s = 4000, 0.8
    band = Band.to_shell(box, box)
    n = band.gather(image_fft(noise(count, box, s, seed=5))) / (box * s)
    error = 5 / math.sqrt(count)  # five standard errors: |n|^2 has variance 1, the parts 1/2 each
    assert float(((n.abs() ** 2).mean(0) - 1).abs().max()) < error
    assert float((2 * (n.real**2).mean(0) - 1).abs().max()) < math.sqrt(2) * error
    assert float((n.real * n.imag).mean(0).abs().max()) < 0.5 * error
    # one of each pair is independent of every other: nothing is counted twice
    correlation = (n.mH @ n).abs() / count
    assert float((correlation - torch.eye(len(band))).abs().max()) < error * 1.3
