"""Values of optics groups are found from images whose optics are written out here, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halfmap.ctf_refinement.even import Even
from halfmap.ctf_refinement.fit import Solved
from halfmap.ctf_refinement.magnification import Magnification
from halfmap.ctf_refinement.odd import Odd
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.table import ParticleTable

BOX, PIXEL, LAST = 64, 1.1, 26
USED = Range(4, LAST)
SIGMA2 = 40.0**2


def true_images(blobs, optics: OpticsGroup, defocus: Defocus, kxy: Tensor, rotations: Tensor, shifts: Tensor) -> Tensor:
    """Images [b, k] from the formulas of image formation, with a CTF and phases of their own."""
    matrix = torch.tensor(optics.magnification, dtype=torch.float64).view(2, 2)
    f = kxy.double() @ matrix.T / (optics.box * optics.pixel_size)
    x, y = f.unbind(dim=1)
    r, azimuth = f.norm(dim=1), torch.atan2(y, x)
    volts = optics.voltage * 1e3
    wavelength = 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))
    u, v, angle = (one[:, None] for one in (defocus.u, defocus.v, defocus.angle))
    dz = (u + v) / 2 + (u - v) / 2 * torch.cos(2 * (azimuth - angle))
    gamma = -math.pi * wavelength * dz * r**2
    gamma = gamma + 0.5 * math.pi * optics.spherical_aberration * 1e7 * wavelength**3 * r**4
    gamma = gamma - defocus.phase_shift[:, None] - math.asin(optics.amplitude_contrast)
    even, odd = [*optics.even_zernike, *[0.0] * 9], [*optics.odd_zernike, *[0.0] * 6]
    gamma = gamma + r**4 * (even[4] * torch.sin(4 * azimuth) + even[8] * torch.cos(4 * azimuth))
    phase = odd[0] * y + odd[1] * x + (3 * r**3 - 2 * r) * (odd[3] * torch.sin(azimuth) + odd[4] * torch.cos(azimuth))
    phase = phase + r**3 * (odd[2] * torch.sin(3 * azimuth) + odd[5] * torch.cos(3 * azimuth))
    tilt = torch.tensor(optics.beam_tilt, dtype=torch.float64) * 1e-3
    phase = phase - 2 * math.pi * optics.spherical_aberration * 1e7 * wavelength**2 * r**2 * (f @ tilt)
    slices = blobs.slices(kxy.double() @ matrix.T * (BOX * PIXEL / (optics.box * optics.pixel_size)), rotations)
    moved = -2 * math.pi / optics.box * shifts @ kxy.double().T
    return -torch.sin(gamma) * slices * torch.polar(torch.ones_like(moved), moved + phase)


@dataclass(frozen=True)
class Study:
    """Images of several optics groups, made with true optics and described by others."""

    table: ParticleTable
    batches: tuple[PosedImages, ...]
    geometries: Geometries

    def odd(self, *names: str) -> Solved:
        return self._solved(Odd(names, self.table, self.geometries, USED))

    def even(self, *names: str) -> Solved:
        return self._solved(Even(names, self.table, self.geometries, USED))

    def magnification(self) -> Solved:
        return self._solved(Magnification(self.table, self.geometries, USED))

    def _solved(self, fit) -> Solved:
        for posed in self.batches:
            fit.add_(posed, posed.products(USED))
        return fit.solved(self.table)


def plain(**values) -> OpticsGroup:
    """The optics as the file says."""
    return replace(OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX), **values)


def study(
    make: Callable, count: int, true: Sequence[OpticsGroup], given: Sequence[OpticsGroup], seed: int = 0,
    moved: Callable[[Defocus], Defocus] = lambda one: one, noise: float = 1.0, table_of=None,
) -> Study:  # fmt: skip
    """count images of each group, made with ``true`` optics; the table has ``given`` ones, and ``moved`` defocus."""
    specimen = make(BOX, count=40, width=0.8)
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n = count * len(true)
    from scipy.spatial.transform import Rotation

    rotations = torch.from_numpy(Rotation.random(n, rng=random).as_matrix())
    shifts = torch.from_numpy(random.normal(0, 1.0, (n, 2)))
    u = torch.from_numpy(random.uniform(6000, 16000, n))
    defocus = Defocus(u, u - torch.from_numpy(random.uniform(0, 400, n)),
                      torch.from_numpy(random.uniform(0, math.pi, n)), torch.zeros(n).double(),
                      torch.zeros(n).double(), torch.ones(n).double())
    index = np.repeat(np.arange(len(true)), count)
    zeros = np.zeros(n, np.int64)
    told = moved(defocus)
    table = ParticleTable({}, tuple(given), index, (Path("s"),), zeros, np.arange(n), told, rotations,
                          torch.zeros(n, 2).double(), np.arange(n) % 2, zeros, Path("p.star"))
    geometries = Geometries(BOX, PIXEL, LAST, torch.device("cpu"))
    reference = Reference(half_volume(specimen.map().float(), 2, LAST + 1), 2)
    batches = []
    for group, optics in enumerate(given):
        members = torch.from_numpy(np.flatnonzero(index == group))
        geometry = geometries.of(optics)
        kxy = geometry.band.kxy
        y = true_images(specimen, true[group], defocus[members], kxy, rotations[members], shifts[members])
        y = y + noise * math.sqrt(SIGMA2) * torch.randn(len(members), len(kxy), dtype=torch.complex128)
        if geometry.odd is not None:
            y = y * geometry.odd.conj()
        y = y.to(torch.complex64)
        images = BandImages(geometry, y, y, ctf(kxy, optics, told[members]), torch.full((len(kxy),), SIGMA2),
                            torch.ones(len(members)))
        batches.append(PosedImages(members, group, images, reference, rotations[members], shifts[members],
                                   torch.ones(len(members)), told[members]))
    return Study(table, tuple(batches), geometries)
