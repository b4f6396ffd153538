"""Class means in two dimensions: the sums that images leave on slices turned in plane, turned back, and their inverse.

The M-step of soft assignment (halfmap.expectation.soft) leaves, for every class and every in-plane angle, sums of
contrast times data and of contrast squared on the coefficients of the images. Here they are inserted into one Fourier
plane a class, oversampled and with bilinear weights, and divided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from halfmap.fourier.real_transforms import rfft2
from halfmap.fourier.transform import coarser_box

OVERSAMPLING = 2  # of the Fourier plane
LEAST_WEIGHT = 1e-3  # of the mean weight of a shell: what divides a place that hardly any image reaches
FAINT = 0.1  # of the mean signal power of all classes in a shell: no class is taken to have less


@dataclass(frozen=True)
class Plane:
    """The Fourier plane of class means, on the frequencies of a reference of ``box`` pixels up to shell ``limit``.

    A transform is that of the box: unscaled, the origin at the centre pixel. Real images may have any number of pixels
    over the same field; their values are those of the box.
    """

    box: int
    limit: int

    @property
    def extent(self) -> int:
        """The largest oversampled coordinate."""
        return OVERSAMPLING * (self.limit + 1) + 1

    @property
    def side(self) -> int:
        """Pixels along the side of an image that holds the plane up to its limit, with room to turn it."""
        return coarser_box(self.box, 2.4 * (self.limit + 1))

    def shells(self, device: torch.device | None = None) -> Tensor:
        """The shell [y, x] of each place, in cycles per box, int64."""
        axis = torch.arange(-self.extent, self.extent + 1, device=device).double() / OVERSAMPLING
        return torch.hypot(axis[:, None], axis).round().long()


@dataclass(frozen=True)
class PlaneSums:
    """Sums of classes c on the plane: numerator complex128 [c, y, x], weight float64 [c, y, x]. They add."""

    numerator: Tensor
    weight: Tensor

    @staticmethod
    def zeros(classes: int, plane: Plane, device: torch.device | None = None) -> PlaneSums:
        """Nothing inserted yet."""
        shape = (classes, 2 * plane.extent + 1, 2 * plane.extent + 1)
        return PlaneSums(torch.zeros(shape, dtype=torch.complex128, device=device),
                         torch.zeros(shape, dtype=torch.float64, device=device))

    def __add__(self, other: PlaneSums) -> PlaneSums:
        return PlaneSums(self.numerator + other.numerator, self.weight + other.weight)


def waves(q: Tensor, side: int, sign: int = -1) -> Tensor:
    """exp(sign 2 pi i q x) complex64 [k, x] of frequencies q [k] (cycles per box) at ``side`` pixels over the box."""
    place = (torch.arange(side, dtype=torch.float64, device=q.device) - side // 2) / side
    angle = sign * 2 * math.pi * q.double()[:, None] * place
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def insert_(into: PlaneSums, numerator: Tensor, weight: Tensor, coords: Tensor, rotations: Tensor) -> None:
    """Add sums numerator, weight [c, a, k] on slices of coords [k, 2] (cycles per box) turned by rotations [a, 3, 3].

    Each goes to the four places around it, and once more to those around its Friedel mate (`folded`).
    """
    span = into.weight.shape[-1]
    flat, heavy = into.numerator.flatten(1), into.weight.flatten(1)
    for a, rotation in enumerate(rotations.double()):
        q = coords.double() @ rotation[:2, :2].to(coords.device) * OVERSAMPLING + span // 2
        low = q.floor()
        part, low = q - low, low.long()
        values, weights = numerator[:, a].to(flat.dtype), weight[:, a].double()
        for y in (0, 1):
            for x in (0, 1):
                share = (part[:, 0] if x else 1 - part[:, 0]) * (part[:, 1] if y else 1 - part[:, 1])
                place = (low[:, 1] + y) * span + low[:, 0] + x
                flat.index_add_(1, place, values * share)
                heavy.index_add_(1, place, weights * share)


def folded(sums: PlaneSums) -> PlaneSums:
    """The sums with those of the Friedel mates: the transform of a real image, on the whole plane."""
    return PlaneSums(sums.numerator + sums.numerator.flip(1, 2).conj(), sums.weight + sums.weight.flip(1, 2))


def divided(sums: PlaneSums, plane: Plane, signal: Tensor | None = None) -> Tensor:
    """Transforms complex64 [c, y, x] of class means from folded sums.

    signal [c, s]: power of a coefficient of each class by shell; the mean is then that of largest posterior probability
    under a prior of twice this power (Scheres 2012, J. Mol. Biol. 415, 406, with T = 2). None: the plain mean.
    """
    shell = plane.shells(sums.weight.device)
    inside = shell <= plane.limit
    flat = shell.clamp(max=plane.limit + 1).flatten()
    count = torch.bincount(flat, minlength=plane.limit + 2).double()
    mean = torch.zeros((len(sums.weight), plane.limit + 2), dtype=torch.float64, device=flat.device)
    mean = mean.index_add_(1, flat, sums.weight.flatten(1)) / count.clamp_min(1)
    ridge = LEAST_WEIGHT * mean + 1e-12
    if signal is not None:
        # A coefficient of the box is shared by so many places of the oversampled plane, and so is what is known of it.
        prior = 1 / (2 * OVERSAMPLING**2 * signal.double().clamp_min(1e-12))
        ridge[:, : plane.limit + 1] += prior
    divisor = sums.weight + ridge[:, flat].view_as(sums.weight)
    return torch.where(inside, sums.numerator / divisor, 0).to(torch.complex64)


def images_of(transforms: Tensor, plane: Plane, side: int) -> Tensor:
    """Real images float32 [c, y, x] of ``side`` pixels over the box from transforms [c, y, x] on the plane."""
    axis = torch.arange(-plane.extent, plane.extent + 1, device=transforms.device) / OVERSAMPLING
    wave = waves(axis, side, 1)
    image = torch.einsum("yv,cvu,xu->cyx", wave.T, transforms, wave.T).real
    place = (torch.arange(side, device=transforms.device) - side // 2) / side
    envelope = torch.sinc(place / OVERSAMPLING).square()
    return image / (envelope[:, None] * envelope) / (OVERSAMPLING * plane.box) ** 2


def moved(transforms: Tensor, plane: Plane, by: Tensor) -> Tensor:
    """The transforms [c, y, x] of means moved by ``by`` [c, 2] (x, y), in pixels of the box."""
    axis = torch.arange(-plane.extent, plane.extent + 1, device=transforms.device).double() / OVERSAMPLING
    phases = [torch.polar(torch.ones_like(angle), angle)
              for angle in (-2 * math.pi / plane.box * by.double()[:, i, None] * axis for i in (0, 1))]
    return transforms * (phases[1][:, :, None] * phases[0][:, None, :]).to(transforms.dtype)


@dataclass(frozen=True)
class Agreement:
    """Two half means a class, compared by shell: correlation [c, s], and signal [c, s], the power of a coefficient that
    both have in common, smoothed over neighbouring shells."""

    correlation: Tensor
    signal: Tensor


def agreement(halves: Tensor, plane: Plane) -> Agreement:
    """Compare half means: masked real images [2, c, y, x] of any number of pixels over the box."""
    side = halves.shape[-1]
    F = rfft2(halves.double()) * (plane.box / side) ** 2
    ky = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64, device=halves.device)
    kx = torch.arange(side // 2 + 1, dtype=torch.float64, device=halves.device)
    shell = torch.hypot(ky[:, None], kx).round().long().clamp(max=plane.limit + 1).flatten()
    double = torch.where((kx == 0) | (2 * kx == side), 1.0, 2.0).expand(side, -1).flatten()

    def by_shell(values: Tensor) -> Tensor:
        summed = torch.zeros((len(values), plane.limit + 2), dtype=torch.float64, device=values.device)
        return summed.index_add_(1, shell, values.flatten(1) * double)[:, : plane.limit + 1]

    count = by_shell(torch.ones_like(F[0, :1].real)).clamp_min(1)
    cross = by_shell((F[0] * F[1].conj()).real)
    powers = [by_shell(one.abs().square()) for one in F]
    correlation = cross / (powers[0] * powers[1]).sqrt().clamp_min(1e-30)
    padded = torch.nn.functional.pad(cross, (1, 1), mode="replicate")
    counts = torch.nn.functional.pad(count, (1, 1), mode="replicate")
    smooth = padded.unfold(1, 3, 1).sum(-1) / counts.unfold(1, 3, 1).sum(-1)
    return Agreement(correlation, smooth)


def at_least_faint(signal: Tensor, share: Tensor) -> Tensor:
    """Signal power [c, s], at least a fraction of the mean over classes, which count by their share [c]."""
    mean = (signal.clamp_min(0) * share[:, None]).sum(dim=0) / share.sum().clamp_min(1e-12)
    return torch.maximum(signal, FAINT * mean.clamp_min(1e-12))


def centre_of_mass(images: Tensor) -> Tensor:
    """Where the positive density of images [c, y, x] has its centre of mass: (x, y) [c, 2] as a share of the box."""
    side = images.shape[-1]
    place = (torch.arange(side, dtype=torch.float64, device=images.device) - side // 2) / side
    mass = images.double().clamp_min(0)
    total = mass.sum(dim=(1, 2)).clamp_min(1e-30)
    return torch.stack([(mass.sum(dim=1) @ place) / total, (mass.sum(dim=2) @ place) / total], dim=1)
