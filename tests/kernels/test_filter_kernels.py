"""The filters of non-uniform refinement: compiled and plain-torch kernels against numpy's FFT in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap import kernels
from halfmap.kernels import reference


def real_map(box: int, seed: int) -> Tensor:
    return torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resampled(v: Tensor, size: int, gain: np.ndarray) -> np.ndarray:
    """v filtered by gain[k^2] and Fourier-cropped to size, coefficient by coefficient."""
    box, f = len(v), np.fft.fftn(v.numpy())
    out = np.zeros((size, size, size), complex)
    reach = [k for k in range(-(size // 2), (size + 1) // 2) if size == box or 2 * abs(k) < size]
    for z in reach:
        for y in reach:
            for x in reach:
                out[z, y, x] = f[z, y, x] * gain[z * z + y * y + x * x] * (size / box) ** 3
    result = np.fft.ifftn(out)
    assert np.abs(result.imag).max() < 1e-12
    return result.real


@pytest.mark.parametrize(("box", "size"), [(12, 12), (12, 8), (11, 11), (11, 6), (12, 7), (11, 9)])
@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain torch"])
def test_two_maps_filtered_as_one_complex_map_are_each_what_numpy_gives(box, size, plain):
    a, b = real_map(box, 1), real_map(box, 2)
    gains = [torch.rand(3 * (size // 2) ** 2 + 1, generator=torch.Generator().manual_seed(s)).double() for s in (3, 4)]
    transforms = torch.fft.rfftn(a), torch.fft.rfftn(b)
    if plain:
        scaled = [g * (size / box) ** 3 for g in gains]
        pair = torch.fft.ifftn(reference.combined_transforms(*transforms, size, *scaled))
    else:
        pair = kernels.filtered_pair(*transforms, size, *gains)
    for part, v, gain in ((pair.real, a, gains[0]), (pair.imag, b, gains[1])):
        assert np.abs(part.numpy() - resampled(v, size, gain.numpy())).max() < 1e-12


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain torch"])
def test_maps_on_different_grids_over_the_same_box_are_filtered_together(plain):
    fine, coarse, size = real_map(12, 1), real_map(10, 2), 8
    gain = torch.rand(3 * (size // 2) ** 2 + 1, generator=torch.Generator().manual_seed(3)).double()
    transforms = torch.fft.rfftn(fine), torch.fft.rfftn(coarse)
    if plain:
        scaled = [gain * (size / box) ** 3 for box in (12, 10)]
        pair = torch.fft.ifftn(reference.combined_transforms(*transforms, size, *scaled))
    else:
        pair = kernels.filtered_pair(*transforms, size, gain, gain)
    for part, v in ((pair.real, fine), (pair.imag, coarse)):
        assert np.abs(part.numpy() - resampled(v, size, gain.numpy())).max() < 1e-12


@pytest.mark.parametrize("size", [*range(8, 34), 40, 48])
def test_the_number_of_threads_changes_no_bit_of_a_filtered_pair(size):
    transform = torch.fft.rfftn(real_map(48, 1).float())
    gain = torch.rand(3 * 24**2 + 1, generator=torch.Generator().manual_seed(3))
    threads, results = (kernels.thread_count(), torch.get_num_threads()), []
    try:
        for count in (1, 2, 3):
            kernels.set_threads(count)
            torch.set_num_threads(count)
            results.append(kernels.filtered_pair(transform, transform, size, gain, gain))
    finally:
        kernels.set_threads(threads[0])
        torch.set_num_threads(threads[1])
    assert all(torch.equal(torch.view_as_real(results[0]), torch.view_as_real(one)) for one in results[1:])


def test_single_precision_stays_single_and_close():
    a, b = real_map(16, 1), real_map(16, 2)
    gain = torch.rand(3 * 36 + 1, generator=torch.Generator().manual_seed(3)).double()
    double = kernels.filtered_pair(torch.fft.rfftn(a), torch.fft.rfftn(b), 12, gain, gain)
    single = kernels.filtered_pair(torch.fft.rfftn(a.float()), torch.fft.rfftn(b.float()), 12, gain, gain)
    assert single.dtype == torch.complex64 and (single - double).abs().max() < 1e-5


def test_the_difference_of_powers_is_that_of_the_parts():
    pair = torch.complex(real_map(9, 5), real_map(9, 6))
    expected = pair.imag.numpy() ** 2 - pair.real.numpy() ** 2
    assert np.allclose(kernels.power_difference(pair).numpy(), expected, atol=1e-14)


def keys_weight(distance: float) -> float:
    """Cubic convolution kernel of Keys (1981), equation 15, a = -1/2."""
    d = abs(distance)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain torch"])
def test_bands_are_kept_by_the_sums_of_cubic_convolution_weights(plain):
    node = 5
    place = torch.linspace(0, 11.9, 27, dtype=torch.float64).reshape(3, 3, 3)
    pair = torch.complex(real_map(3, 7), real_map(3, 8))
    out = real_map(3, 9)
    expected = out.numpy().copy()
    for i, t in enumerate(place.flatten().tolist()):
        for offset, part in ((0, pair.real), (1, pair.imag)):
            kept = sum(keys_weight(t - k) for k in range(node + offset, 30))
            expected.flat[i] += kept * float(part.flatten()[i])
    (reference if plain else kernels).add_kept_bands_(out, place, pair, node)
    assert np.allclose(out.numpy(), expected, atol=1e-6)
