"""The curvature of the Ewald sphere, against atoms that are each seen at a defocus of their own (float64)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.curved_atoms import BAND, BOX, COUNT, DIAMETER, FALL, OPTICS, PIXEL, F, defocus, seen, transform
from torch import Tensor

from halfmap.geometry.rotations import random_rotations
from halfmap.imaging.ctf import ctf
from halfmap.imaging.curvature import CurvedImages, depth_resolution
from halfmap.imaging.delocalisation import ProjectedPower
from halfmap.imaging.forward import BandImages, Geometries
from halfmap.imaging.optics import CtfState
from halfmap.kernels.poses import Samples
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection


def curved(state: CtfState, values: Tensor, sign: int, power: ProjectedPower) -> CurvedImages:
    return CurvedImages.of(BAND, replace(OPTICS, ctf_state=state), defocus(values), sign, OPTICS.box_length, power)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_image_of_atoms_each_at_its_own_defocus_is_half_of_each_side_of_the_ewald_sphere(sign):
    rotations, values = random_rotations(4, torch.Generator().manual_seed(1)), torch.tensor([500.0, 900, 1300, 2000])
    point = ProjectedPower(torch.ones(1).double(), torch.ones(1).double())
    found, c = curved(CtfState.UNTOUCHED, values.double(), sign, point), ctf(BAND.kxy, OPTICS, defocus(values.double()))
    height = found.curvature[:, None] * BAND.kxy.double().square().sum(1) / OPTICS.box_length
    sides = [transform(F @ rotations[:, :2] + s * height[..., None] * rotations[:, None, 2]) * FALL for s in (1, -1)]
    a = torch.complex(c.double(), found.quadrature.double())
    images = seen(rotations, values, sign)

    def error(model: Tensor) -> float:
        return float((model - images).norm() / images.norm())

    flat = c * transform(F @ rotations[:, :2]) * FALL
    assert error(0.5 * (a * sides[0] + a.conj() * sides[1])) < 1e-6
    assert error(flat) > 0.2
    assert error(0.5 * (a * sides[1] + a.conj() * sides[0])) > 0.3


@pytest.fixture(scope="module")
def truth() -> tuple[Tensor, ProjectedPower]:
    """Transform [z, y, x] of the atoms and the power of their density's projections."""
    k = torch.fft.fftfreq(BOX, 1 / BOX, dtype=torch.float64) / OPTICS.box_length
    q = torch.stack(torch.meshgrid(k, k, k, indexing="ij")[::-1], -1)
    values = transform(q) * torch.exp(-10 * q.square().sum(-1))
    density = torch.fft.fftshift(torch.fft.ifftn(values).real)
    return values, ProjectedPower.of(density.float(), PIXEL)


def compared(found: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """FSC and grey scale of a map [z, y, x] by shell, against a transform."""
    own = torch.fft.fftn(torch.fft.ifftshift(found.double()))
    k = torch.fft.fftfreq(BOX, 1 / BOX, dtype=torch.float64)
    shell = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt().round().long().flatten()
    cross, power, known = (torch.bincount(shell, values.flatten())[1 : BOX // 2 - 1].numpy()
                           for values in ((own * truth.conj()).real, own.abs() ** 2, truth.abs() ** 2))
    return cross / np.sqrt(power * known), cross / known


def test_maps_from_curved_slices_are_right_where_flat_ones_and_the_other_sign_are_not(truth):
    transform_, power = truth
    generator = torch.Generator().manual_seed(2)
    rotations = random_rotations(COUNT, generator)
    values = torch.tensor([600.0, 1100, 1700]).double()[torch.randint(3, (COUNT,), generator=generator)]
    images = seen(rotations, values, 1)
    geometry = Geometries(BOX, PIXEL, BAND.limit, torch.device("cpu")).of(OPTICS)
    c = ctf(BAND.kxy, OPTICS, defocus(values))
    samples = Samples(torch.arange(COUNT), rotations, torch.zeros(COUNT, 2).double(), torch.ones(COUNT))

    def reconstructed(sign: int, state: CtfState = CtfState.UNTOUCHED) -> tuple[np.ndarray, np.ndarray]:
        flipped = state is CtfState.PHASE_FLIPPED
        given = (images * c.sign() if flipped else images).to(torch.complex64)
        sides = curved(state, values, sign, power) if sign else None
        batch = BandImages(geometry, given, given, c.abs() if flipped else c, torch.full((len(BAND),), 7.0),
                           torch.ones(COUNT), curved=sides)
        sums = Backprojection.zeros(BOX, 2, BAND.limit, torch.zeros(()))
        for side in batch.spread():
            sums.insert_(side.values, side.weights, geometry.coords, BAND, samples, side.curvature)
        return compared(reconstruct(sums.finished(torch.eye(3).double()[None])), transform_)

    flat, right, wrong, flipped = (
        reconstructed(*how) for how in ((0,), (1,), (-1,), (1, CtfState.PHASE_FLIPPED)))
    assert np.abs(right[1] - 1).max() < 0.03  # the grey scale, at all resolutions
    assert np.abs(right[1][2:] / flat[1][2:] - 1)[:3].max() < 0.01  # where slices are flat, that of flat insertion
    assert right[0].min() > 0.98
    assert flat[1][-1] < 0.85
    assert flat[0][-1] < right[0][-1]
    assert wrong[0][-1] < flat[0][-1] - 0.2
    assert np.allclose(flipped, right, atol=1e-4)


def test_the_flat_model_is_a_quarter_turn_wrong_at_the_edge_at_the_resolution_told():
    d = depth_resolution(OPTICS.wavelength, DIAMETER)
    at_edge = -math.pi * OPTICS.wavelength * (1000 - DIAMETER / 2) / d**2
    assert at_edge + math.pi * OPTICS.wavelength * 1000 / d**2 == pytest.approx(math.pi / 2)
