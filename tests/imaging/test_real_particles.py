"""Ten real particles of TRPV1 and a real cryoSPARC refinement: signs, angles and handedness are those of their makers.

The images correlate with CTF x projection of their map at RELION's poses, and hardly so where one convention is turned
round. The wrong poses are made with scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from halfmap import kernels
from halfmap.fourier.transform import half_volume
from halfmap.imaging.forward import ImagingGeometry, band_images
from halfmap.maps.mrc import read_map
from halfmap.particles.cryosparc import read_cryosparc
from halfmap.particles.source import ParticleSource
from halfmap.particles.star import read_star, write_star
from halfmap.particles.table import ParticleTable

DATA = Path(__file__).parents[1] / "data"
FROM, TO = 150.0, 10.5  # A
PADDING = 2
FIRST = (-157.8085, 118.7910, 34.6833)  # rot, tilt, psi by scipy of the first row of the cryoSPARC file


@dataclass(frozen=True)
class Trial:
    """Poses and map that are tried: RELION's angles [b, 3] in degrees, origins [b, 2] in A, the map [z, y, x], and
    whether matrices are transposed."""

    angles: NDArray[np.float64]
    origins: Tensor
    map: Tensor
    transposed: bool = False


@pytest.fixture(scope="module")
def table() -> ParticleTable:
    return read_star(DATA / "trpv1" / "trpv1_small_stack.star")


@pytest.fixture(scope="module")
def right(table: ParticleTable) -> Trial:
    particles = starfile.read(table.source)["particles"]
    angles = particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    origins = particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy()
    return Trial(angles, torch.from_numpy(origins), read_map(DATA / "trpv1" / "trpv1_volume.mrc").data)


@pytest.fixture(scope="module")
def correlation(table: ParticleTable) -> Callable[[Trial], Tensor]:
    """Whitened correlation [b] of the images with CTF x projection, from FROM to TO."""
    optics = table.optics[0]
    box, pixel, length = optics.box, optics.pixel_size, optics.box * optics.pixel_size
    (batch,) = ParticleSource(table, 180.0).stream(torch.arange(len(table)))
    geometry = ImagingGeometry.build(optics, box, pixel, box // 2 - 1)
    images = band_images(batch.images, torch.ones(box, box), geometry, table.defocus, torch.ones(box // 2 + 1),
                         torch.ones(len(table)))
    band = geometry.band
    power = band.shell_sum(images.whole.abs().square().mean(dim=0)) / band.shell_sum(torch.ones(len(band)))
    white = power[band.shell].rsqrt() * ((band.shell >= length / FROM) & (band.shell <= length / TO))

    def measured(trial: Trial) -> Tensor:
        matrices = Rotation.from_euler("ZYZ", trial.angles, degrees=True).as_matrix()
        rotations = torch.from_numpy(matrices if trial.transposed else matrices.transpose(0, 2, 1).copy())
        volume = half_volume(trial.map, PADDING, box // 2 - 1)
        slices = kernels.project_slices(volume, geometry.coords * PADDING, rotations)
        angle = (2 * math.pi / length) * trial.origins @ band.kxy.double().T
        model = images.ctf * slices * torch.polar(torch.ones_like(angle), angle) * white
        seen = images.whole * white
        return (seen.conj() * model).real.sum(dim=1) / (seen.norm(dim=1) * model.norm(dim=1))

    return measured


def test_every_image_shows_the_projection_that_its_pose_names(correlation, right, table):
    found = correlation(right)
    assert float(found.mean()) == pytest.approx(0.149, abs=0.005)
    assert float(found.min()) > 0.09
    # and the table holds the very poses
    expected = Rotation.from_euler("ZYZ", right.angles, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(table.rotations, expected, atol=1e-7)
    np.testing.assert_allclose(table.origins, right.origins)


WRONG: dict[str, Callable[[Trial], Trial]] = {
    "the sign of shifts": lambda t: replace(t, origins=-t.origins),
    "x and y of shifts": lambda t: replace(t, origins=t.origins.flip(1)),
    "the matrix transposed": lambda t: replace(t, transposed=True),
    "the other hand": lambda t: replace(t, map=t.map.flip(0).roll(1, 0)),
    "the sign of psi": lambda t: replace(t, angles=t.angles * [1, 1, -1]),
    "the sign of rot": lambda t: replace(t, angles=t.angles * [-1, 1, 1]),
    "the sign of tilt": lambda t: replace(t, angles=t.angles * [1, -1, 1]),
    "dark protein": lambda t: replace(t, map=-t.map),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_images_contradict_any_other_convention(what, correlation, right):
    found = correlation(WRONG[what](right))
    # TRPV1 has a four-fold axis, so that the sign of rot costs less than that of the others.
    assert float(found.mean()) < 0.085
    assert float((found < correlation(right)).double().mean()) >= 0.8


def test_poses_at_random_explain_next_to_nothing(correlation, right):
    means = []
    for seed in range(20):
        angles = Rotation.random(len(right.angles), rng=seed).as_euler("ZYZ", degrees=True)
        means.append(float(correlation(replace(right, angles=angles)).mean()))
    assert np.mean(means) == pytest.approx(0.03, abs=0.015) and max(means) < 0.085


def test_poses_of_a_real_cryosparc_refinement_are_those_that_scipy_finds(tmp_path):
    """Rotation vectors are those of the transpose of RELION's matrix, shifts are pixels with RELION's sign."""
    path = DATA / "cryosparc_P12_J24_poses.cs"
    rows = np.load(path)
    table = read_cryosparc(path)
    vectors, shifts = (rows[f"alignments3D/{name}"].astype(np.float64) for name in ("pose", "shift"))
    matrices = Rotation.from_rotvec(vectors).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(table.rotations, matrices, atol=1e-6)
    np.testing.assert_allclose(table.origins, shifts * 2.95, atol=1e-4)
    assert table.half.tolist() == rows["alignments3D/split"].tolist()

    write_star(tmp_path / "out.star", table)
    written = starfile.read(tmp_path / "out.star")["particles"]
    angles = written[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    back = Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(back, matrices, atol=1e-6)
    np.testing.assert_allclose(angles[0], FIRST, atol=1e-3)
    np.testing.assert_allclose(written[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(), shifts * 2.95, atol=1e-4)
