"""Claims about transforms, resampling, half volumes and shells, against analytic values and direct sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier import transform
from halfmap.fourier.gridding import divide_envelope, trilinear_envelope
from halfmap.fourier.shells import half_volume_radius, hermitian_weights, shell_index_3d, shell_sum
from halfmap.fourier.transform import (
    crop_volume,
    from_half_volume,
    half_volume,
    half_volume_extent,
    image_fft,
    image_ifft,
    pad_volume,
    resample_volume,
    resize_map,
    volume_fft,
    volume_ifft,
)


def _noise(box: int, seed: int = 0) -> Tensor:
    return torch.randn((box,) * 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _direct_sum(v: Tensor, q: np.ndarray, period: int) -> np.ndarray:
    """V at the grid q x q x q, q in cycles per `period` voxels, straight from the definition."""
    x = np.arange(v.shape[-1]) - v.shape[-1] // 2
    wave = np.exp(-2j * np.pi * q[:, None] * x / period)
    return np.einsum("az,by,cx,zyx->abc", wave, wave, wave, v.numpy(), optimize=True)


def _sampled_waves(box: int, pixel_size: float, length: float) -> Tensor:
    """A few plane waves of the period `length` (A), none beyond 5 cycles, sampled about the centre."""
    x = (torch.arange(box, dtype=torch.float64) - box // 2) * pixel_size
    v = torch.full((box,) * 3, 0.3, dtype=torch.float64)
    waves = ((1.0, (1, -2, 3), 0.4), (0.7, (0, 5, -4), 1.9), (0.5, (-5, 1, 0), 2.2))
    for amplitude, (kz, ky, kx), phase in waves:
        angle = 2 * math.pi / length * (kz * x[:, None, None] + ky * x[:, None] + kx * x) + phase
        v = v + amplitude * angle.cos()
    return v


@pytest.mark.parametrize("box", [12, 15, 16])
def test_the_transform_is_the_unscaled_sum_about_voxel_half_the_box(box: int) -> None:
    v = _noise(box)
    k = np.fft.fftfreq(box, 1 / box)
    expected = _direct_sum(v, k, box)[..., : box // 2 + 1]
    assert np.abs(volume_fft(v).numpy() - expected).max() < 1e-10


@pytest.mark.parametrize("box", [15, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transforming_there_and_back_returns_the_map_and_the_images(box: int, dtype: torch.dtype) -> None:
    v = _noise(box).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert volume_ifft(volume_fft(v), box).dtype == dtype
    torch.testing.assert_close(volume_ifft(volume_fft(v), box), v, atol=tolerance, rtol=0)
    torch.testing.assert_close(image_ifft(image_fft(v), box), v, atol=tolerance, rtol=0)


@pytest.mark.parametrize("box", [31, 32])
def test_a_centred_gaussian_has_the_real_positive_gaussian_transform(box: int) -> None:
    sd = 2.0
    x = torch.arange(box, dtype=torch.float64) - box // 2
    squared = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2
    V = volume_fft((-squared / (2 * sd**2)).exp())
    k = torch.fft.fftfreq(box, 1 / box, dtype=torch.float64)
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + torch.arange(box // 2 + 1, dtype=torch.float64) ** 2
    expected = (2 * math.pi * sd**2) ** 1.5 * (-2 * (math.pi * sd / box) ** 2 * k2).exp()
    assert float((V.real - expected).abs().max()) < 1e-8 * float(expected.max())  # aliasing: exp(-n^2/8 sd^2)
    assert float(V.imag.abs().max()) < 1e-9 * float(expected.max())


@pytest.mark.parametrize("box", [15, 16])
def test_shell_sums_of_the_weighted_half_transform_obey_parseval(box: int) -> None:
    v = _noise(box)
    shell = shell_index_3d(box)
    power = shell_sum(volume_fft(v).abs().square() * hermitian_weights(box), shell, int(shell.max()) + 1)
    assert float(power.sum()) / box**3 == pytest.approx(float(v.square().sum()), rel=1e-12)


@pytest.mark.parametrize("box", [9, 10])
def test_shell_sums_equal_sums_over_the_full_complex_grid(box: int) -> None:
    v = _noise(box)
    k = np.rint(np.fft.fftfreq(box, 1 / box)).astype(int)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    full = np.abs(np.fft.fftn(v.numpy())) ** 2
    expected = [full[np.rint(radius) == s].sum() for s in range(box // 2 + 1)]
    power = volume_fft(v).abs().square() * hermitian_weights(box)
    found = shell_sum(power, shell_index_3d(box), box // 2 + 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11)
    both = shell_sum(torch.stack([volume_fft(v), 2j * volume_fft(v)]), shell_index_3d(box), box // 2 + 1)
    torch.testing.assert_close(both[1], 2j * both[0])


@pytest.mark.parametrize(("box", "size"), [(7, 12), (8, 13), (8, 12), (7, 13)])
def test_padding_keeps_the_centre_voxel_and_cropping_undoes_it(box: int, size: int) -> None:
    v = torch.zeros((box,) * 3)
    v[box // 2, box // 2, box // 2] = 1.0
    padded = pad_volume(v, size)
    assert padded.shape == (size,) * 3 and float(padded[size // 2, size // 2, size // 2]) == 1.0
    assert torch.equal(crop_volume(pad_volume(_noise(box), size), box), _noise(box))


@pytest.mark.parametrize(("box", "box_out"), [(16, 24), (24, 16), (15, 20), (20, 15), (17, 31), (16, 16)])
def test_resampling_reproduces_a_band_limited_map_at_the_new_points(box: int, box_out: int) -> None:
    length = 40.0
    found = resample_volume(_sampled_waves(box, length / box, length), box_out)
    torch.testing.assert_close(found, _sampled_waves(box_out, length / box_out, length), atol=1e-12, rtol=0)


@pytest.mark.parametrize("new_pixel_size", [1.37, 2.0, 2.41])
def test_resizing_to_any_pixel_size_is_exact_for_a_band_limited_map(new_pixel_size: float) -> None:
    box, pixel_size, new_box = 24, 2.0, 15
    found = resize_map(_sampled_waves(box, pixel_size, 48.0), pixel_size, new_pixel_size, new_box)
    expected = _sampled_waves(new_box, new_pixel_size, 48.0)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_resizing_to_a_larger_box_puts_zero_where_there_was_no_map() -> None:
    found = resize_map(torch.ones(8, 8, 8), 2.0, 2.0, 12)
    torch.testing.assert_close(found, pad_volume(torch.ones(8, 8, 8), 12), atol=1e-6, rtol=0)


@pytest.mark.parametrize("box", [11, 12])
@pytest.mark.parametrize("padding", [1, 2, 3])
@pytest.mark.parametrize("limit", [3, 6])
def test_half_volume_values_equal_the_direct_sum_at_padded_points(box: int, padding: int, limit: int) -> None:
    v = _noise(box)
    H = half_volume(v, padding, limit)
    m = half_volume_extent(padding, limit)
    assert H.shape == (2 * m + 1, 2 * m + 1, m + 1) and H.dtype == torch.complex128
    q = np.arange(-m, m + 1)
    x = np.arange(box) - box // 2
    envelope = np.sinc(x / (padding * box)) ** 2
    corrected = v / torch.from_numpy(envelope[:, None, None] * envelope[:, None] * envelope)
    expected = _direct_sum(corrected, q, padding * box)[:, :, m:]
    inside = np.abs(q) <= padding * box // 2
    kept = inside[:, None, None] & inside[:, None] & inside[m:]
    assert np.abs(H.numpy() - expected)[kept].max() < 1e-10
    assert np.abs(H.numpy())[~kept].max(initial=0.0) == 0.0
    single = half_volume(v.float(), padding, limit)
    assert single.dtype == torch.complex64 and float((single - H).abs().max()) < 1e-4 * float(H.abs().max())


@pytest.mark.parametrize(("padding", "limit"), [(1, 5), (2, 9), (3, 7)])
def test_all_corners_of_a_sample_within_the_limit_lie_in_the_half_volume(padding: int, limit: int) -> None:
    furthest = padding * (limit + 0.5)
    assert math.floor(furthest) + 1 <= half_volume_extent(padding, limit)


@pytest.mark.parametrize("box", [11, 12])
@pytest.mark.parametrize("padding", [1, 2])
def test_the_inverse_of_a_complete_half_volume_is_the_map(box: int, padding: int) -> None:
    v = _noise(box)
    back = from_half_volume(half_volume(v, padding, box // 2), padding, box)
    torch.testing.assert_close(back, divide_envelope(v, padding), atol=1e-12, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3000, 1 << 20])  # lines that are transformed together: one, several, all
@pytest.mark.parametrize("box", [10, 24])
def test_the_inverse_of_a_partial_half_volume_is_the_direct_inverse_sum(box: int, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(transform, "_CHUNK_ELEMENTS", chunk)
    padding = 2
    m = half_volume_extent(padding, 2)
    H = half_volume(_noise(box), padding, 2)
    q, x = np.arange(-m, m + 1), np.arange(box) - box // 2
    wave = np.exp(2j * np.pi * q[:, None] * x / (padding * box))
    weight = np.where(np.arange(m + 1) == 0, 1.0, 2.0)  # the Friedel mates of qx > 0
    expected = np.einsum("abc,c,az,by,cx->zyx", H.numpy(), weight, wave, wave, wave[m:], optimize=True).real
    found = from_half_volume(H, padding, box).numpy()
    np.testing.assert_allclose(found, expected / (padding * box) ** 3, atol=1e-12)


def test_trilinear_interpolation_of_a_half_volume_gives_the_true_transform_on_average() -> None:
    # The wave of a point at x is interpolated between two padded coordinates and compared with itself at many
    # positions between them: the mean ratio is the factor by which the map has to be divided.
    box, padding, x = 16, 2, 6
    u = (np.arange(4000) + 0.5) / 4000
    wave = np.exp(2j * np.pi * u * x / (padding * box))
    corner = np.exp(2j * np.pi * x / (padding * box))
    ratio = np.mean(((1 - u) + u * corner) / wave)
    assert ratio == pytest.approx(float(trilinear_envelope(box, padding)[box // 2 + x]), rel=1e-6)


def test_half_volume_radius_is_the_distance_from_the_origin() -> None:
    r = half_volume_radius(4)
    assert r.shape == (9, 9, 5)
    assert float(r[4, 4, 0]) == 0.0 and float(r[1, 4, 4]) == 5.0 and float(r[4, 0, 3]) == 5.0
