"""How images of a refinement become coefficients, given the state."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.curvature import CurvedImages
from halfmap.imaging.cut_signal import other_quadrature
from halfmap.imaging.delocalisation import ProjectedPower, delocalisation
from halfmap.imaging.forward import (
    BandImages,
    FineMask,
    Geometries,
    ImagingGeometry,
    SignalLeft,
    band_images,
    together,
)
from halfmap.imaging.optics import CtfState, OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle, soft_circles
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.reconstruction.statistics import Place
from halfmap.refinement.state import State
from halfmap.runtime.device import sent

MASK_EDGE = 5.0  # pixels of the cosine edge of the circular image mask
LEAST_LEFT = 0.01  # of the model's power: with nothing left there is nothing to divide by
FINE = 8.0  # A; to find poses, finer shells are scored under a mask as wide as the CTF spreads their signal


@dataclass(frozen=True)
class ImagingModel:
    """What the expectation step needs to know beside images and state. It stays the same during a refinement.

    box, pixel_size: of the reference, in voxels and angstrom. symmetry: operators [o, 3, 3]. scale_group [b]: the entry
    of State.scale that each particle uses. padding: of the reference. update_scale: whether contrast is re-estimated.
    kernel: what images are inserted with. place: where the sums of a quarter set are put when they are complete, so
    that one quarter set is made after the other; None keeps sums in memory, and both quarter sets of a half set are
    made together. null_hypothesis: whether an image may hold no particle, and counts as far as it holds one.
    slices_room: bytes that the slices of a global search may take (`GlobalSearch`), as the memory plan says; it changes
    no bit. ewald: +1 or -1 where images are back-projected on the Ewald sphere (imaging.curvature), by their hand; 0:
    flat; None: flat until the images decide (refinement.curvature). wide_from: shells finer than this, in A, are scored
    under a mask as wide as the CTF spreads the signal of the finest.
    """

    box: int
    pixel_size: float
    symmetry: Tensor
    scale_group: Tensor
    padding: int = 2
    update_scale: bool = True
    kernel: str = "trilinear"
    place: Place | None = None
    null_hypothesis: bool = True
    slices_room: int | None = None
    ewald: int | None = 0
    wide_from: float = FINE

    @property
    def bench(self) -> torch.device | None:
        """The GPU to which sums come back while they are worked on, if they are put elsewhere; None: where they are."""
        return self.symmetry.device if self.place is not None and self.symmetry.device.type != "cpu" else None

    @property
    def grid(self) -> Grid:
        """The grid of the reference."""
        return Grid(self.box, self.pixel_size)


def band_batch(
    state: State, source: ParticleSource, model: ImagingModel, geometries: Geometries, batch: ImageBatch,
    centres: Tensor, limit: int, power: ProjectedPower,
) -> BandImages:  # fmt: skip
    """The coefficients of a batch of images, under the noise and contrast of the state.

    centres [b, 2]: where the circular mask of each image is put, in whole pixels off the box centre. limit: last shell
    of the reference that is scored. power: of its projections, for what masks leave of it.
    """
    device = state.references[0].device
    optics = source.table.optics[batch.group]  # box and pixel size are those of the whole batch
    radius = _tight_radius(source.diameter, optics)
    circle = soft_circle(optics.box, radius, MASK_EDGE)
    mask, at = sent(circle, device), sent(centres, device)
    if bool(centres.any()):
        radii = torch.full((len(batch),), radius, dtype=torch.float64, device=device)
        moved = soft_circles(optics.box, radii, MASK_EDGE, at)
    else:
        moved = mask[None]
    order = batch.groups.argsort(stable=True)  # as the groups are taken apart
    parts, begun = [], 0
    for part in batch.apart():
        own = sent(order[begun : begun + len(part)], device)
        begun += len(part)
        geometry = geometries.of(source.table.optics[part.group])
        defocus = source.table.defocus[part.index].to(device)
        sigma2 = sent(state.sigma2[part.group].float(), device)
        scale = sent(state.scale[model.scale_group[part.index]].float(), device)
        fine = fine_mask(geometry, defocus, model.grid, radius, at[own], limit, model.wide_from)
        seen = band_images(part.images.to(device), moved if len(moved) == 1 else moved[own], geometry, defocus,
                           sigma2, scale, fine)
        left, curved = signal_left(power, geometry, defocus, radius, fine), None
        if model.ewald:
            curved = CurvedImages.of(geometry.band, geometry.optics, defocus, model.ewald, model.grid.length, power)
        parts.append(replace(seen, left=left, curved=curved))
    result = parts[0] if len(parts) == 1 else together(parts, order)
    return replace(result, mask_power=float((circle**2).mean()))


def _tight_radius(diameter: float, optics: OpticsGroup) -> float:
    """Radius in pixels of the mask of a particle of a diameter in A, without its edge."""
    return min(0.5 * diameter / optics.pixel_size, optics.box / 2 - 1.0)


def fine_mask(
    geometry: ImagingGeometry, defocus: Defocus, grid: Grid, radius: float, centres: Tensor, limit: int,
    wide_from: float = FINE,
) -> FineMask | None:  # fmt: skip
    """The mask of shells finer than ``wide_from`` (A), if any are scored: as wide as the CTF spreads the signal of the
    finest.

    Scoring compares an image with a model that is not masked. What the CTF moves out of the mask is missing from the
    image, and with less than half of a shell's signal left the right pose loses likelihood by it. Coarse shells keep
    the tight mask: there neighbours are strong and nothing is moved far.
    """
    first = geometry.count(int(grid.length / wide_from))
    if geometry.count(limit) <= first:
        return None
    radii = _fine_radii(geometry.optics, defocus, radius, limit / grid.length)
    return FineMask(soft_circles(geometry.optics.box, radii, MASK_EDGE, centres), first, radii)


def _fine_radii(optics: OpticsGroup, defocus: Defocus, radius: float, finest: float) -> Tensor:
    """Radii [b] in pixels of the mask of finer shells, up to a frequency in 1/A. radius: of the tight mask."""
    reach = delocalisation(optics, defocus, finest) / optics.pixel_size
    return (radius + reach).clamp(max=max(radius, optics.box / 2 - 1.0 - MASK_EDGE))


def turned_by_masks(
    power: ProjectedPower, signal: Tensor, geometry: ImagingGeometry, defocus: Defocus, model: ImagingModel,
    diameter: float, limit: int,
) -> Tensor | None:  # fmt: skip
    """How much of the other quadrature of the CTF the masks of `band_batch` bring into images [b, s], by shell.

    signal [s]: power of the particle by shell of the reference. None where images were changed by their CTF: of those
    no CTF is fitted.
    """
    optics, band = geometry.optics, geometry.band
    if optics.ctf_state is not CtfState.UNTOUCHED:
        return None
    place = torch.arange(band.limit + 2, dtype=torch.float64, device=signal.device) / geometry.ratio
    low = place.floor().long().clamp_(max=len(signal) - 2)
    logs = signal.double().clamp_min(torch.finfo(torch.float64).tiny).log()
    signal = torch.lerp(logs[low], logs[low + 1], place - low).exp()
    radius, edge = _tight_radius(diameter, optics), 0.5 * MASK_EDGE

    def under(radii: Tensor) -> Tensor:
        return other_quadrature(power, signal, optics, defocus, (radii + edge) * optics.pixel_size)

    tight = under(torch.full_like(defocus.u, radius))
    first = geometry.last_shell(int(model.grid.length / model.wide_from)) + 1
    if first > band.limit:
        return tight
    fine = under(_fine_radii(optics, defocus, radius, limit / model.grid.length))
    return torch.cat([tight[:, :first], fine[:, first:]], dim=1)


def signal_left(
    power: ProjectedPower, geometry: ImagingGeometry, defocus: Defocus, radius: float, fine: FineMask | None
) -> SignalLeft:
    """What masks and box leave of the model's power, by shell of the images. radius: of the tight mask, in pixels."""
    optics, band = geometry.optics, geometry.band
    shells = torch.arange(band.limit + 1, dtype=torch.float64, device=band.shell.device)
    moved = delocalisation(optics, defocus, shells / (optics.box * optics.pixel_size))

    tight = torch.full_like(moved[:, 0], radius + 0.5 * MASK_EDGE)
    box = torch.full_like(tight, optics.box / math.pi**0.5)  # it is taken for a circle of its area

    def within(radii: Tensor) -> Tensor:
        mask, all_of_it = (r * optics.pixel_size for r in (radii, box))
        return power.left(optics.ctf_state, mask, all_of_it, moved).clamp_min(LEAST_LEFT).float()

    coarse = within(tight)
    fine_left = coarse if fine is None else within(fine.radii + 0.5 * MASK_EDGE)
    return SignalLeft(coarse, fine_left, power.within(box * optics.pixel_size, moved).clamp_min(LEAST_LEFT).float())
