"""Real transforms against numpy's in double precision, and their bits with other numbers of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier.real_transforms import irfft, irfft2, irfftn, rfft, rfft2, rfftn

SIZES = [1, 2, 3, 7, 8, 9, 12, 15, 16, 17, 20, 31, 32, 33, 48, 63, 64, 65]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def spectrum(*shape: int) -> Tensor:
    """Coefficients whose imaginary parts do not vanish where those of a real map would."""
    return torch.complex(noise(*shape), noise(*shape).flip(0))


@pytest.mark.parametrize("n", SIZES)
def test_lines_images_and_maps_are_numpy_s(n: int) -> None:
    v, F = noise(3, n, n), spectrum(3, n, n // 2 + 1)
    for found, expected in (
        (rfft(v), np.fft.rfft(v)), (rfft(v, dim=1), np.fft.rfft(v, axis=1)), (rfft2(v), np.fft.rfft2(v)),
        (irfft(F, n), np.fft.irfft(F, n)), (irfft(F.transpose(1, 2), n, dim=1), np.fft.irfft(F.mT, n, axis=1)),
        (irfft2(F, n), np.fft.irfft2(F, (n, n))), (rfftn(v[:, None, :, :]), np.fft.rfft2(v)[:, None]),
    ):  # fmt: skip
        torch.testing.assert_close(found, torch.from_numpy(np.ascontiguousarray(expected)), rtol=1e-12, atol=1e-12)
    if n < 40:
        v, F = noise(2, n, n, n), spectrum(2, n, n, n // 2 + 1)
        axes = (1, 2, 3)
        torch.testing.assert_close(rfftn(v), torch.from_numpy(np.fft.rfftn(v, axes=axes)), rtol=1e-11, atol=1e-11)
        back = torch.from_numpy(np.fft.irfftn(F, (n,) * 3, axes))
        torch.testing.assert_close(irfftn(F, n), back, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("have", "n"), [(9, 16), (9, 12), (5, 16), (11, 32), (30, 20), (30, 21), (5, 40)])
def test_lines_are_cut_and_padded_as_numpy_does(have: int, n: int) -> None:
    v, F = noise(4, have), spectrum(4, have)
    torch.testing.assert_close(rfft(v, n), torch.from_numpy(np.fft.rfft(v, n)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(irfft(F, n), torch.from_numpy(np.fft.irfft(F, n)), rtol=1e-12, atol=1e-12)


@pytest.fixture
def with_threads() -> Iterator[Callable[[Callable[[], Tensor], int], Tensor]]:
    before = torch.get_num_threads()

    def run(work: Callable[[], Tensor], threads: int) -> Tensor:
        torch.set_num_threads(threads)
        return work()
    yield run
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", SIZES)
def test_no_bit_tells_the_number_of_threads(n: int, with_threads: Callable[..., Tensor]) -> None:
    v, F = noise(37, n, n).float(), spectrum(37, n, n // 2 + 1).to(torch.complex64)
    works: list[Callable[[], Tensor]] = [
        lambda: rfft(v[:, 0]), lambda: rfft(v), lambda: rfft(v, dim=1), lambda: rfft2(v), lambda: rfftn(v[:n]),
        lambda: irfft(F[:, 0], n), lambda: irfft(F, n), lambda: irfft2(F, n), lambda: rfft(v.double()),
        lambda: irfft(F.to(torch.complex128), n)]  # fmt: skip
    if n <= 37:
        works.append(lambda: irfftn(F[:n], n))
    for work in works:
        alone, *others = (with_threads(work, threads) for threads in (1, 2, 3, 4))
        assert all(torch.equal(other, alone) for other in others)
