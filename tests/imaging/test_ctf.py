"""Claims about the CTF and the aberrations, against formulas written out one coefficient at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import constants

import halfmap.imaging.ctf as ctf_module
from halfmap.errors import InputError
from halfmap.imaging.ctf import Defocus, ctf, odd_aberration, reference_coordinates
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix, OpticsGroup, electron_wavelength

OPTICS = OpticsGroup("krios", 300.0, 2.7, 0.1, pixel_size=1.1, box=96)


def disc(limit: int) -> torch.Tensor:
    """All coefficients (kx, ky) with |k| <= limit, the origin included."""
    line = torch.arange(-limit, limit + 1)
    kxy = torch.cartesian_prod(line, line)
    return kxy[kxy.square().sum(1) <= limit**2]


def defocus_of(**values: list[float]) -> Defocus:
    count = len(values["u"])
    default = {"angle": 0.0, "phase_shift": 0.0, "bfactor": 0.0, "scale": 1.0}
    full = {name: values.get(name, [default.get(name, 0.0)] * count) for name in Defocus.__dataclass_fields__}
    return Defocus(**{name: torch.tensor(value, dtype=torch.float64) for name, value in full.items()})


def textbook_ctf(kx, ky, optics, u, v, angle, phase_shift, bfactor, scale) -> float:
    """The CTF of one coefficient of one image as the papers write it, in Python's own float64."""
    fx, fy = kx / (optics.box * optics.pixel_size), ky / (optics.box * optics.pixel_size)
    squared, azimuth, lam = fx * fx + fy * fy, math.atan2(fy, fx), electron_wavelength(optics.voltage)
    underfocus = 0.5 * (u + v) + 0.5 * (u - v) * math.cos(2 * (azimuth - angle))
    chi = math.pi * lam * squared * (underfocus - 0.5 * lam**2 * squared * optics.spherical_aberration * 1e7)
    q = optics.amplitude_contrast
    chi += phase_shift + math.atan(q / math.sqrt(1 - q * q))
    return scale * math.exp(-bfactor * squared / 4) * math.sin(chi)


IMAGES = defocus_of(
    u=[12000.0, 31000.0, -4000.0, 60000.0],
    v=[11000.0, 27000.0, -4400.0, 60000.0],
    angle=[0.4, -2.0, 1.0, 0.0],
    phase_shift=[0.0, 1.2, 0.3, 0.0],
    bfactor=[0.0, 40.0, 0.0, 100.0],
    scale=[1.0, 1.0, 0.7, 1.3],
)


@pytest.mark.parametrize("per_pass", [1, 10_000, 1 << 19])
def test_the_ctf_is_the_textbook_formula_however_the_batch_is_cut(monkeypatch, per_pass):
    monkeypatch.setattr(ctf_module, "COEFFICIENTS_PER_PASS", per_pass)
    kxy = disc(47)
    rows = [tuple(float(getattr(IMAGES, name)[i]) for name in Defocus.__dataclass_fields__) for i in range(4)]
    truth = [[textbook_ctf(x, y, OPTICS, *row) for x, y in kxy.tolist()] for row in rows]
    got = ctf(kxy, OPTICS, IMAGES)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), np.array(truth), atol=2e-6)


def test_phases_of_a_thousand_radians_lose_no_accuracy():
    optics = OpticsGroup("talos", 200.0, 2.7, 0.07, pixel_size=0.5, box=512)
    kxy = torch.stack([torch.arange(1, 256), torch.arange(255, 0, -1)], 1)
    far = defocus_of(u=[90000.0], v=[89000.0], angle=[0.7])
    truth = [textbook_ctf(x, y, optics, 90000.0, 89000.0, 0.7, 0.0, 0.0, 1.0) for x, y in kxy.tolist()]
    np.testing.assert_allclose(ctf(kxy, optics, far)[0].numpy(), truth, atol=2e-6)


