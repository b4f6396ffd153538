"""How images of a refinement become coefficients, given the state."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from halfmap.imaging.ctf import Defocus
from halfmap.imaging.delocalisation import delocalisation
from halfmap.imaging.forward import BandImages, FineMask, ImagingGeometry, band_images, masks_at
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle, soft_circles
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.reconstruction.statistics import Place
from halfmap.refinement.state import State

MASK_EDGE = 5.0  # pixels of the cosine edge of the circular image mask
FINE = 8.0  # A; finer shells are scored under a mask that is as wide as the CTF spreads their signal


@dataclass(frozen=True)
class ImagingModel:
    """What the expectation step needs to know beside images and state. It stays the same during a refinement.

    box, pixel_size: of the reference, in voxels and angstrom. symmetry: operators [o, 3, 3]. scale_group [b]: the entry
    of State.scale that each particle uses. padding: of the reference. update_scale: whether contrast is re-estimated.
    kernel: what images are inserted with. place: where the sums of a quarter set are put when they are complete, so
    that one quarter set is made after the other; None keeps sums in memory, and both quarter sets of a half set are
    made together. null_hypothesis: whether an image may hold no particle, and counts as far as it holds one.
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

    @property
    def grid(self) -> Grid:
        """The grid of the reference."""
        return Grid(self.box, self.pixel_size)


def band_batch(
    state: State, source: ParticleSource, model: ImagingModel, geometry: ImagingGeometry, batch: ImageBatch,
    centres: Tensor, limit: int,
) -> BandImages:  # fmt: skip
    """The coefficients of a batch of images, under the noise and contrast of the state.

    centres [b, 2]: where the circular mask of each image is put, in whole pixels off the box centre. limit: last shell
    of the reference that is scored.
    """
    device = state.references[0].device
    optics = source.table.optics[batch.group]
    radius = min(0.5 * source.diameter / optics.pixel_size, optics.box / 2 - 1.0)
    mask = soft_circle(optics.box, radius, MASK_EDGE).to(device)
    sigma2 = state.sigma2[batch.group].float().to(device)
    scale = state.scale[model.scale_group[batch.index]].float().to(device)
    moved = masks_at(mask, centres.to(device))
    defocus = source.table.defocus[batch.index].to(device)
    fine = fine_mask(geometry, defocus, model.grid, radius, centres.to(device), limit)
    result = band_images(batch.images.to(device), moved, geometry, defocus, sigma2, scale, fine)
    return replace(result, mask_power=float((mask**2).mean()))


def fine_mask(
    geometry: ImagingGeometry, defocus: Defocus, grid: Grid, radius: float, centres: Tensor, limit: int
) -> FineMask | None:
    """The mask of shells finer than FINE, if any are scored: as wide as the CTF spreads the signal of the finest.

    Scoring compares an image with a model that is not masked. What the CTF moves out of the mask is missing from the
    image, and with less than half of a shell's signal left the right pose loses likelihood by it. Coarse shells keep
    the tight mask: there neighbours are strong and nothing is moved far.
    """
    first = geometry.count(int(grid.length / FINE))
    if geometry.count(limit) <= first:
        return None
    optics = geometry.optics
    reach = delocalisation(optics, defocus, limit / grid.length) / optics.pixel_size
    radii = (radius + reach).clamp(max=max(radius, optics.box / 2 - 1.0 - MASK_EDGE))
    return FineMask(soft_circles(optics.box, radii, MASK_EDGE, centres), first)
