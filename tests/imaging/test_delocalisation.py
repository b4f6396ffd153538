"""Signal that the CTF moves: how far, and that the mask for scoring holds it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.transform import image_fft, image_ifft
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.delocalisation import ProjectedPower, delocalisation
from halfmap.imaging.forward import ImagingGeometry, band_images
from halfmap.imaging.optics import CtfState, OpticsGroup
from halfmap.maps.grid import Grid
from halfmap.particles.preprocess import soft_circle, soft_circles
from halfmap.refinement.imaging_model import MASK_EDGE, fine_mask, signal_left

BOX, PIXEL = 256, 1.0
OPTICS = OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX)


def defocus(*values: float, astigmatism: float = 0.0) -> Defocus:
    u = torch.tensor(values, dtype=torch.float64)
    zero = torch.zeros_like(u)
    return Defocus(u + astigmatism / 2, u - astigmatism / 2, zero, zero, zero, zero + 1)


@pytest.mark.parametrize("spherical", [0.0, 2.7])
def test_it_is_the_slope_of_the_aberration(spherical):
    optics = OpticsGroup("o", 300.0, spherical, 0.1, PIXEL, BOX)
    values, f, step = [5000.0, 12000.0, 30000.0], 0.25, 1e-6

    def wave(dz: float, s: float) -> float:
        """gamma / 2 pi of the CTF at the frequency s, by hand."""
        return -0.5 * optics.wavelength * dz * s**2 + 0.25 * spherical * 1e7 * optics.wavelength**3 * s**4

    expected = [abs(wave(dz, f + step) - wave(dz, f - step)) / (2 * step) for dz in values]
    np.testing.assert_allclose(delocalisation(optics, defocus(*values), f).numpy(), expected, rtol=1e-6)


def test_the_larger_defocus_counts():
    round_, oval = defocus(10000.0), defocus(10000.0, astigmatism=2000.0)
    assert float(delocalisation(OPTICS, oval, 0.2)) > float(delocalisation(OPTICS, round_, 0.2))


def test_a_circle_of_its_own_for_each_image_is_the_soft_circle_moved_there():
    radii, centres = torch.tensor([20.0, 31.5]), torch.tensor([[0, 0], [3, -5]])
    found = soft_circles(96, radii, 5.0, centres)
    for b in range(2):
        moved = torch.roll(soft_circle(96, float(radii[b]), 5.0), (int(centres[b, 1]), int(centres[b, 0])), (0, 1))
        torch.testing.assert_close(found[b], moved, atol=1e-5, rtol=0)


@pytest.mark.parametrize("finest", [3.0, 4.0, 6.0])
def test_the_mask_holds_the_signal_of_every_shell_that_is_scored(finest):
    """The share of the model's signal that is left in the masked image, <masked, model> / <model, model> by shell."""
    diameter, um = 90.0, (0.8, 1.2)
    values = defocus(*(1e4 * d for d in um))
    geometry, limit = ImagingGeometry.build(OPTICS, BOX, PIXEL, 120), int(BOX * PIXEL / finest)
    wide = fine_mask(geometry, values, Grid(BOX, PIXEL), diameter / 2, torch.zeros(len(um), 2).long(), limit)
    assert wide is not None
    random = torch.randn(BOX, BOX, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    particle = soft_circle(BOX, diameter / 2 - 6, 6.0).double() * random
    band = Band.to_shell(BOX, BOX // 2 - 1)
    model = band.gather(image_fft(particle[None])) * ctf(band.kxy, OPTICS, values)
    images = torch.stack([image_of(band, coefficients, BOX) for coefficients in model])
    tight = soft_circle(BOX, diameter / 2, MASK_EDGE).double()
    for shell in (shell for shell in (36, 42, 62, limit) if shell <= limit):
        chosen = (band.shell > shell - 4) & (band.shell <= shell)
        assert wide.first <= int(torch.nonzero(chosen)[0])
        power = (model[:, chosen].abs() ** 2).sum(1)
        for mask, least in ((wide.mask.double(), 0.95), (tight, 0.0)):
            seen = band.gather(image_fft(images * mask))[:, chosen]
            share = (seen * model[:, chosen].conj()).real.sum(1) / power
            assert float(share.min()) > least, (shell, share)
    if finest == 3.0:  # at the finest shell the tight mask would leave less
        assert float(share.max()) < 0.8


def masked_share(
    particle: Tensor, values: Defocus, mask: Tensor, state: CtfState = CtfState.UNTOUCHED
) -> Tensor:
    """<masked, model> / <model, model> by shell [b, s] of a particle [y, x] seen through a CTF, in a larger box."""
    wide = replace(OPTICS, box=3 * BOX, ctf_state=state)
    band = Band.to_shell(wide.box, wide.box // 2 - 1)
    model = band.gather(image_fft(torch.nn.functional.pad(particle, (BOX,) * 4)[None])) * ctf(band.kxy, wide, values)
    images = torch.stack([image_of(band, coefficients, wide.box) for coefficients in model])
    seen = band.gather(image_fft(images * torch.nn.functional.pad(mask, (BOX,) * 4)))
    product, square = (seen * model.conj()).real, model.abs() ** 2
    shells = torch.arange(30, 345, 24)
    near = ((band.shell[:, None] - shells).abs() <= 6).double()
    return (product @ near) / (square @ near)


def test_what_a_mask_leaves_of_the_model_is_what_its_projected_power_says():
    """A ball of atoms at random, whose projection is noise under the square root of its thickness."""
    radius, values = 40.0, defocus(8000.0, 20000.0)
    axis = torch.arange(BOX) - BOX // 2
    flat = (axis[:, None] ** 2 + axis**2).double()
    noise = torch.randn(BOX, BOX, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    particle = noise * (radius**2 - flat).clamp_min(0).pow(0.25)  # amplitude: the power follows the thickness
    small = torch.arange(128) - 64  # the ball itself, in voxels of 2 A
    ball = (4 * (small[:, None, None] ** 2 + small[:, None] ** 2 + small**2) <= radius**2).double()
    power = ProjectedPower.of(ball, 2 * PIXEL)
    assert float(power.share.sum()) == pytest.approx(1.0) and float(power.radius.max()) < radius + 4
    frequency = torch.arange(30, 345, 24, dtype=torch.float64) / (3 * BOX * PIXEL)
    moved = delocalisation(OPTICS, values, frequency)
    for mask in (radius, 2 * radius):
        found = power.within(torch.full((2,), mask + 2.5), moved)
        expected = masked_share(particle, values, soft_circle(BOX, mask, 5.0).double())
        assert float((found - expected).abs().max()) < 0.08, mask  # the noise that stands for atoms scatters so
        radii, all_of_it = (torch.full((2,), r) for r in (mask + 2.5, 1e6))
        flipped = power.left(CtfState.PHASE_FLIPPED, radii, all_of_it, moved)
        expected = masked_share(particle, values, soft_circle(BOX, mask, 5.0).double(), CtfState.PHASE_FLIPPED)
        assert float((flipped - expected).abs().max()) < 0.08, mask
        assert float(power.left(CtfState.PREMULTIPLIED, radii, all_of_it, moved).min()) == pytest.approx(1.0)
    assert float(found.max()) > 0.95 and float(found.min()) < 0.2
    nothing = ProjectedPower.of(torch.zeros(32, 32, 32), PIXEL)
    assert float(nothing.within(torch.tensor([30.0]), torch.tensor([[0.0, 20.0]])).min()) == 1.0


def test_a_masked_image_explains_the_share_of_its_model_that_is_left():
    """Contrast is 1 and the likelihood highest there, in masked images without noise, at any defocus and shell."""
    values = defocus(6000.0, 15000.0)
    geometry = ImagingGeometry.build(OPTICS, BOX, PIXEL, 80)
    band = geometry.band
    flat = (torch.arange(BOX)[:, None] - BOX // 2) ** 2 + (torch.arange(BOX) - BOX // 2) ** 2
    noise = torch.randn(BOX, BOX, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    particle = noise * (35.0**2 - flat.double()).clamp_min(0).pow(0.25)
    slices = band.gather(image_fft(particle[None]))
    model = slices * ctf(band.kxy, OPTICS, values)
    images = torch.stack([image_of(band, coefficients, BOX) for coefficients in model])
    small = torch.arange(128) - 64
    ball = (4 * (small[:, None, None] ** 2 + small[:, None] ** 2 + small**2) <= 35.0**2).double()
    seen = band_images(images.float(), soft_circle(BOX, 35.0, MASK_EDGE), geometry, values,
                       torch.ones(BOX // 2 + 1), torch.ones(2))
    fit = {}
    for left in (None, signal_left(ProjectedPower.of(ball, 2 * PIXEL), geometry, values, 35.0, None)):
        y, c = replace(seen, left=left).whitened(80)
        expected = c * slices.to(c.dtype if c.is_complex() else torch.complex64)
        fit[left is None] = ((y.conj() * expected).real.sum(1) / expected.abs().square().sum(1)).numpy()
    np.testing.assert_allclose(fit[False], 1.0, atol=0.06)
    assert fit[True][0] > 0.6 > 0.4 > fit[True][1]  # the model as it is would have to be weaker the more is moved away


def image_of(band: Band, coefficients: Tensor, box: int) -> Tensor:
    """The image [y, x] with these coefficients of the band, and none beyond it."""
    plane = torch.zeros(box, box // 2 + 1, dtype=torch.complex128)
    rows, columns = band.kxy[:, 1] % box, band.kxy[:, 0]
    plane[rows, columns] = coefficients
    edge = columns == 0  # the mates on the column kx = 0 are in the half plane too
    plane[-band.kxy[edge, 1] % box, 0] = coefficients[edge].conj()
    return image_ifft(plane[None], box)[0]


def test_coarse_shells_keep_the_tight_mask_and_no_mask_is_wider_than_the_box():
    geometry = ImagingGeometry.build(OPTICS, BOX, PIXEL, 120)
    none = torch.zeros(1, 2).long()
    assert fine_mask(geometry, defocus(2e4), Grid(BOX, PIXEL), 45.0, none, int(BOX * PIXEL / 9)) is None
    mask = fine_mask(geometry, defocus(5e4), Grid(BOX, PIXEL), 45.0, none, int(BOX * PIXEL / 3))
    assert mask is not None and mask.first == geometry.count(int(BOX * PIXEL / 8))
    edge = torch.cat([mask.mask[0, 0], mask.mask[0, :, 0]])
    assert float(edge.max()) == 0.0 and float(mask.mask.max()) == 1.0
    assert math.isclose(float(mask.mask[0, BOX // 2, 8]), 1.0)
