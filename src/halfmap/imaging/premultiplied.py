"""Images that were stored multiplied by their CTF, z = c y, in the place of images y.

The likelihood and the map's sums need c y and c^2 of an image and nothing else, so such images serve as well as y. The
noise of z has the power c^2 sigma2. Divided by c, on the band and after masks, z takes the place of y in every formula:
the products with c that follow give back z, also where c is nearly zero and z holds noise of other frequencies, which
a mask or a smaller box lets through. Only the noise estimate looks at z / c by itself: there sum |z - c^2 P|^2 over the
sum of c^2 is the noise of y, with c^2 as the mask smooths it, and zeros of the CTF count for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.real_transforms import irfft2, rfft2
from halfmap.fourier.transform import image_coefficients
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.optics import OpticsGroup

NEAR_ZERO = 0.01  # of the largest |c| of an image: nothing is divided by less
COEFFICIENTS = 4096  # at which the mean of c^2 is taken, about: it is known to 1 %


def divided(values: Tensor, contrast: Tensor) -> Tensor:
    """Images [b, k] divided by their CTF ``contrast`` [b, k]; near its zeros by NEAR_ZERO of its largest value."""
    least = (NEAR_ZERO * contrast.abs().amax(dim=1, keepdim=True)).clamp_min(torch.finfo(contrast.dtype).tiny)
    return values / torch.where(contrast < 0, -1.0, 1.0).mul_(torch.maximum(contrast.abs(), least))


def power_left(band: Band, mask: Tensor, optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """Of the power of noise that was not multiplied by the CTF, what is left under a mask, relative to its mean square.

    mask [y, x] or [b, y, x]. It is c^2 [b, k] smoothed by the power spectrum of the mask, which fills zeros.
    """
    box = optics.box
    kxy = image_coefficients(box, mask.device).flatten(0, 1)
    power = ctf(kxy, optics, defocus).square().view(-1, box, box // 2 + 1)
    # A product in real space, with the mask's autocorrelation.
    overlap = irfft2(rfft2(mask.float()).abs().square(), box)
    overlap = overlap / overlap[..., :1, :1]
    return band.gather(rfft2(irfft2(power, box) * overlap)).real


def noise_sd(optics: OpticsGroup, defocus: Defocus) -> Tensor:
    """Standard deviation [b] of the pixels of c n, where n is white noise of standard deviation 1: the rms of c.

    Images are normalised to a background with sd 1, and that would hide that a CTF near focus lets less noise through.
    Only differences between images matter, and to them it makes none that real noise is not quite white.
    """
    step = max(1, round((optics.box**2 / 2 / COEFFICIENTS) ** 0.5))
    half = optics.box // 2
    ky, kx = torch.meshgrid(torch.arange(-half, half, step), torch.arange(0, half, step), indexing="ij")
    kxy = torch.stack([kx.flatten(), ky.flatten()], dim=1)
    return ctf(kxy, optics, defocus).square().mean(dim=1).sqrt()
