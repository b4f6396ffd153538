"""Converted optics have the phases of cryoSPARC's lengths, by the formula of the wave aberration written out here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from halfmap.imaging.ctf import Defocus, ctf, odd_aberration, reference_coordinates
from halfmap.imaging.optics import BeamTilt, MagnificationMatrix, OpticsGroup
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.cryosparc_file import read_cs
from halfmap.particles.cryosparc_optics import cryosparc_terms, relion_terms
from halfmap.particles.cryosparc_write import write_cryosparc
from halfmap.particles.table import ParticleTable

BOX, PIXEL, VOLTAGE, CONTRAST = 64, 1.25, 300.0, 0.07
FIELDS = [("uid", "<u8"), ("blob/path", "S9"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
          ("blob/psize_A", "<f8"), ("ctf/accel_kv", "<f8"), ("ctf/cs_mm", "<f8"), ("ctf/amp_contrast", "<f8"),
          ("ctf/df1_A", "<f8"), ("ctf/df2_A", "<f8"), ("ctf/df_angle_rad", "<f8"), ("ctf/phase_shift_rad", "<f8"),
          ("ctf/bfactor", "<f8"), ("ctf/shift_A", "<f8", (2,)), ("ctf/tilt_A", "<f8", (2,)),
          ("ctf/trefoil_A", "<f8", (2,)), ("ctf/tetra_A", "<f8", (4,)), ("ctf/anisomag", "<f8", (4,))]


def disc() -> torch.Tensor:
    line = torch.arange(-31, 32)
    kxy = torch.cartesian_prod(line, line)
    return kxy[kxy.square().sum(1) <= 31**2]


def record(**values: object) -> np.ndarray:
    made = np.zeros(1, FIELDS)
    usual = {"uid": 5, "blob/path": b"none.mrcs", "blob/shape": BOX, "blob/psize_A": PIXEL, "ctf/accel_kv": VOLTAGE,
             "ctf/cs_mm": 2.7, "ctf/amp_contrast": CONTRAST, "ctf/df1_A": 15000.0, "ctf/df2_A": 13500.0,
             "ctf/df_angle_rad": 0.6, "ctf/phase_shift_rad": 0.3, "ctf/bfactor": 20.0}
    for name, value in (usual | {f"ctf/{name}": value for name, value in values.items()}).items():
        made[name] = value
    return made


def transfer(row: np.void, kxy: np.ndarray) -> np.ndarray:
    """What multiplies the model, from the row's own lengths: -sin(gamma) exp(-i chi), float64."""
    volts = VOLTAGE * 1e3
    lam = 12.2643247 / math.sqrt(volts * (1 + 0.978466e-6 * volts))
    f = kxy / (BOX * PIXEL) @ (np.eye(2) + row["ctf/anisomag"].reshape(2, 2)).T
    x, y = f.T
    r, phi = np.hypot(x, y), np.arctan2(y, x)
    # The wave front of one lens: 2 pi / lambda times lengths times powers of the angle lambda r.
    w = lam * r
    (a0x, a0y), (b2x, b2y), (a2x, a2y) = row["ctf/shift_A"], row["ctf/tilt_A"], row["ctf/trefoil_A"]
    s3x, s3y, a3x, a3y = row["ctf/tetra_A"]
    wave = 2 * math.pi / lam
    odd = wave * (w * (a0x * np.cos(phi) + a0y * np.sin(phi)) + w**3 * (b2x * np.cos(phi) + b2y * np.sin(phi))
                  + w**3 / 3 * (a2x * np.cos(3 * phi) + a2y * np.sin(3 * phi)))
    u, v, angle = row["ctf/df1_A"], row["ctf/df2_A"], row["ctf/df_angle_rad"]
    df = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (phi - angle))
    even = wave * (-df / 2 * w**2 + row["ctf/cs_mm"] * 1e7 / 4 * w**4
                   + w**4 * (s3x * np.cos(2 * phi) + s3y * np.sin(2 * phi))
                   + w**4 / 4 * (a3x * np.cos(4 * phi) + a3y * np.sin(4 * phi)))
    gamma = even - row["ctf/phase_shift_rad"] - math.asin(row["ctf/amp_contrast"])
    return -np.sin(gamma) * np.exp(-row["ctf/bfactor"] * r**2 / 4) * np.exp(-1j * odd)


def ours(table: ParticleTable) -> np.ndarray:
    (group,) = table.optics
    odd = odd_aberration(disc(), group)
    values = ctf(disc(), group, table.defocus)[0].to(torch.complex64)
    return (values if odd is None else values * odd).numpy()


