"""Optics of groups are fitted where the images are: on the pretended accelerator to the bit what the CPU gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from halfmap.ctf_refinement.even import Even
from halfmap.ctf_refinement.magnification import Magnification
from halfmap.ctf_refinement.odd import Odd
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.expectation.search import Reference
from halfmap.fourier.transform import half_volume
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix, OpticsGroup
from halfmap.particles.table import ParticleTable

BOX, USED, COUNT = 20, Range(2, 8), 12
OPTICS = OpticsGroup("1", 300.0, 2.7, 0.1, 2.0, BOX, beam_tilt=BeamTilt(0.2, -0.1),
                     magnification=MagnificationMatrix(1.01, 0.0, 0.0, 0.99))


def fitted(to):
    random = torch.Generator().manual_seed(1)
    volume = half_volume(torch.randn((BOX, BOX, BOX), generator=random), 2, USED.last + 1)
    rotations = torch.from_numpy(Rotation.random(COUNT, rng=np.random.default_rng(1)).as_matrix())
    none, index, zeros = torch.zeros(COUNT).double(), torch.arange(COUNT), np.zeros(COUNT, np.int64)
    defocus = Defocus(none + 1e4, none + 9.8e3, none + 0.5, none, none, none + 1)
    table = ParticleTable({}, (OPTICS,), zeros, (Path("s"),), zeros, index.numpy(), defocus, rotations,
                          torch.zeros(COUNT, 2).double(), index.numpy() % 2, zeros, Path("p.star"))
    device = to(volume).device
    geometries = Geometries(BOX, 2.0, USED.last, device)
    geometry = geometries.of(OPTICS)
    there = Defocus(*(to(one) for one in (defocus.u, defocus.v, defocus.angle, none, none, none + 1)))
    y = to(torch.randn((COUNT, len(geometry.band)), dtype=torch.complex64, generator=random) * 50)
    images = BandImages(geometry, y, y, ctf(geometry.band.kxy, OPTICS, there),
                        to(torch.full((len(geometry.band),), 400.0)), to(torch.ones(COUNT)))
    reference = Reference(to(volume), 2)
    posed = PosedImages(index, 0, images, reference, reference, to(rotations), to(torch.zeros(COUNT, 2).double()),
                        to(torch.ones(COUNT)), there)
    fits = [Odd(["tilt", "trefoil"], table, geometries, USED), Magnification(table, geometries, USED),
            Even(["cs", "tetrafoil", "amplitude-contrast"], table, geometries, USED)]
    for fit in fits:
        fit.add_(posed, posed.products(USED))
        assert all(one.device == device for one in fit.sums())
    return [(solved.fitted[0].change, solved.table.origins) for fit in fits for solved in [fit.solved(table)]]


def test_optics_of_groups_are_fitted_where_the_images_are(on_both):
    on_both(fitted, stays=True)