def test_the_ctf_at_the_origin_is_plus_the_amplitude_contrast():
    origin = torch.zeros(1, 2, dtype=torch.int64)
    values = ctf(origin, OPTICS, defocus_of(u=[5000.0, 20000.0], v=[5000.0, 18000.0]))
    torch.testing.assert_close(values, torch.full((2, 1), 0.1))


def test_a_phase_plate_of_90_degrees_turns_the_origin_into_full_phase_contrast():
    plate = defocus_of(u=[5000.0], v=[5000.0], phase_shift=[math.pi / 2])
    assert float(ctf(torch.zeros(1, 2), OPTICS, plate)) == pytest.approx(math.sqrt(1 - 0.1**2), abs=1e-6)


def test_naming_the_other_axis_of_the_astigmatism_changes_nothing():
    kxy = disc(40)
    one = ctf(kxy, OPTICS, defocus_of(u=[22000.0], v=[19000.0], angle=[0.3]))
    other = ctf(kxy, OPTICS, defocus_of(u=[19000.0], v=[22000.0], angle=[0.3 + math.pi / 2]))
    torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


def test_a_change_of_spherical_aberration_is_three_even_zernike_terms():
    # |f|^4 = (Z(4,0) + 3 Z(2,0) + 2 Z(0,0)) / 6 with R(4,0) = 6r^4 - 6r^2 + 1 and R(2,0) = 2r^2 - 1.
    quarter = math.pi / 2 * 0.4e7 * electron_wavelength(300.0) ** 3 / 6
    zernike = replace(OPTICS, even_zernike=(2 * quarter, 0.0, 3 * quarter, 0.0, 0.0, 0.0, quarter))
    stronger = replace(OPTICS, spherical_aberration=3.1)
    kxy = disc(47)
    torch.testing.assert_close(ctf(kxy, zernike, IMAGES), ctf(kxy, stronger, IMAGES), atol=3e-6, rtol=0)


def test_astigmatism_and_defocus_are_the_even_zernike_terms_of_second_order():
    # Z(0,0) and Z(2,0) = 2r^2 - 1 carry the mean defocus, r^2 cos 2phi and r^2 sin 2phi the difference.
    lam, u, v, angle = electron_wavelength(300.0), 9000.0, 7000.0, 0.5
    mean, half = -math.pi * lam * (u + v) / 2, -math.pi * lam * (u - v) / 2
    terms = (mean / 2, half * math.sin(2 * angle), mean / 2, half * math.cos(2 * angle))
    focused = ctf(disc(47), replace(OPTICS, even_zernike=terms), defocus_of(u=[0.0], v=[0.0]))
    direct = ctf(disc(47), OPTICS, defocus_of(u=[u], v=[v], angle=[angle]))
    torch.testing.assert_close(focused, direct, atol=3e-6, rtol=0)


@pytest.mark.parametrize("index", range(6))
def test_odd_zernike_terms_are_tilts_comas_and_trefoils_in_this_order(index):
    x, y = (disc(47).double() / OPTICS.box_length).unbind(1)
    squared = x * x + y * y
    shapes = [y, x, 3 * x * x * y - y**3, (3 * squared - 2) * y, (3 * squared - 2) * x, x**3 - 3 * x * y * y]
    phase = 5.0 * shapes[index]
    optics = replace(OPTICS, odd_zernike=tuple(5.0 if i == index else 0.0 for i in range(6)))
    factor = odd_aberration(disc(47), optics)
    torch.testing.assert_close(factor, torch.polar(torch.ones_like(phase), phase).to(torch.complex64))


def test_beam_tilt_is_axial_coma():
    # |f|^2 fx = (Z(3,1) + 2 Z(1,1)) / 3 and likewise for y; 2 pi Cs lambda^2 tilt is its strength.
    strength = [-2 * math.pi * 2.7e7 * electron_wavelength(300.0) ** 2 * tilt * 1e-3 for tilt in (1.5, -0.8)]
    x, y = strength
    tilted = replace(OPTICS, beam_tilt=BeamTilt(1.5, -0.8))
    coma = replace(OPTICS, odd_zernike=(2 * y / 3, 2 * x / 3, 0.0, y / 3, x / 3, 0.0))
    torch.testing.assert_close(odd_aberration(disc(47), tilted), odd_aberration(disc(47), coma))


