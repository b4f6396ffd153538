"""Thon rings are found where images have them, as strong as they are, and nowhere else."""

import numpy as np
import pytest
import torch

from halfmap.fourier.band import Band
from halfmap.validation.thon_rings import RingSums

BAND = Band.to_shell(64, 31)
IMAGES = 150


def contrast(defocus: np.ndarray) -> np.ndarray:
    """ctf^2 [b, k] computed independently with numpy: 300 kV, Cs 2.7 mm, Q 0.1, 2 A a pixel."""
    wavelength, cs = 0.019687, 2.7e7
    f2 = (BAND.kxy.numpy() ** 2).sum(1) / 128.0**2
    chi = np.pi * wavelength * defocus[:, None] * f2 - 0.5 * np.pi * cs * wavelength**3 * f2**2 + np.arcsin(0.1)
    return np.sin(chi) ** 2


def power(ctf2: np.ndarray, signal: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Powers of complex normal coefficients with variance N + S ctf^2, N = 3."""
    return (3.0 + signal[BAND.shell.numpy()] * ctf2) * generator.exponential(size=ctf2.shape)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    defocus = generator.uniform(8e3, 22e3, IMAGES)
    signal = np.where(np.arange(32) <= 18, 2.0, 0.0)
    return defocus, signal, power(contrast(defocus), signal, generator)


def rings(values: np.ndarray, ctf2: np.ndarray):
    sums = RingSums(BAND.shell)
    for part in range(0, IMAGES, 40):
        sums.add(torch.from_numpy(values[part:part + 40]), torch.from_numpy(ctf2[part:part + 40]))
    return sums.rings()


def test_signal_and_noise_by_shell_are_those_that_were_put_in(images):
    defocus, _, values = images
    found = rings(values, contrast(defocus))
    assert found.images == IMAGES
    inner = slice(6, 17)
    assert float(found.signal[inner].mean()) == pytest.approx(2.0, rel=0.05)
    assert float(found.noise[inner].mean()) == pytest.approx(3.0, rel=0.03)
    assert float(found.signal[22:].mean()) == pytest.approx(0.0, abs=0.1)


def test_rings_reach_as_far_as_there_is_signal(images):
    defocus, _, values = images
    assert 16 <= rings(values, contrast(defocus)).reach <= 21


@pytest.mark.parametrize("wrong", ["shuffled", "shifted"])
def test_another_defocus_shows_no_rings(wrong, images):
    defocus, _, values = images
    other = defocus[::-1] if wrong == "shuffled" else defocus + 6e3
    assert rings(values, contrast(other)).reach < 8


def test_noise_alone_shows_none(images):
    generator = np.random.default_rng(3)
    ctf2 = contrast(images[0])
    assert rings(power(ctf2, np.zeros(32), generator), ctf2).reach == 0
