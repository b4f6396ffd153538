"""Images whose coarse coefficients are all held in memory, whitened by the noise around the particles.

A search without a starting map looks at the same few hundred images again and again, and only at detail coarser than
some 10 A, a few hundred coefficients of each. Their noise is measured where no particle is: in images that may show
anything, what is left of the power within the particle's circle is not noise alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap.fourier.transform import fft_size
from halfmap.imaging.ctf import ctf
from halfmap.imaging.forward import Geometries, ImagingGeometry, band_images
from halfmap.imaging.optics import CtfState
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.refinement.imaging_model import MASK_EDGE
from halfmap.refinement.tally import noise_sources, shared

OVERSAMPLED = 2.5  # voxels of a coarse grid to the finest detail
LEVELLED = 3  # shells that a plane fitted to the background takes noise from; they have that of the next one


@dataclass(frozen=True)
class HeldImages:
    """Images [b] of one frame.

    index int64 [b]: their particles. geometry: of the band, which is the same for all. y, c [b, k]: whitened data and
    contrast (`score.score_grid`). mask_power: mean square of the circular mask, which is what noise has left in y.
    """

    index: Tensor
    geometry: ImagingGeometry
    y: Tensor
    c: Tensor
    mask_power: float

    def __len__(self) -> int:
        return len(self.index)

    def where(self, chosen: Tensor) -> HeldImages:
        """Those that ``chosen`` [b] marks."""
        return replace(self, index=self.index[chosen], y=self.y[chosen], c=self.c[chosen])

    def to_shell(self, limit: int) -> HeldImages:
        """The same up to a shell of the reference; no copy."""
        k = self.geometry.count(limit)
        return replace(self, y=self.y[:, :k], c=self.c[:, :k])

    def energy(self, limit: int) -> Tensor:
        """Power of the signal up to a shell, in units of the noise, summed over coefficients [b].

        It is what the log-likelihood of an image gains by the right model at the right pose, in expectation.
        """
        y = self.to_shell(limit).y
        return (y.real.square() + y.imag.square() - self.mask_power).double().sum(dim=1)


@dataclass(frozen=True)
class _Group:
    """Images of one optics group that are not whitened yet, and the noise around them: summed power and count [s]."""

    number: int
    index: Tensor
    geometry: ImagingGeometry
    scored: Tensor
    ctf: Tensor
    power: Tensor
    count: Tensor
    mask_power: float


def held_images(
    source: ParticleSource, index: Tensor, grid: Grid, limit: int, device: torch.device,
    advance: Callable[[int], None] = lambda n: None,
) -> list[HeldImages]:  # fmt: skip
    """The images of particles ``index`` [b] up to a shell ``limit`` of a reference on ``grid``, frame by frame."""
    geometries = Geometries(grid.box, grid.pixel_size, limit, device)
    parts: list[_Group] = []
    for batch in source.stream(index):
        parts += [_transformed(part, source, geometries) for part in batch.apart()]
        advance(len(batch))
    spectra = _noise(source, parts)
    frames: dict[object, list[HeldImages]] = {}
    for part in parts:
        band = part.geometry.band
        root = spectra[part.number].to(part.scored.device).rsqrt().float()[band.shell]
        held = HeldImages(part.index, part.geometry, part.scored * root, part.ctf * root, part.mask_power)
        frames.setdefault(part.geometry.optics.frame, []).append(held)
    return [replace(some[0], index=torch.cat([p.index for p in some]), y=torch.cat([p.y for p in some]),
                    c=torch.cat([p.c for p in some])) for some in frames.values()]


def _transformed(part: ImageBatch, source: ParticleSource, geometries: Geometries) -> _Group:
    """Images of one optics group as coefficients, and the power around the particle."""
    optics = source.table.optics[part.group]
    geometry, device = geometries.of(optics), geometries.device
    radius = min(0.5 * source.diameter / optics.pixel_size, optics.box / 2 - 1.0)
    mask = soft_circle(optics.box, radius, MASK_EDGE).to(device)
    images, defocus = part.images.to(device), source.table.defocus[part.index].to(device)
    band, ones = geometry.band, torch.ones(len(part), device=device)
    seen = band_images(images, mask, geometry, defocus, torch.ones(optics.box, device=device), ones)
    around = 1 - mask
    outside = band.transform(images * around)
    formed = torch.ones_like(seen.ctf)
    if optics.ctf_state is CtfState.PREMULTIPLIED:
        formed = ctf(band.kxy, optics, defocus).square()
    power = band.shell_sum((outside.real.square() + outside.imag.square()).double().sum(dim=0)).cpu()
    count = band.shell_sum(formed.double().sum(dim=0) * float(around.square().mean())).cpu()
    return _Group(part.group, part.index, geometry, seen.scored, seen.ctf, power, count, float(mask.square().mean()))


def _noise(source: ParticleSource, parts: list[_Group]) -> list[Tensor]:
    """Noise power [s] of each optics group; groups of few images share theirs."""
    optics = source.table.optics
    top = max(len(part.power) for part in parts)
    power, count = ([torch.zeros(top, dtype=torch.float64) for _ in optics] for _ in range(2))
    images = [0] * len(optics)
    for part in parts:
        power[part.number][: len(part.power)] += part.power
        count[part.number][: len(part.count)] += part.count
        images[part.number] += len(part.index)
    sources = noise_sources(optics, images)
    spectra = [p / n.clamp_min(1e-12) for p, n in zip(shared(power, sources), shared(count, sources), strict=True)]
    for spectrum in spectra:
        spectrum[:LEVELLED] = spectrum[min(LEVELLED, len(spectrum) - 1)]
        spectrum.clamp_(min=1e-6 * float(spectrum.max().clamp_min(1e-12)))
    return spectra


def coarse_grid(source: ParticleSource, resolution: float) -> Grid:
    """A grid over the largest box of the images, fine enough for detail of ``resolution`` (A)."""
    length = max(optics.box * optics.pixel_size for optics in source.table.optics)
    box = fft_size(OVERSAMPLED * length / resolution)
    return Grid(box, length / box)
