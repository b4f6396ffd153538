"""Preparation of particle images: background with mean 0 and sd 1, and the soft circle that hides neighbours."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.runtime.device import sent

# Pixels processed together, so that a pass stays in the cache.
PIXELS_PER_PASS = 1 << 19
# If the sd of a background is no more than this fraction of its spread before the fit, it is rounding error.
ROUNDING = 1e-5


def soft_circle(box: int, radius: float, edge: float = 5.0) -> Tensor:
    """A circle[y,x] around pixel box//2: 1 within `radius`, 0 beyond `radius` + `edge` pixels, a cosine between.

    RELION masks particles in this way (raised cosine of the distance). `edge` may be 0.
    """
    distance = _distance(box)
    if edge <= 0.0:
        return (distance <= radius).float()
    ramp = ((distance - radius) / edge).clamp(0.0, 1.0)
    return (0.5 + 0.5 * torch.cos(torch.pi * ramp)).float()


def soft_circles(box: int, radii: Tensor, edge: float, centres: Tensor) -> Tensor:
    """A soft_circle[b,y,x] for each image: radii[b] in pixels, centres[b,2] (x, y) in pixels off the box centre."""
    return kernels.soft_circles(box, radii, edge, centres + box // 2)


def normalise(images: Tensor, radius: float, ramp: bool = True) -> tuple[Tensor, Tensor]:
    """Images[b,y,x] with a background of mean 0 and sd 1, and ok[b]: False for images that hold no signal.

    The background is what is farther than `radius` pixels from the centre. Where the circle is nearly as large as the
    box, it is still the rim and the corners. A plane that is fitted to it by least squares (its mean alone without
    `ramp`) is subtracted from the whole image. An image with NaN or Inf (or a value whose square overflows), or with a
    constant background, is not ok and becomes zeros. Returns new tensors; images are float32.
    """
    count, box = images.shape[0], images.shape[-1]
    fit = _background(box, min(float(radius), box / 2 - 2), ramp).to(images.device)
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    ok = torch.empty(count, dtype=torch.bool, device=images.device)
    on_cpu = images.device.type == "cpu"  # elsewhere there is no such cache, and to ask for a value is to wait for it
    step = max(1, PIXELS_PER_PASS // (box * box)) if on_cpu else max(1, count)
    for start in range(0, count, step):
        flat, sd = _levelled(images[start:start + step], fit)
        fine = sd > 0
        flat.mul_(torch.where(fine, 1.0 / sd, 0.0)[:, None])
        if not on_cpu or not bool(fine.all()):
            flat.masked_fill_(~fine[:, None], 0.0)
        result[start:start + step] = flat.unflatten(1, (box, box))
        ok[start:start + step] = fine
    return result, ok


def background_sd(images: Tensor, radius: float) -> Tensor:
    """What `normalise` divides images[b,y,x] by, float32 [b]: sd of the background about its plane; 0 where not ok."""
    box = images.shape[-1]
    fit = _background(box, min(float(radius), box / 2 - 2), True).to(images.device)
    return torch.cat([_levelled(part, fit)[1] for part in images.split(max(1, PIXELS_PER_PASS // (box * box)))])


def _levelled(images: Tensor, fit: _Background) -> tuple[Tensor, Tensor]:
    """Pixels [b,pixel] of images[b,y,x] less the plane of their background, and its sd [b]; 0 where not ok."""
    flat = images.flatten(1).float()
    # Relative to one background pixel a constant is exactly zero, and a high offset costs no digits.
    flat = flat - flat[:, fit.pixel, None]
    spread = flat.square().mul_(fit.weight).sum(1).sqrt()
    flat.addmm_(flat @ fit.inverse, fit.basis, alpha=-1.0)
    sd = flat.square().mul_(fit.weight).sum(1).sqrt()
    # The sum is not finite if any pixel, in the background or not, is not finite.
    fine = torch.isfinite(flat.sum(1)) & torch.isfinite(sd) & (sd > ROUNDING * spread)
    return flat, torch.where(fine, sd, 0.0)


class _Background(NamedTuple):
    """The fit of a plane to background pixels.

    basis[p,pixel]; inverse[pixel,p], zero off the background; weight[pixel], which averages over the background; pixel:
    one of the background's pixels.
    """

    basis: Tensor
    inverse: Tensor
    weight: Tensor
    pixel: int

    def to(self, device: torch.device) -> _Background:
        return _Background(sent(self.basis, device), sent(self.inverse, device), sent(self.weight, device), self.pixel)


@lru_cache(maxsize=8)
def _background(box: int, radius: float, ramp: bool) -> _Background:
    """The least-squares fit to the pixels farther than `radius` from the centre."""
    outside = (_distance(box) > radius).flatten().double()
    axis = (torch.arange(box, dtype=torch.float64) - box // 2) / box
    plane = [torch.ones(box, box, dtype=torch.float64), axis.expand(box, box), axis[:, None].expand(box, box)]
    basis = torch.stack(plane if ramp else plane[:1]).flatten(1)
    inverse = torch.linalg.pinv((basis * outside) @ basis.T) @ (basis * outside)
    return _Background(basis.float(), inverse.T.float().contiguous(), (outside / outside.sum()).float(),
                       int(outside.argmax()))


def _distance(box: int) -> Tensor:
    """Distance[y,x] in pixels (float64) from pixel box//2."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    return torch.hypot(axis[:, None], axis[None, :])
