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

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.expectation.score import shift_phases
from halfmap.expectation.search import Reference
from halfmap.imaging.ctf import COEFFICIENTS_PER_PASS, Defocus, Quadratures, quadratures, undistorted
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
    that an image holds a particle, by which cross and norm are multiplied already. turn [b, k]: how much of the other
    quadrature of the CTF masks have brought into the images (`imaging.cut_signal`); None: nothing.
    """

    index: Tensor
    group: int
    optics: OpticsGroup
    defocus: Defocus
    kxy: Tensor
    cross: Tensor
    norm: Tensor
    present: Tensor
    turn: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def quadratures(self, rows: slice) -> Quadratures:
        """The CTF of some of the images as their masks leave it, and what it becomes a quarter of a turn on."""
        seen = quadratures(self.kxy, self.optics, self.defocus[rows])
        if self.turn is None:
            return seen
        turn = self.turn[rows]
        return Quadratures(torch.addcmul(seen.sine, turn, seen.cosine),
                           torch.addcmul(seen.cosine, turn, seen.sine, value=-1.0))

    @cached_property
    def frequencies(self) -> Tensor:
        """Undistorted spatial frequencies float64 [k, 2] in 1/A, which CTF and aberrations are functions of."""
        return undistorted(self.kxy, self.optics)


def row_blocks(images: int, coefficients: int) -> list[slice]:
    """The images of a batch in blocks that are dealt with at once, so that what is made of them stays in the cache."""
    step = max(1, COEFFICIENTS_PER_PASS // max(1, coefficients))
    return [slice(start, start + step) for start in range(0, images, step)]


@dataclass(frozen=True)
class OwnNoiseShare:
    """How much of its own noise an image finds in its reference (`own_noise`).

    powers [p, s]: coefficients of a polynomial in the share of the signal that masks leave, by shell of the reference.
    """

    powers: Tensor

    def of(self, left: Tensor, shell: Tensor) -> Tensor:
        """Of images, by shell of theirs [b, s]. left [b, s]: what masks leave; shell [s]: of the reference."""
        total = torch.zeros_like(left)
        for power in self.powers.to(left).flip(0):
            total = total * left + power[shell]
        return total.clamp_min_(0.0)


@dataclass(frozen=True)
class PosedImages:
    """Images of one optics group at their poses, against a reference.

    index int64 [b]: their particles; group: their optics group; mate: a map of the same signal whose noise is not that
    of the reference, so that products of both hold that of the signal alone; rotations [b, 3, 3], shifts [b, 2]
    (pixels); present [b]: probability that an image holds a particle; defocus [b]: the current values. own_noise: what
    each finds of its own noise in the reference. turn [b, s]: how much of the other quadrature of the CTF masks have
    brought into them, by shell of the images (`imaging.cut_signal`); None: nothing. made [b, k]: the CTF with which the
    reference was made of them, relative to the phases that they have now; None: that of the images.
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
    own_noise: OwnNoiseShare | None = None
    turn: Tensor | None = None
    made: Tensor | None = None

    def stretch(self, used: Range) -> slice:
        """The coefficients of a range of shells."""
        return used.stretch(self.images.geometry)

    def exchanged(self) -> PosedImages:
        """The same images against the mate, which holds nothing of their noise."""
        return replace(self, reference=self.mate, mate=self.reference, own_noise=None)

    def shell(self, used: Range) -> Tensor:
        """The shell of the reference int64 [k] that each coefficient lies in."""
        return self._of_reference(self.images.geometry.band.shell[self.stretch(used)], used)

    def _of_reference(self, shell: Tensor, used: Range) -> Tensor:
        """The shells of the reference that shells of the images lie in."""
        return (shell / self.images.geometry.ratio).round_().long().clamp_(max=used.last)

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
        return self._weighed(used, self.left)

    def own_noise_weight(self, used: Range) -> Tensor:
        """s^2 / sigma2 [b, k], weighed by the probability of a particle."""
        return self._weighed(used, torch.ones_like(self.left))

    @cached_property
    def left(self) -> Tensor:
        """Share f [b, s] of the model's power that masks leave, by shell of the images."""
        return self.images.left_by_shell()

    def made_ctf(self, used: Range) -> Tensor:
        """The CTF [b, k] that is in what an image finds of its own noise in the reference."""
        return (self.images.ctf if self.made is None else self.made)[:, self.stretch(used)]

    def _weighed(self, used: Range, left: Tensor) -> Tensor:
        """s^2 / sigma2 [b, k] times shares [b, s], weighed by the probability of a particle."""
        part, images = self.stretch(used), self.images
        weight = images.scale.square() * self.present.to(images.scale)
        each = left.index_select(1, images.geometry.band.shell[part])
        return each.mul_(weight[:, None]).div_(images.sigma2[..., part])

    def products(self, used: Range) -> Products:
        """What these images say about the optics."""
        slices, weight, part = self.slices(used), self.norm_weight(used), self.stretch(used)
        cross = self.data(used).mul_(slices.conj())
        if self.own_noise is not None:
            every = torch.arange(self.images.geometry.band.limit + 1, device=weight.device)
            own = self.own_noise.of(self.left, self._of_reference(every, used))
            cross -= self._weighed(used, own).mul_(self.made_ctf(used))
        norm = weight.mul_(slices.real.square() + slices.imag.square())
        band, turn = self.images.geometry.band, self.turn
        if turn is not None:
            turn = turn.to(norm).index_select(1, band.shell[part])
        return Products(self.index, self.group, self.images.geometry.optics, self.defocus, band.kxy[part], cross, norm,
                        self.present, turn)

    def some(self, rows: Tensor) -> PosedImages:
        """Those of the images that ``rows`` int64 [j] names."""
        return replace(self, index=self.index[rows.to(self.index.device)], images=self.images.some(rows),
                       rotations=self.rotations[rows], shifts=self.shifts[rows], present=self.present[rows],
                       defocus=self.defocus[rows], turn=None if self.turn is None else self.turn[rows],
                       made=None if self.made is None else self.made[rows])
