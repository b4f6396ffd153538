"""Whether protein is bright or dark in images, before any pose is known.

Protein is dense and fills a small part of the image, so that values of a filtered image have a long tail on its side:
their skewness has the sign of the protein, also for hollow particles, whose middle is darker than their rim. Noise has
none. The filter turns the CTF's phases and keeps what is coarser than about 20 A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.transform import image_coefficients, image_fft, image_ifft
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.optics import OpticsGroup

FINEST = 20.0  # A
CERTAIN = 5.0  # standard errors
FEWEST = 5  # images: with fewer the standard error means little


@dataclass(frozen=True)
class ImageContrast:
    """Mean skewness of images, its standard error, and how many there are."""

    skewness: float
    error: float
    images: int

    @staticmethod
    def of(skewness: Tensor) -> ImageContrast:
        """Of images with these values [b]; those that are not finite are left out."""
        finite = skewness[skewness.isfinite()].double()
        if len(finite) < FEWEST:
            return ImageContrast(0.0, math.inf, len(finite))
        return ImageContrast(float(finite.mean()), float(finite.std()) / math.sqrt(len(finite)), len(finite))

    @property
    def bright(self) -> bool | None:
        """Whether protein is bright, the sign of the CTF's scale taken into account; None where that is not clear."""
        return self.skewness > 0 if abs(self.skewness) > CERTAIN * self.error else None


def image_skewness(images: Tensor, optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """Skewness [b] of filtered images [b, y, x] of one optics group, with a background of mean 0."""
    box = images.shape[-1]
    kxy = image_coefficients(box).double().flatten(0, 1)
    frequency = kxy.norm(dim=1) / optics.box_length
    gain = torch.exp(-(frequency * FINEST).square())
    filtered = image_fft(images).flatten(1) * (ctf(kxy, optics, defocus).sign() * gain).to(images)
    values = image_ifft(filtered.view(len(images), box, -1), box).flatten(1)
    values = values - values.mean(dim=1, keepdim=True)
    return values.pow(3).mean(dim=1) / values.square().mean(dim=1).pow(1.5)
