"""Images tell whether protein is bright in them, by their skewness, before any pose is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.optics import OpticsGroup
from halfmap.validation.image_contrast import ImageContrast, image_skewness

BOX, PIXEL = 64, 3.0
OPTICS = OpticsGroup("one", 300.0, 2.7, 0.1, PIXEL, BOX)


def simulated(hollow: bool, sign: float) -> tuple[torch.Tensor, Defocus]:
    """40 noisy images of a ball or a shell, made with numpy and a CTF written out here, at 1 to 3 um underfocus."""
    generator = np.random.default_rng(4)
    axis = (np.arange(BOX) - BOX // 2) * PIXEL
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    density = ((radius < 55) & (radius > (40 if hollow else 0))).sum(0) * 1.0
    f = np.fft.fftfreq(BOX, PIXEL)
    square = f[:, None] ** 2 + f**2
    lam = 12.2643247 / np.sqrt(300e3 * (1 + 300e3 * 0.978466e-6))
    u = generator.uniform(1e4, 3e4, 40)
    gamma = np.pi * lam * u[:, None, None] * square - np.pi / 2 * 2.7e7 * lam**3 * square**2 + np.arcsin(0.1)
    seen = np.fft.ifft2(np.fft.fft2(density) * np.sin(gamma)).real
    noisy = sign * seen + 2 * seen.std() * generator.normal(size=seen.shape)
    zero, one = torch.zeros(40, dtype=torch.float64), torch.ones(40, dtype=torch.float64)
    defocus = Defocus(torch.from_numpy(u), torch.from_numpy(u), zero, zero, zero, one)
    return torch.from_numpy(noisy).float(), defocus


@pytest.mark.parametrize("hollow", [False, True])
def test_solid_and_hollow_particles_are_bright_or_dark_as_they_are(hollow: bool) -> None:
    for sign, bright in ((1.0, True), (-1.0, False)):
        images, defocus = simulated(hollow, sign)
        assert ImageContrast.of(image_skewness(images, OPTICS, defocus)).bright is bright
        turned = Defocus(defocus.u, defocus.v, defocus.angle, defocus.phase_shift, defocus.bfactor, -defocus.scale)
        assert ImageContrast.of(image_skewness(images, OPTICS, turned)).bright is not bright


def test_noise_and_too_few_images_are_not_judged() -> None:
    images, defocus = simulated(False, 1.0)
    noise = torch.from_numpy(np.random.default_rng(5).normal(size=images.shape)).float()
    assert ImageContrast.of(image_skewness(noise, OPTICS, defocus)).bright is None
    some = image_skewness(images, OPTICS, defocus)
    assert ImageContrast.of(some[:4]).bright is None and ImageContrast.of(some[:0]).images == 0
    some[::2] = torch.nan
    assert ImageContrast.of(some).images == 20