CASES = [
    {},
    {"shift_A": [0.7, 0.0]},
    {"shift_A": [0.0, -0.4]},
    {"tilt_A": [9000.0, 0.0]},
    {"tilt_A": [0.0, -7000.0]},
    {"tilt_A": [900.0, -700.0], "cs_mm": 0.003},
    {"trefoil_A": [8000.0, 0.0]},
    {"trefoil_A": [0.0, 6000.0]},
    *[{"tetra_A": np.eye(4)[place] * 1e7} for place in range(4)],
    {"anisomag": [0.012, -0.004, 0.007, -0.009]},
    {"shift_A": [0.3, 0.2], "tilt_A": [4000.0, 2500.0], "trefoil_A": [-3000.0, 2000.0], "cs_mm": 2.41,
     "tetra_A": [2e6, -3e6, 4e6, 1.5e6], "anisomag": [0.004, 0.011, 0.011, -0.006]},
]


@pytest.mark.parametrize("values", CASES)
def test_the_phases_of_a_file_are_those_of_its_lengths(tmp_path: Path, values: dict[str, object]) -> None:
    row = record(**values)
    with open(tmp_path / "p.cs", "wb") as stream:
        np.save(stream, row)
    truth = transfer(row[0], disc().numpy().astype(float))
    np.testing.assert_allclose(ours(read_cryosparc(tmp_path / "p.cs")), truth, atol=2e-5)
    if values and "cs_mm" not in values:  # the case is strong enough to matter
        assert np.abs(truth - transfer(record()[0], disc().numpy().astype(float))).max() > 0.1


def test_the_magnification_maps_frequencies_of_the_image(tmp_path: Path) -> None:
    with open(tmp_path / "p.cs", "wb") as stream:
        np.save(stream, record(anisomag=[0.012, -0.004, 0.007, -0.009]))
    (group,) = read_cryosparc(tmp_path / "p.cs").optics
    found = reference_coordinates(torch.tensor([[10, -4]]), group, BOX, PIXEL)[0].numpy()
    np.testing.assert_allclose(found, [10 * 1.012 + 4 * 0.004, 10 * 0.007 - 4 * 0.991], rtol=1e-9)


GROUP = OpticsGroup("opticsGroup1", VOLTAGE, 2.7, CONTRAST, PIXEL, BOX)
DEFOCUS = Defocus(*(torch.tensor([value], dtype=torch.float64) for value in (15000.0, 13500.0, 0.6, 0.3, 20.0, 1.0)))


@pytest.mark.parametrize("changes", [
    {"beam_tilt": BeamTilt(0.7, -1.1)},
    *[{"odd_zernike": tuple(np.eye(6)[place] * 4.0)} for place in range(6)],
    *[{"even_zernike": tuple(np.eye(9)[place] * 4.0)} for place in range(9)],
    {"beam_tilt": BeamTilt(0.3, 0.2), "odd_zernike": (0.2, -0.1, 3.0, 2.0, -1.0, 4.0),
     "magnification": MagnificationMatrix(1.01, 0.0, 0.01, 0.98),
     "even_zernike": (0.2, 1.0, -2.0, 3.0, 4.0, -5.0, 6.0, -7.0, 8.0), "spherical_aberration": 1.4},
])
def test_relions_aberrations_keep_their_phases_in_a_cs_file(tmp_path: Path, changes: dict[str, object]) -> None:
    group = replace(GROUP, **changes)
    table = ParticleTable(
        columns={}, optics=(group,), optics_index=np.zeros(1, np.int64), stacks=(Path("none.mrcs"),),
        stack_index=np.zeros(1, np.int64), image_index=np.zeros(1, np.int64), defocus=DEFOCUS, rotations=None,
        origins=torch.zeros(1, 2), half=None, micrograph=np.zeros(1, np.int64), source=Path("x.star"))
    assert write_cryosparc(tmp_path / "p.cs", table) == []
    written = read_cs(tmp_path / "p.cs")
    row = {name: field[0].astype(np.float64) for name, field in written.fields.items() if field.dtype.kind in "fu"}
    # The lengths mean the same to the formula, and to the reader; a float32 defocus is good to a milliangstrom.
    np.testing.assert_allclose(transfer(row, disc().numpy().astype(float)), ours(table), atol=2e-4)
    np.testing.assert_allclose(ours(read_cryosparc(tmp_path / "p.cs")), ours(table), atol=2e-4)


def test_orders_that_cryosparc_does_not_know_are_said_to_be_lost() -> None:
    assert cryosparc_terms(replace(GROUP, odd_zernike=(0.0,) * 6 + (1.0,))).lost
    assert not cryosparc_terms(replace(GROUP, odd_zernike=(1.0,) * 6 + (0.0,) * 4)).lost


def test_the_beam_tilt_is_that_of_csparc2star() -> None:
    lengths = cryosparc_terms(replace(GROUP, beam_tilt=BeamTilt(0.5, -0.25))).lengths
    np.testing.assert_allclose(np.arcsin(lengths.tilt / 2.7 * 1e-7) * 1e3, (0.5, -0.25), rtol=1e-6)
    terms = relion_terms(lengths, VOLTAGE, 2.7)
    assert (terms.beam_tilt, terms.odd_zernike, terms.even_zernike) == (pytest.approx((0.5, -0.25)), (), ())
