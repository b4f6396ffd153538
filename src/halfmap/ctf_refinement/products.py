"""What images and their models have in common before a CTF is applied: all that a fit of the optics needs to know.

At given poses an image is y = s c exp(i phi) p + noise, with contrast s, CTF c, odd phase phi and the slice p of the
reference at the image's pose. Of its log-likelihood (above that of a model without a particle)

    L = sum_k 2 c Re(exp(-i phi) cross) - c^2 norm,    cross = s conj(p) y / sigma2,    norm = f s^2 |p|^2 / sigma2

nothing else depends on the optics (f: share of the model's power that masks leave, `imaging.forward.BandImages`).
Half of the Fourier plane counts in the sum (`fourier.band`). Poses, references, noise and contrast stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from halfmap import kernels
from halfmap.expectation.score import shift_phases
from halfmap.expectation.search import Reference
from halfmap.imaging.ctf import COEFFICIENTS_PER_PASS, Defocus, undistorted
from halfmap.imaging.forward import BandImages, ImagingGeometry
from halfmap.imaging.optics import OpticsGroup


@dataclass(frozen=True)
class Range:
    """Shells of the reference that optics are fitted to: from ``first`` to ``last``.

    Coarse ones hold solvent and detergent that maps lack, and say little about the optics.
    """

    first: int
    last: int

    def stretch(self, geometry: ImagingGeometry) -> slice:
        """The coefficients of these shells in the band of a geometry."""
        return slice(geometry.count(self.first - 1), geometry.count(self.last))


@dataclass(frozen=True)
class Products:
    """Images of one optics group at their poses.

    index int64 [b]: their particles; group: the optics group, of which ``optics`` are the current values; defocus [b]:
    the current values of the images. kxy int64 [k, 2]: coefficients in cycles per box of the image. cross [b, k]
    complex64, norm [b, k] float32: as above, phases of the current odd aberrations undone. present [b]: probability
    that an image holds a particle, by which cross and norm are multiplied already.
    """

    index: Tensor
    group: int
    optics: OpticsGroup
    defocus: Defocus
    kxy: Tensor
    cross: Tensor
    norm: Tensor
    present: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def frequencies(self) -> Tensor:
        """Undistorted spatial frequencies float64 [k, 2] in 1/A, which CTF and aberrations are functions of."""
        return undistorted(self.kxy, self.optics)


def row_blocks(images: int, coefficients: int) -> list[slice]:
    """The images of a batch in blocks that are dealt with at once, so that what is made of them stays in the cache."""
    step = max(1, COEFFICIENTS_PER_PASS // max(1, coefficients))
    return [slice(start, start + step) for start in range(0, images, step)]


@dataclass(frozen=True)
class PosedImages:
    """Images of one optics group at their poses, against a reference.

    index int64 [b]: their particles; group: their optics group; mate: a map of the same signal whose noise is not that
    of the reference, so that products of both hold that of the signal alone; rotations [b, 3, 3], shifts [b, 2]
    (pixels); present [b]: probability that an image holds a particle; defocus [b]: the current values. own_noise [s]:
    what each finds of its own noise in the reference, by shell of that (`own_noise`).
    """

    index: Tensor
    group: int
    images: BandImages
    reference: Reference
    mate: Reference
    rotations: Tensor
    shifts: Tensor
    present: Tensor
    defocus: Defocus
    own_noise: Tensor | None = None

    def stretch(self, used: Range) -> slice:
        """The coefficients of a range of shells."""
        return used.stretch(self.images.geometry)

    def exchanged(self) -> PosedImages:
        """The same images against the mate, which holds nothing of their noise."""
        return replace(self, reference=self.mate, mate=self.reference, own_noise=None)

    def shell(self, used: Range) -> Tensor:
        """The shell of the reference int64 [k] that each coefficient lies in."""
        geometry = self.images.geometry
        shell = geometry.band.shell[self.stretch(used)]
        return (shell / geometry.ratio).round_().long().clamp_(max=used.last)

    def slices(self, used: Range) -> Tensor:
        """The reference [b, k] at the poses."""
        coords = self.images.geometry.coords[self.stretch(used)]
        return kernels.project_slices(self.reference.volume, coords * self.reference.padding, self.rotations)

    def data(self, used: Range) -> Tensor:
        """s y / sigma2 [b, k] with shifts undone, weighed by the probability of a particle."""
        part, images = self.stretch(used), self.images
        kxy = images.geometry.band.kxy[part]
        weight = images.scale[:, None] * self.present.to(images.scale)[:, None] / images.sigma2[..., part]
        return images.scored[:, part] * shift_phases(kxy, self.shifts, images.geometry.band.box) * weight

    def norm_weight(self, used: Range) -> Tensor:
        """f s^2 / sigma2 [b, k], weighed by the probability of a particle."""
        part, images = self.stretch(used), self.images
        left = images.left_by_shell().index_select(1, images.geometry.band.shell[part])
        weight = images.scale.square() * self.present.to(images.scale)
        return left.mul_(weight[:, None]).div_(images.sigma2[..., part])

    def products(self, used: Range) -> Products:
        """What these images say about the optics."""
        slices, weight, part = self.slices(used), self.norm_weight(used), self.stretch(used)
        cross = self.data(used).mul_(slices.conj())
        if self.own_noise is not None:
            cross -= self.own_noise.to(weight)[self.shell(used)] * weight * self.images.ctf[:, part]
        norm = weight.mul_(slices.real.square() + slices.imag.square())
        return Products(self.index, self.group, self.images.geometry.optics, self.defocus,
                        self.images.geometry.band.kxy[part], cross, norm, self.present)

    def some(self, rows: Tensor) -> PosedImages:
        """Those of the images that ``rows`` int64 [j] names."""
        return replace(self, index=self.index[rows.to(self.index.device)], images=self.images.some(rows),
                       rotations=self.rotations[rows], shifts=self.shifts[rows], present=self.present[rows],
                       defocus=self.defocus[rows])
