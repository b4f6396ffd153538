"""Projections of a map at the poses of particles, as images under their CTFs and aberrations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halfmap import kernels
from halfmap.errors import InputError
from halfmap.expectation.score import shift_phases
from halfmap.fourier.transform import half_volume, image_coefficients, image_ifft
from halfmap.imaging.ctf import ctf, odd_aberration, reference_coordinates
from halfmap.imaging.optics import CtfState
from halfmap.maps.grid import Grid
from halfmap.particles.table import ParticleTable

PADDING = 2


@dataclass(frozen=True)
class Projector:
    """A map from which images are projected.

    reference: its half volume, padded PADDING times; length: of its side in A; limit: its last shell.
    """

    reference: Tensor
    length: float
    limit: int

    @staticmethod
    def of(volume: Tensor, grid: Grid, limit: int) -> Projector:
        """From a map [z, y, x], which may be sampled coarser than its grid, up to a shell."""
        return Projector(half_volume(volume, PADDING, limit), grid.length, limit)

    def images(self, table: ParticleTable, index: Tensor, group: int, box: int = 0) -> Tensor:
        """What particles ``index`` [b] of one optics group show: images [b, y, x].

        box: their side in pixels; 0 is that of the particle images. In a wider one, signal that the CTF moves out of
        the particle image does not come in again on its other side. Raises InputError where there are no poses.
        """
        if table.rotations is None:
            raise InputError(f"{table.source}: has no orientations; give the particles.star of a run")
        optics = replace(table.optics[group], box=box or table.optics[group].box)
        kxy = image_coefficients(optics.box)
        coords = reference_coordinates(kxy, optics, 1, self.length)
        # Nothing is known of the Nyquist frequency's phase, and its coefficients are no model's.
        inside = (coords.norm(dim=-1) <= self.limit) & (kxy.abs() < (optics.box + 1) // 2).all(dim=-1)
        kxy = kxy[inside]
        values = kernels.project_slices(self.reference, coords[inside] * PADDING, table.rotations[index])
        shifts = -table.origins[index] / optics.pixel_size
        transfer = ctf(kxy, optics, table.defocus[index])
        if optics.ctf_state is CtfState.PREMULTIPLIED:
            transfer = transfer.square()
        values = values * shift_phases(kxy, -shifts, optics.box) * transfer
        odd = odd_aberration(kxy, optics)
        spectra = torch.zeros(len(index), *inside.shape, dtype=torch.complex64)
        spectra[:, inside] = (values if odd is None else values * odd).to(spectra)
        return image_ifft(spectra, optics.box)
