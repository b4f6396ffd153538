"""Guinier plot, B factor, FSC weighting and sharpening, against maps made with numpy whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halfmap.particles.mtf import DetectorMtf
from halfmap.validation.bfactor import (
    Sharpening,
    fit_guinier,
    fsc_weight,
    inverse_square,
    log_amplitude,
    sharpened,
)
from halfmap.validation.fsc import fsc

BOX, PIXEL = 64, 1.5


def frequency(box: int = BOX, pixel: float = PIXEL) -> np.ndarray:
    """Length of the frequency of every coefficient of rfftn in 1/A."""
    k = np.fft.fftfreq(box, pixel)
    return np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.fft.rfftfreq(box, pixel) ** 2)


def inverse(transform: np.ndarray) -> np.ndarray:
    return np.fft.irfftn(transform, s=(BOX,) * 3, axes=(0, 1, 2))


def shaped(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    """A map with these amplitudes (of rfftn) and random phases."""
    noise = np.fft.rfftn(np.random.default_rng(seed).standard_normal((BOX, BOX, BOX)))
    return inverse(spectrum * noise / np.abs(noise))


def speckled(spectrum: np.ndarray, seed: int) -> np.ndarray:
    """A map whose amplitudes scatter about these like those of an atomic model: complex normal coefficients."""
    return inverse(spectrum * np.fft.rfftn(np.random.default_rng(seed).standard_normal((BOX, BOX, BOX))))


def tensor(v: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(v).float()


@pytest.mark.parametrize("known", [40.0, 90.0, 200.0])
def test_the_fitted_b_is_that_by_which_the_amplitudes_fall(known):
    v = tensor(shaped(1e4 * np.exp(-known / 4 * frequency() ** 2)))
    fit = fit_guinier(log_amplitude(v), BOX, PIXEL, 10.0, 4.0)
    assert fit is not None
    assert fit.bfactor == pytest.approx(-known, rel=0.02)
    assert fit.correlation < -0.999 and fit.slope == pytest.approx(fit.bfactor / 4)


def test_the_line_is_that_of_numpy_over_the_shells_between_the_two_resolutions():
    values = np.random.default_rng(1).normal(-8, 1, BOX // 2 + 1)
    values[20] = -np.inf
    fit = fit_guinier(torch.from_numpy(values), BOX, PIXEL, 10.0, 4.0)
    x = (np.arange(BOX // 2 + 1) / (BOX * PIXEL)) ** 2
    used = (x >= 1 / 10**2) & (x <= 1 / 4**2) & np.isfinite(values)
    slope, intercept = np.polyfit(x[used], values[used], 1)
    assert fit is not None
    assert (fit.slope, fit.intercept, fit.shells) == (pytest.approx(slope), pytest.approx(intercept), used.sum())
    assert (fit.first, fit.last) == (10, 24)
    assert fit.correlation == pytest.approx(np.corrcoef(x[used], values[used])[0, 1])
    np.testing.assert_allclose(inverse_square(BOX, PIXEL).numpy(), x)
    np.testing.assert_allclose(fit.line(torch.from_numpy(x)).numpy(), intercept + slope * x)


def test_the_standard_error_is_the_scatter_of_repeated_fits():
    rng = np.random.default_rng(2)
    x = (np.arange(BOX // 2 + 1) / (BOX * PIXEL)) ** 2
    fits = [fit_guinier(torch.from_numpy(-25 * x + rng.normal(0, 0.05, len(x))), BOX, PIXEL, 10.0, 4.0)
            for _ in range(400)]
    found = np.array([(fit.bfactor, fit.error) for fit in fits if fit])
    assert found[:, 0].std() == pytest.approx(found[:, 1].mean(), rel=0.12)
    assert found[:, 0].mean() == pytest.approx(-100, abs=3 * found[0, 1] / 20 * 2)


def test_no_line_goes_through_two_shells():
    values = torch.zeros(BOX // 2 + 1, dtype=torch.float64)
    assert fit_guinier(values, BOX, PIXEL, 10.0, 8.7) is None
    assert fit_guinier(values, BOX, PIXEL, 10.0, 8.0) is not None


def test_log_amplitudes_are_means_over_the_whole_shell():
    v = np.random.default_rng(3).standard_normal((BOX, BOX, BOX))
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int).ravel()
    amplitude = np.abs(np.fft.fftn(v)).ravel() / BOX**3
    mean = (np.bincount(shell, amplitude) / np.bincount(shell))[: BOX // 2 + 1]
    np.testing.assert_allclose(log_amplitude(tensor(v)).numpy(), np.log(mean), atol=1e-5)


def test_sharpening_by_minus_b_gives_the_amplitudes_back():
    known = 120.0
    flat = 1e4 * np.ones_like(frequency())
    v = tensor(shaped(flat * np.exp(-known / 4 * frequency() ** 2)))
    restored = np.abs(np.fft.rfftn(sharpened(v, PIXEL, Sharpening(-known)).double().numpy()))
    inside = frequency() < 1 / 3.5
    np.testing.assert_allclose(restored[inside], flat[inside], rtol=2e-3)


def test_the_mtf_is_divided_out_at_the_frequency_of_the_detector():
    # On the detector, whose pixel is two thirds of the map's, the MTF is 1 - 1.2 f (f in cycles per pixel).
    detector = 1.0
    mtf = DetectorMtf(np.linspace(0, 0.7, 8), 1 - 1.2 * np.linspace(0, 0.7, 8))
    clean = speckled(np.exp(-20 * frequency() ** 2), 4)
    dulled = inverse(np.fft.rfftn(clean) * (1 - 1.2 * np.minimum(frequency() * detector, 0.7)))
    gain = mtf.on_grid(BOX, PIXEL, detector)
    np.testing.assert_allclose(sharpened(tensor(dulled), PIXEL, Sharpening(mtf=gain)).numpy(), clean,
                               atol=2e-5 * np.abs(clean).max())
    wrong = sharpened(tensor(dulled), PIXEL, Sharpening(mtf=mtf.on_grid(BOX, PIXEL, PIXEL))).numpy()
    assert np.abs(wrong - clean).max() > 0.02 * np.abs(clean).max()
    np.testing.assert_allclose(log_amplitude(tensor(dulled), gain.reciprocal()).numpy(),
                               log_amplitude(tensor(clean)).numpy(), atol=1e-4)


def test_the_weight_is_the_correlation_of_the_mean_map_with_the_map_without_noise():
    signal = speckled(np.exp(-30 * frequency() ** 2), 5)
    half1, half2 = (signal + 0.25 * np.random.default_rng(seed).standard_normal(signal.shape) for seed in (6, 7))
    curve = fsc(tensor(half1), tensor(half2))
    measured = fsc(tensor((half1 + half2) / 2), tensor(signal)).numpy()
    weight = fsc_weight(curve).numpy()
    trusted = (curve.numpy() > 0.3) & (np.arange(len(weight)) > 6)
    assert trusted.sum() > 10 and weight[trusted].min() < 0.8
    np.testing.assert_allclose(weight[trusted], measured[trusted], atol=0.03)
    np.testing.assert_allclose(fsc_weight(torch.tensor([1.0, 1.0, 0.5, 0.143])).numpy() ** 2,
                               [1, 1, 2 / 3, 0.286 / 1.143], atol=1e-6)


def test_nothing_is_kept_beyond_the_first_shell_without_agreement():
    weight = fsc_weight(torch.tensor([1.0, 0.9, 0.4, -0.01, 0.3, 0.2]))
    assert (weight[:3] > 0).all() and (weight[3:] == 0).all()


def test_the_weight_keeps_noise_out_of_the_b_factor():
    known = 150.0
    signal = speckled(np.exp(-known / 4 * frequency() ** 2), 8)
    half1, half2 = (
        tensor(signal + 0.15 * np.random.default_rng(seed).standard_normal(signal.shape)) for seed in (9, 10)
    )
    plain = log_amplitude((half1 + half2) / 2)
    weighted = plain + fsc_weight(fsc(half1, half2)).log()
    biased, fit = (fit_guinier(values, BOX, PIXEL, 10.0, 4.2) for values in (plain, weighted))
    assert biased is not None and fit is not None
    assert fit.bfactor == pytest.approx(-known, rel=0.05)
    assert biased.bfactor > -0.9 * known


def test_weight_low_pass_and_b_factor_multiply():
    v = speckled(np.ones_like(frequency()), 11)
    weight = torch.linspace(1, 0.2, BOX // 2 + 1)
    done = sharpened(tensor(v), PIXEL, Sharpening(-60.0, None, weight, 6.0)).double().numpy()
    k = frequency() * BOX * PIXEL
    edge = np.clip(k - BOX * PIXEL / 6.0 + 1, 0, 2) / 2
    expected = np.exp(15 * frequency() ** 2) * np.interp(k, np.arange(BOX // 2 + 1), weight.numpy())
    expected = expected * (0.5 + 0.5 * np.cos(np.pi * edge))
    np.testing.assert_allclose(done, inverse(np.fft.rfftn(v) * expected), atol=2e-5)