def test_the_odd_factor_of_a_friedel_mate_is_the_conjugate():
    optics = replace(OPTICS, beam_tilt=BeamTilt(0.5, 1.0), odd_zernike=(1.0, 2.0, 3.0, -4.0, 5.0, 6.0))
    torch.testing.assert_close(odd_aberration(-disc(40), optics), odd_aberration(disc(40), optics).conj())


def test_there_is_no_odd_factor_without_an_odd_aberration():
    assert odd_aberration(disc(5), replace(OPTICS, even_zernike=(1.0, 1.0))) is None


def test_a_magnification_is_a_smaller_pixel():
    smaller = replace(OPTICS, pixel_size=1.1 / 1.02, even_zernike=(0.0, 2.0), beam_tilt=BeamTilt(1.0, 0.0))
    magnified = replace(smaller, pixel_size=1.1, magnification=MagnificationMatrix(1.02, 0.0, 0.0, 1.02))
    kxy = disc(47)
    torch.testing.assert_close(ctf(kxy, magnified, IMAGES), ctf(kxy, smaller, IMAGES), atol=3e-6, rtol=0)
    torch.testing.assert_close(odd_aberration(kxy, magnified), odd_aberration(kxy, smaller))
    torch.testing.assert_close(
        reference_coordinates(kxy, magnified, 128, 1.0), reference_coordinates(kxy, smaller, 128, 1.0)
    )


def test_coordinates_in_the_reference_follow_box_pixel_size_and_magnification():
    matrix = MagnificationMatrix(1.01, 0.02, -0.03, 0.98)
    optics = replace(OPTICS, magnification=matrix)
    got = reference_coordinates(torch.tensor([[10, -4]]), optics, box=80, pixel_size=1.32)
    # 96 x 1.1 A of image and 80 x 1.32 A of reference have the same length, so only the matrix acts.
    expected = np.array(matrix).reshape(2, 2) @ np.array([10.0, -4.0])
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=1e-14)
    doubled = reference_coordinates(torch.tensor([[10, -4]]), optics, box=160, pixel_size=1.32)
    np.testing.assert_allclose(doubled[0].numpy(), 2 * expected, rtol=1e-14)


@pytest.mark.parametrize("voltage", [80.0, 120.0, 200.0, 300.0])
def test_the_wavelength_is_that_of_de_broglie(voltage):
    energy = voltage * 1e3 * constants.e
    momentum = math.sqrt(2 * constants.m_e * energy + (energy / constants.c) ** 2)
    assert electron_wavelength(voltage) == pytest.approx(constants.h / momentum * 1e10, rel=1e-4)


def test_choosing_images_chooses_their_ctf():
    chosen = torch.tensor([3, 1])
    torch.testing.assert_close(ctf(disc(20), OPTICS, IMAGES[chosen]), ctf(disc(20), OPTICS, IMAGES)[chosen])
    assert len(IMAGES[1:]) == 3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("voltage", 300000.0, "not in kV"),
        ("voltage", 0.3, "from 1 to 10000 is taken"),
        ("spherical_aberration", -1.0, "negative"),
        ("amplitude_contrast", 10.0, "between 0 and 1"),
        ("pixel_size", 0.0, "not positive"),
        ("box", 0, "not positive"),
        ("beam_tilt", BeamTilt(math.nan, 0.0), "finite"),
        ("magnification", MagnificationMatrix(1.0, 0.0, 0.0, -1.0), "mirrors"),
    ],
)
def test_optics_that_no_microscope_has_are_refused(field, value, words):
    with pytest.raises(InputError, match=f"krios.*{words}"):
        replace(OPTICS, **{field: value})
