"""Images as Fourier coefficients of a Band, beside the CTF that formed them.

y(k) = scale ctf(k) exp(-2 pi i k.t) V(R^T k) + noise, E|noise|^2 = sigma2(|k|). Two copies of each image are kept: one
under a soft circular mask, for scoring and noise estimation, and the whole one, for back-projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.imaging.ctf import Defocus, ctf, odd_aberration, reference_coordinates
from halfmap.imaging.curvature import CurvedImages
from halfmap.imaging.optics import CtfState, OpticsGroup
from halfmap.imaging.premultiplied import divided, power_left


@dataclass(frozen=True)
class ImagingGeometry:
    """What all images of an optics group share: their band, and where it lies in the reference.

    coords: float64 [k, 2], the band in cycles per box of the reference map; odd: unit phases [k] of beam tilt and odd
    Zernike terms, or None; ratio: image shells per reference shell; pixels: image pixels per reference pixel.
    """

    optics: OpticsGroup
    band: Band
    coords: Tensor
    odd: Tensor | None
    ratio: float
    pixels: float

    @staticmethod
    def build(optics: OpticsGroup, box: int, pixel_size: float, limit: int) -> ImagingGeometry:
        """Geometry of an optics group against a reference of ``box`` voxels of ``pixel_size`` angstrom.

        limit: highest shell of the reference; the band ends where the reference or the image does, with room for
        the stretch of an anisotropic magnification.
        """
        ratio = optics.box * optics.pixel_size / (box * pixel_size)
        band = Band.to_shell(optics.box, int(limit * ratio))
        coords = reference_coordinates(band.kxy, optics, box, pixel_size)
        inside = coords.norm(dim=1) <= limit + 0.5
        if not bool(inside.all()):
            first = int(band.shell[~inside].min())
            band = band.prefix(first - 1)
            coords = coords[: len(band)]
        odd = odd_aberration(band.kxy, optics)
        return ImagingGeometry(optics, band, coords, odd, ratio, pixel_size / optics.pixel_size)

    def to(self, device: torch.device) -> ImagingGeometry:
        """The same geometry on another device."""
        odd = None if self.odd is None else self.odd.to(device)
        return replace(self, band=self.band.to(device), coords=self.coords.to(device), odd=odd)

    def count(self, limit: int) -> int:
        """Number of leading coefficients up to a shell ``limit`` of the reference."""
        return self.band.count(self.last_shell(limit))

    def last_shell(self, limit: int) -> int:
        """The last shell of the image up to a shell ``limit`` of the reference."""
        return min(int(limit * self.ratio), self.band.limit)


class Geometries:
    """Geometries against one reference, for images that come one optics group after the other.

    The last one is kept. Groups of the same frame share its band and coordinates, which are large beside their phases.
    """

    def __init__(self, box: int, pixel_size: float, limit: int, device: torch.device) -> None:
        self.box, self.pixel_size, self.limit, self.device = box, pixel_size, limit, device
        self._last: ImagingGeometry | None = None

    def of(self, optics: OpticsGroup) -> ImagingGeometry:
        """The geometry of an optics group, as `ImagingGeometry.build` makes it."""
        last = self._last
        if last is None or optics.frame != last.optics.frame:
            last = ImagingGeometry.build(optics, self.box, self.pixel_size, self.limit).to(self.device)
        elif optics != last.optics:
            last = replace(last, optics=optics, odd=odd_aberration(last.band.kxy, optics))
        self._last = last
        return last


@dataclass(frozen=True)
class SignalLeft:
    """Share of the model's power that is left of every shell of an image [b, s].

    coarse, fine: under the masks for scoring; box: in the whole image.
    """

    coarse: Tensor
    fine: Tensor
    box: Tensor


@dataclass(frozen=True)
class NoiseCount:
    """How coefficients count for the noise estimate where not all count alike.

    weight [b, k]: of the power of a residual; noise [b, k]: how much of the noise's power it then has.
    """

    weight: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Spread:
    """What back-projection inserts: values [b, k] and weights [b, k], on slices of this ``curvature`` [b] (height over
    squared distance from the origin, in cycles per box of the reference), or flat ones (None)."""

    values: Tensor
    weights: Tensor
    curvature: Tensor | None = None


@dataclass(frozen=True)
class BandImages:
    """A batch of images of one frame on their band.

    geometry: of one of their optics groups; band and coordinates are those of all. scored [b, k]: under a circular
    mask; whole [b, k]: unmasked; ctf [b, k]; sigma2 [k], or [b, k] where there are several groups; scale [b].
    mask_power: mean square of the mask, by which it lowers the power of white noise. From coefficient ``fine_from`` on
    the mask of image b is wider, and its mean square is fine_power [b]. left: of the model's power; None: all of it.
    counted: for the noise estimate; None: all coefficients alike. Images that were stored multiplied by their CTF are
    here divided by it (`imaging.premultiplied`), and do not count alike. curved: where they are back-projected on the
    Ewald sphere; scoring takes slices as flat.

    The CTF moves signal out of the mask, and out of the box, and the model ctf V has all of it. Of its power |m|^2 a
    share f is left in an image: that is, on average, both the product of model and image and the norm of the model in
    the mask. So the log-likelihood is 2 <y, m> - f |m|^2, and back-projection sums ctf y and f ctf^2.
    """

    geometry: ImagingGeometry
    scored: Tensor
    whole: Tensor
    ctf: Tensor
    sigma2: Tensor
    scale: Tensor
    mask_power: float = 1.0
    fine_from: int = 0
    fine_power: Tensor | None = None
    left: SignalLeft | None = None
    counted: NoiseCount | None = None
    curved: CurvedImages | None = None

    def some(self, rows: Tensor) -> BandImages:
        """Those of the images that ``rows`` int64 [j] names."""
        def of(values: Tensor) -> Tensor:
            return values[rows]

        left = self.left and SignalLeft(of(self.left.coarse), of(self.left.fine), of(self.left.box))
        counted = self.counted and NoiseCount(of(self.counted.weight), of(self.counted.noise))
        return replace(
            self, scored=of(self.scored), whole=of(self.whole), ctf=of(self.ctf), scale=of(self.scale), left=left,
            sigma2=of(self.sigma2) if self.sigma2.ndim == 2 else self.sigma2, counted=counted,
            fine_power=None if self.fine_power is None else of(self.fine_power),
            curved=self.curved and self.curved.some(rows),
        )  # fmt: skip

    def unmasked(self, power: Tensor) -> Tensor:
        """Power of residuals by shell [b, s] as it is without a mask. power [b, s]: in ``scored``, float64."""
        if self.fine_power is None:
            return power / self.mask_power
        border = self._fine_shell()
        return torch.cat([power[:, :border] / self.mask_power, power[:, border:] / self.fine_power[:, None]], dim=1)

    def left_by_shell(self) -> Tensor:
        """Share [b, s] of the model's power that is left in ``scored``."""
        if self.left is None:
            return self.ctf.new_ones((len(self.ctf), self.geometry.band.limit + 1))
        border = self._fine_shell()
        return torch.cat([self.left.coarse[:, :border], self.left.fine[:, border:]], dim=1)

    def sigma2_by_shell(self) -> Tensor:
        """The noise power sigma2 by shell, [s] or [b, s]. Shell 0, of which nothing is kept, has that of shell 1."""
        shell = self.geometry.band.shell
        first = torch.searchsorted(shell, torch.arange(self.geometry.band.limit + 1, device=shell.device))
        return self.sigma2[..., first]

    def _fine_shell(self) -> int:
        """The first shell that is scored under the wider mask."""
        band = self.geometry.band
        return band.limit + 1 if self.fine_power is None else int(band.shell[self.fine_from])

    def whitened(self, limit: int) -> tuple[Tensor, Tensor]:
        """Data y / sigma [b, k] and contrast scale ctf / sigma [b, k] up to a shell of the reference.

        With the share f of the model that is left, y / sqrt(f) and ctf sqrt(f): all that is to be known of it.
        """
        k = self.geometry.count(limit)
        weight = torch.rsqrt(self.sigma2[..., :k])
        y, c = self.scored[:, :k], (self.ctf[:, :k] * weight).mul_(self.scale[:, None])
        if self.left is None:
            return y * weight, c
        root = self.left_by_shell().sqrt_().index_select(1, self.geometry.band.shell[:k])
        return y * (weight / root), c.mul_(root)

    def sums(self) -> tuple[Tensor, Tensor]:
        """What back-projection inserts: scale ctf y / sigma2 and scale^2 ctf^2 f / sigma2, both [b, k]."""
        contrast = self.ctf * self.scale[:, None]
        weighted = contrast / self.sigma2
        values, weights = weighted * self.whole, weighted.mul_(contrast)
        if self.left is not None:
            weights = weights.mul_(self.left.box.index_select(1, self.geometry.band.shell))
        return values, weights

    def spread(self) -> Iterator[Spread]:
        """What back-projection inserts, one after the other: `sums` on flat slices, or both sides of the Ewald sphere
        (imaging.curvature)."""
        if self.curved is None:
            yield Spread(*self.sums())
            return
        scale, shell, curved = self.scale[:, None], self.geometry.band.shell, self.curved
        even, odd = 0.5 * self.ctf * scale, 0.5 * curved.quadrature * scale
        overlap = curved.overlap.index_select(1, shell)
        weights = 2 * even.square() * overlap + (even.square() + odd.square()) * (1 - overlap)
        weights = weights / self.sigma2
        if self.left is not None:
            weights = weights.mul_(self.left.box.index_select(1, shell))
        whole = self.whole / self.sigma2
        yield Spread(torch.complex(even, -odd).to(whole) * whole, weights, curved.curvature)
        yield Spread(torch.complex(even, odd).to(whole) * whole, weights, -curved.curvature)


