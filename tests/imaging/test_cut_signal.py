"""What masks cut off turns the phase of what is left, and how much is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.transform import image_fft, image_ifft
from halfmap.imaging.ctf import Defocus, quadratures
from halfmap.imaging.cut_signal import other_quadrature
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.optics import OpticsGroup
from halfmap.particles.preprocess import soft_circle

BOX, FIELD, PIXEL, COUNT = 128, 384, 1.5, 60
RADIUS, MASK, EDGE, B_FACTOR = 52.0, 42.0, 5.0, 60.0  # A; mask in pixels; A^2 of the power
OPTICS = OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX)
WIDE = OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, FIELD)
SHELLS = slice(10, 52)


def defocus(values: Tensor) -> Defocus:
    zero = torch.zeros_like(values)
    return Defocus(values, values, zero, zero, zero, zero + 1)


def ball() -> ProjectedPower:
    """Atoms at random in a ball."""
    axis = torch.arange(64) - 32
    squared = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    return ProjectedPower.of((9 * squared <= RADIUS**2).double(), 3.0)


def power_by_shell() -> Tensor:
    """Of its coefficients, by shell of the images, and of one shell more."""
    k = torch.arange(SHELLS.stop + 2) / OPTICS.box_length
    return torch.exp(-0.5 * B_FACTOR * k.square())


@dataclass(frozen=True)
class Seen:
    """Images of such balls without noise, cut out of a field and masked: their products with the transforms before the
    CTF, cross [b, k], and norm [b, k], at coefficients kxy in these shells."""

    values: Defocus
    kxy: Tensor
    shell: Tensor
    cross: Tensor
    norm: Tensor


def seen(mask: Tensor | None) -> Seen:
    """mask [y, x]: of the images; None: the whole field."""
    random = torch.Generator().manual_seed(3)
    values = defocus(torch.linspace(8000, 22000, COUNT, dtype=torch.float64))
    axis = (torch.arange(FIELD) - FIELD // 2) * PIXEL
    thickness = (RADIUS**2 - axis[:, None] ** 2 - axis**2).clamp_min(0).pow(0.25).double()  # the root of the power
    every, near = Band.to_shell(FIELD, FIELD // 2 - 1), Band.to_shell(FIELD // 3, SHELLS.stop - 1)
    chosen = near.shell >= SHELLS.start
    kxy, shell = near.kxy[chosen], near.shell[chosen]
    squared = every.kxy.double().square().sum(dim=1) / WIDE.box_length**2
    fine = (3 * kxy).tolist()
    place = {tuple(one): i for i, one in enumerate(every.kxy.tolist())}
    at = torch.tensor([place[tuple(one)] for one in fine])
    cross, norm = [], []
    for one in torch.arange(COUNT).split(10):
        noise = torch.randn(len(one), FIELD, FIELD, generator=random, dtype=torch.float64)
        texture = every.gather(image_fft(noise)) * torch.exp(-0.25 * B_FACTOR * squared)
        model = every.gather(image_fft(image_of(every, texture) * thickness))
        images = image_of(every, model * quadratures(every.kxy, WIDE, values[one]).sine)
        masked = every.gather(image_fft(images if mask is None else images * mask))
        cross.append((masked[:, at] * model[:, at].conj()).real)
        norm.append(model[:, at].abs().square())
    return Seen(values, kxy, shell, torch.cat(cross), torch.cat(norm))


def image_of(band: Band, coefficients: Tensor) -> Tensor:
    """Images [b, y, x] of the field with these coefficients [b, k]."""
    half = torch.zeros(len(coefficients), FIELD, FIELD // 2 + 1, dtype=torch.complex128)
    kx, ky = band.kxy.unbind(dim=1)
    half[:, ky, kx] = coefficients
    edge = kx == 0
    half[:, -ky[edge], 0] = coefficients[:, edge].conj()
    return image_ifft(half, FIELD)


def spherical_error(images: Seen, turn: Tensor | None, left: Tensor) -> tuple[float, float]:
    """The change in mm, and the scatter of its mean, that a step of Fisher scoring finds of the spherical aberration
    beside the defocus. turn, left [b, s]: of the model."""
    at = quadratures(images.kxy, OPTICS, images.values)
    sine, cosine = at.sine.double(), at.cosine.double()
    if turn is not None:
        t = turn[:, images.shell]
        sine, cosine = sine + t * cosine, cosine - t * sine
    squared = images.kxy.double().square().sum(dim=1) / OPTICS.box_length**2
    phases = torch.stack([-math.pi * OPTICS.wavelength * squared,
                          0.5 * math.pi * 1e7 * OPTICS.wavelength**3 * squared.square()], dim=1)
    norm = images.norm * left[:, images.shell]
    score = (2 * (norm * sine - images.cross) * cosine) @ phases
    information = torch.einsum("bk,ki,kj->ij", 2 * norm * cosine.square(), phases, phases)
    each = COUNT * torch.linalg.solve(information, score.T)[1]
    return float(each.mean()), float(each.std() / math.sqrt(COUNT))


def test_a_mask_that_cuts_signal_feigns_spherical_aberration_and_its_turn_of_the_phase_takes_that_away():
    outer = torch.zeros(FIELD, FIELD, dtype=torch.float64)
    start = FIELD // 2 - BOX // 2
    outer[start : start + BOX, start : start + BOX] = soft_circle(BOX, MASK, EDGE).double()
    images, power = seen(outer), ball()
    radius = torch.full((COUNT,), (MASK + 0.5 * EDGE) * PIXEL, dtype=torch.float64)
    k = torch.arange(SHELLS.stop, dtype=torch.float64) / OPTICS.box_length
    moved = OPTICS.wavelength * images.values.u[:, None] * k - 2.7e7 * OPTICS.wavelength**3 * k**3
    left = power.within(radius, moved.abs())
    assert left[:, SHELLS].min() < 0.3
    turn = other_quadrature(power, power_by_shell(), OPTICS, images.values, radius)
    plain, scatter = spherical_error(images, None, left)
    assert plain > 0.05 and plain > 5 * scatter
    mended, scatter = spherical_error(images, turn, left)
    assert abs(mended) < 0.3 * plain and abs(mended) < 3 * scatter
    wrong, _ = spherical_error(images, -turn, left)
    assert wrong == pytest.approx(2 * plain, rel=0.3)


def test_where_nothing_is_cut_nothing_is_turned_and_no_aberration_is_found():
    images = seen(None)
    ones = torch.ones(COUNT, SHELLS.stop, dtype=torch.float64)
    assert abs(spherical_error(images, None, ones)[0]) < 1e-4
    radius = torch.full((COUNT,), 1000.0, dtype=torch.float64)
    turn = other_quadrature(ball(), power_by_shell(), OPTICS, images.values, radius)
    assert turn.shape == (COUNT, SHELLS.stop + 1) and float(turn.abs().max()) < 1e-9
