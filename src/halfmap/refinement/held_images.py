"""Images whose coarse coefficients are all held in memory: what looks at them again and again needs no stacks.

Of an image of 100 pixels some 300 coefficients are held: 4 kB, a tenth of its pixels. The noise is measured where no
particle is: in images that may show anything, the power within the particle's circle is not that of noise alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from halfmap.fourier.transform import fft_size
from halfmap.imaging.forward import BandImages, Geometries, ImagingGeometry, band_images
from halfmap.imaging.optics import CtfState, Frame, OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle
from halfmap.particles.source import ImageBatch, ParticleSource
from halfmap.refinement.imaging_model import MASK_EDGE
from halfmap.refinement.tally import noise_sources, shared

OVERSAMPLED = 2.5  # voxels of a coarse grid to the finest detail
LEVELLED = 3  # shells that a plane fitted to the background takes noise from; they have that of the next one


@dataclass(frozen=True)
class Whitened:
    """Data y [b, k] and contrast c [b, k] over the standard deviation of the noise."""

    y: Tensor
    c: Tensor


@dataclass(frozen=True)
class HeldImages:
    """Images of one frame.

    geometry: of their coefficients k; index int64 [b]: their particles; groups int64 [b]: optics groups; values
    complex64 [b, k]: under a circular mask; contrast float32 [b, k]: the CTF. mask_power: mean square of the mask.
    """

    geometry: ImagingGeometry
    index: Tensor
    groups: Tensor
    values: Tensor
    contrast: Tensor
    mask_power: float

    def __len__(self) -> int:
        return len(self.index)

    def whitened(self, some: Tensor, sigma2: Tensor, scale: float, count: int) -> Whitened:
        """The first ``count`` coefficients of images ``some`` [b] (places in this frame), under noise sigma2 [g, s]."""
        shell = self.geometry.band.shell[:count].cpu()
        root = torch.rsqrt(sigma2[:, shell]).float()[self.groups[some]].to(self.values.device)
        return Whitened(self.values[some, :count] * root, self.contrast[some, :count] * root * scale)


@dataclass(frozen=True)
class HeldSet:
    """Images of all frames, and the noise sigma2 float64 [g, s] around their particles."""

    frames: list[HeldImages]
    noise: Tensor


@dataclass
class _Around:
    """Power around the particles and number of coefficients [s], and images, of an optics group so far."""

    power: Tensor
    count: Tensor
    images: int = 0


def held_images(
    source: ParticleSource, grid: Grid, limit: int, device: torch.device | None = None,
    advance: Callable[[int], None] = lambda n: None, some: Tensor | None = None,
) -> HeldSet:  # fmt: skip
    """Stream all images, or particles ``some`` [b], once, and keep their coefficients up to a shell ``limit`` of a
    reference on ``grid``. There are the same frames whatever images are chosen."""
    table, device = source.table, device or torch.device("cpu")
    geometries = Geometries(grid.box, grid.pixel_size, limit, device)
    top = max(optics.box // 2 + 1 for optics in table.optics)
    around = [_Around(*torch.zeros(2, top, dtype=torch.float64)) for _ in table.optics]
    frames: dict[Frame, list[HeldImages]] = {}
    for batch in replace(source, device=device).stream(torch.arange(len(table)) if some is None else some):
        for part in batch.apart():
            held = _held(part, source, geometries, around[part.group])
            frames.setdefault(held.geometry.optics.frame, []).append(held)
        advance(len(batch))
    first: dict[Frame, OpticsGroup] = {}
    for group in np.unique(table.optics_index):
        first.setdefault(table.optics[group].frame, table.optics[group])
    every = [frames.get(frame) or [_none(geometries.of(optics), source)] for frame, optics in first.items()]
    return HeldSet([_together(parts) for parts in every], _noise(source, around))


def _none(geometry: ImagingGeometry, source: ParticleSource) -> HeldImages:
    """No image of a frame."""
    none, k = torch.zeros(0, dtype=torch.int64), len(geometry.coords)
    values = torch.zeros(0, k, dtype=torch.complex64, device=geometry.coords.device)
    mask = _circle(geometry.optics, source)
    return HeldImages(geometry, none, none, values, values.real.clone(), float(mask.square().mean()))


def _held(part: ImageBatch, source: ParticleSource, geometries: Geometries, around: _Around) -> HeldImages:
    """Images of one optics group as coefficients; what is around their particles is added to ``around``."""
    optics, device = source.table.optics[part.group], geometries.device
    geometry = geometries.of(optics)
    mask = _circle(optics, source).to(device)
    defocus, flat = source.table.defocus[part.index].to(device), torch.ones(optics.box // 2 + 1, device=device)
    seen = band_images(part.images.to(device), mask, geometry, defocus, flat, torch.ones(len(part), device=device))
    _add_around(around, seen, mask)
    return HeldImages(geometry, part.index, part.groups, seen.scored, seen.ctf, float(mask.square().mean()))


def _circle(optics: OpticsGroup, source: ParticleSource) -> Tensor:
    """The soft circle [y, x] around the particle."""
    radius = min(0.5 * source.diameter / optics.pixel_size, optics.box / 2 - 1.0)
    return soft_circle(optics.box, radius, MASK_EDGE)


def _add_around(around: _Around, seen: BandImages, mask: Tensor) -> None:
    """The power of what the mask leaves out. Images that were multiplied by their CTF were divided by it."""
    band, outside = seen.geometry.band, seen.whole - seen.scored
    formed = torch.ones_like(seen.ctf)
    if seen.geometry.optics.ctf_state is CtfState.PREMULTIPLIED:
        outside, formed = outside * seen.ctf, seen.ctf.square()
    power = band.shell_sum((outside.real.square() + outside.imag.square()).double().sum(dim=0)).cpu()
    around.power[: len(power)] += power
    count = band.shell_sum(formed.double().sum(dim=0)) * float((1 - mask).square().mean())
    around.count[: len(power)] += count.cpu()
    around.images += len(seen.ctf)


def _noise(source: ParticleSource, around: list[_Around]) -> Tensor:
    """Noise power [g, s] of each optics group; groups of few images share theirs."""
    sources = noise_sources(source.table.optics, [one.images for one in around])
    sums = (shared([getattr(one, name) for one in around], sources) for name in ("power", "count"))
    spectra = []
    for power, count in zip(*sums, strict=True):
        measured = torch.nonzero(count > 0)[:, 0]
        last = int(measured[-1]) if len(measured) else 0
        spectrum = power / count.clamp_min(1e-12)
        spectrum[:LEVELLED] = spectrum[min(LEVELLED, last)]
        spectrum[last + 1 :] = spectrum[last]
        spectra.append(spectrum.clamp(min=1e-6 * float(spectrum.max().clamp_min(1e-12))))
    return torch.stack(spectra)


def _together(parts: list[HeldImages]) -> HeldImages:
    index, groups, values, contrast = (torch.cat([getattr(part, name) for part in parts])
                                       for name in ("index", "groups", "values", "contrast"))
    return replace(parts[0], index=index, groups=groups, values=values, contrast=contrast)


def coarse_grid(source: ParticleSource, resolution: float) -> Grid:
    """A grid over the largest box of the images, fine enough for detail of ``resolution`` (A)."""
    length = max(optics.box * optics.pixel_size for optics in source.table.optics)
    box = fft_size(OVERSAMPLED * length / resolution)
    return Grid(box, length / box)