@dataclass(frozen=True)
class FineMask:
    """A wider mask for the finer shells.

    mask [b, y, x]; first: the coefficient from which on it is used; radii [b]: in pixels, without the edge.
    """

    mask: Tensor
    first: int
    radii: Tensor


def band_images(
    images: Tensor, mask: Tensor, geometry: ImagingGeometry, defocus: Defocus, sigma2: Tensor, scale: Tensor,
    fine: FineMask | None = None,
) -> BandImages:  # fmt: skip
    """Transform normalised images[b, y, x].

    mask[y, x] or [b, y, x]; sigma2[s]: noise power by shell of the image; scale[b]: contrast; fine: another mask for
    the finer shells.
    """
    band = geometry.band
    whole = band.transform(images)
    masked = []
    if fine is None or fine.first > 0:
        masked.append(band.transform(images * mask, slice(None if fine is None else fine.first)))
    if fine is not None:
        masked.append(band.transform(images * fine.mask, slice(fine.first, None)))
    scored = torch.cat(masked, dim=1) if len(masked) > 1 else masked[0]
    if geometry.odd is not None:
        unturned = geometry.odd.conj().to(whole)
        whole, scored = whole * unturned, scored * unturned
    contrast, counted = ctf(band.kxy, geometry.optics, defocus), None
    if geometry.optics.ctf_state is CtfState.PREMULTIPLIED:
        whole, scored = divided(whole, contrast), divided(scored, contrast)
        noise = power_left(band, mask, geometry.optics, defocus)
        if fine is not None:
            noise[:, fine.first :] = power_left(band, fine.mask, geometry.optics, defocus)[:, fine.first :]
        counted = NoiseCount(contrast.square(), noise)
    found = BandImages(geometry, scored, whole, contrast, sigma2[band.shell.to(sigma2.device)], scale, counted=counted)
    if fine is None:
        return found
    return replace(found, fine_from=fine.first, fine_power=fine.mask.square().mean(dim=(1, 2)).double())


