"""Fits of particles and micrographs count images of an accelerator as they count those of the CPU."""

from dataclasses import replace

import torch
from fixtures.ctf_products import FINEST, FIRST, LAST, OPTICS, a_defocus, a_table, seen, with_changes

from halfmap.ctf_refinement.defocus import ParticleChanges, ParticleDefocus
from halfmap.ctf_refinement.micrographs import MicrographFit
from halfmap.ctf_refinement.own_noise import OwnNoise
from halfmap.ctf_refinement.products import PosedImages, Range
from halfmap.ctf_refinement.signal_power import signal_power
from halfmap.expectation.search import Reference
from halfmap.imaging.ctf import ctf
from halfmap.imaging.cut_signal import other_quadrature
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries

SHARED = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(5))


def turned(to, defocus, limit):
    """What masks bring of the other quadrature into images up to the shell ``limit`` of particles like ``SHARED``."""
    power, signal = ProjectedPower.of(to(SHARED), OPTICS.pixel_size), signal_power(to(SHARED), to(SHARED))
    radius = to(torch.full((len(defocus),), 30.0, dtype=torch.float64))
    return other_quadrature(power, signal[: limit + 2], OPTICS, defocus, radius)


def test_images_on_an_accelerator_give_the_sums_of_those_on_the_cpu(on_both):
    old = a_defocus(6)
    images = seen(with_changes(old, mean=100.0), snr=0.2)
    m = LAST + 2
    volume = torch.randn(2 * m + 1, 2 * m + 1, m + 1, dtype=torch.complex64)

    def work(to):
        table, used = a_table(old, 2), Range(FIRST, LAST)
        place = to(torch.zeros(1)).device
        geometry = Geometries(OPTICS.box, OPTICS.pixel_size, LAST, place).of(OPTICS)
        k = len(geometry.band)
        y = to(torch.cat([torch.zeros(6, k - len(images.kxy)), images.y], dim=1).to(torch.complex64))
        here = old.to(place)
        band = BandImages(geometry, y, y, ctf(geometry.band.kxy, OPTICS, here), to(torch.ones(k)), to(torch.ones(6)))
        rotations, shifts = torch.eye(3).double().repeat(6, 1, 1), torch.zeros(6, 2).double()
        reference = Reference(to(volume), 1)
        posed = PosedImages(torch.arange(6), 0, band, reference, reference, to(rotations), to(shifts),
                            to(torch.ones(6)), here)
        noise = OwnNoise(used)
        noise.add_(posed, True)
        posed = replace(posed, own_noise=noise.share(), turn=turned(to, here, geometry.band.limit))
        fits = [ParticleDefocus(table, FINEST, ParticleChanges(astigmatism=True)),
                MicrographFit(table, FINEST, ["astigmatism", "bfactor"])]
        for fit in fits:
            fit.add_(posed, posed.products(used))
        return [*noise.sums(), *(sums for fit in fits for sums in fit.sums())]

    on_both(work, stays=True)
