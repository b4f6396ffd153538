"""Normal equations of a change of frequencies f -> (I + A) f: of where slices lie, and of where the CTF lies.

A has four numbers: isotropic, the stretches along x and along the diagonal, and the turn in the plane.

The slope of a slice is that of the trilinear cell around a coefficient: value and slope come of one reading of the map.
For a point of the particle at x, as a share of the box, its square is too large by 1 / sinc(pi x / 2)^2, 5 % at a
quarter (padding 2), and its product with the true slope is right, so that steps are too short by that. Central
differences over half a voxel to both sides, four slices more of each map, make them too long by half of it. The next
pass mends either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.ctf_refinement.products import PosedImages, Products, Range
from halfmap.imaging.ctf import Defocus

NUMBERS = 4


@dataclass(frozen=True)
class GradientSums:
    """Sums over images at every coefficient of what a slice gains that moves, maps float64 [5, k].

    With g the gradient of the slice in the plane of the image: gx gx, gx gy and gy gy in the norm of the model, and gx
    and gy times the residual. One g of a product, and the model in the residual, are those of the mate: beside that of
    the signal the gradient of a map's noise is larger than its noise beside the signal, because noise fills the mask to
    its edge, and its square would make every step a fraction of what it should be.
    """

    maps: Tensor

    @staticmethod
    def none(q: Tensor) -> GradientSums:
        """Of no image yet, at coefficients q [k, 2]."""
        return GradientSums(torch.zeros((5, len(q)), dtype=torch.float64, device=q.device))

    def add_(self, posed: PosedImages, used: Range) -> None:
        """Count images."""
        part = used.stretch(posed.images.geometry)
        c = posed.images.ctf[:, part]
        data, norm = posed.data(used).mul_(c), posed.norm_weight(used).mul_(c).mul_(c)
        coords, padding = posed.images.geometry.coords[part], posed.reference.padding
        sums = kernels.slope_sums(posed.reference.volume, posed.mate.volume, coords * padding, posed.rotations, data,
                                  norm)
        # Slopes are those to padded coordinates.
        self.maps[:3].add_(sums[:3], alpha=padding**2)
        self.maps[3:].add_(sums[3:], alpha=padding)

    def score(self, q: Tensor) -> Tensor:
        """The derivative [k, 4] of the likelihood."""
        moved = _moved(q)
        return 2.0 * (moved[..., 0] * self.maps[3, :, None] + moved[..., 1] * self.maps[4, :, None])

    def curvature(self, q: Tensor) -> Tensor:
        """Its expected curvature [k, 4, 4]."""
        form = torch.stack([self.maps[0], self.maps[1], self.maps[1], self.maps[2]], dim=1).view(-1, 2, 2)
        moved = _moved(q)
        return 2.0 * moved @ form @ moved.transpose(1, 2)


@dataclass(frozen=True)
class FocusSums:
    """Sums over images at every coefficient of what a CTF gains that moves, by the defocus of the images.

    An image's defocus is a quadratic form of frequencies, (xx, xy, yy) in A. score float64 [3, k]: form times the
    derivative by gamma; curvature float64 [9, k]: products of two numbers of the form times the expected curvature.
    """

    by_form: Tensor
    by_forms: Tensor

    @staticmethod
    def none(q: Tensor) -> FocusSums:
        """Of no image yet, at coefficients q [k, 2]."""
        return FocusSums(*(torch.zeros((n, len(q)), dtype=torch.float64, device=q.device) for n in (3, 9)))

    def add_(self, products: Products, rows: slice) -> None:
        """Count some of the images."""
        seen = products.quadratures(rows)
        form = defocus_forms(products.defocus[rows]).to(seen.sine)
        slope = (products.norm[rows] * seen.sine).sub_(products.cross[rows].real).mul_(seen.cosine).mul_(2.0)
        power = seen.cosine.square_().mul_(products.norm[rows]).mul_(2.0)
        self.by_form.add_(form.T @ slope)
        self.by_forms.add_((form[:, :, None] * form[:, None, :]).flatten(1).T @ power)

    def score(self, products: Products) -> Tensor:
        """The derivative [k, 4] of the likelihood."""
        return torch.einsum("kjm,mk->kj", _turned(products), self.by_form)

    def curvature(self, products: Products) -> Tensor:
        """Its expected curvature [k, 4, 4]."""
        turned = _turned(products)
        return turned @ self.by_forms.T.view(-1, 3, 3) @ turned.transpose(1, 2)


def defocus_forms(defocus: Defocus) -> Tensor:
    """The quadratic forms (xx, xy, yy) [b, 3] of the defocus of images, in A: dz |f|^2 = f^T Q f."""
    mean, half = 0.5 * (defocus.u + defocus.v), 0.5 * (defocus.u - defocus.v)
    along, across = half * torch.cos(2 * defocus.angle), half * torch.sin(2 * defocus.angle)
    return torch.stack([mean + along, across, mean - along], dim=1)


def _moved(q: Tensor) -> Tensor:
    """By what each number of A moves coefficients q [k, 2]: [k, 4, 2]."""
    x, y = q.unbind(dim=1)
    return torch.stack([q, torch.stack([x, -y], dim=1), torch.stack([y, x], dim=1), torch.stack([-y, x], dim=1)], dim=1)


def _turned(products: Products) -> Tensor:
    """By what each number of A turns gamma, for each number of the form: [k, 4, 3].

    gamma = -pi lambda f^T Q f, so that A turns it by -2 pi lambda f^T Q A f; other aberrations are small beside that.
    """
    f = products.frequencies
    x, y = f.unbind(dim=1)
    a, b = _moved(f).unbind(dim=2)
    terms = torch.stack([x[:, None] * a, x[:, None] * b + y[:, None] * a, y[:, None] * b], dim=2)
    return -2.0 * math.pi * products.optics.wavelength * terms