def together(parts: Sequence[BandImages], order: Tensor) -> BandImages:
    """Images of several optics groups of one frame as one batch.

    order int64 [b]: where the images of all parts, one after the other, belong in the batch.
    """
    back = order.argsort()
    device = parts[0].scored.device
    sigma2 = [part.sigma2.expand(len(part.scored), -1) for part in parts]
    scored, whole, ctfs, scale = (
        torch.cat(values)[back.to(device)]
        for values in ([p.scored for p in parts], [p.whole for p in parts], [p.ctf for p in parts],
                       [p.scale for p in parts])
    )  # fmt: skip
    fine = [part.fine_power for part in parts if part.fine_power is not None]
    curved = [part.curved for part in parts if part.curved is not None]
    left = [part.left for part in parts if part.left is not None]
    counted = None
    if any(part.counted is not None for part in parts):
        every = [part.counted or NoiseCount(*torch.ones_like(part.ctf).expand(2, -1, -1)) for part in parts]
        counted = NoiseCount(*(torch.cat([getattr(one, name) for one in every])[back.to(device)]
                               for name in ("weight", "noise")))
    shares = (torch.cat([getattr(one, name) for one in left])[back.to(device)] for name in ("coarse", "fine", "box"))
    return replace(parts[0], scored=scored, whole=whole, ctf=ctfs, sigma2=torch.cat(sigma2)[back.to(device)],
                   scale=scale, counted=counted, fine_power=torch.cat(fine)[back.to(device)] if fine else None,
                   left=SignalLeft(*shares) if left else None,
                   curved=CurvedImages.together(curved, back.to(device)) if curved else None)
