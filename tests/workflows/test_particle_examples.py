"""Examples of images with and without a particle: the right ones are chosen, and projections lie where they belong."""

from __future__ import annotations

import math
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from halfmap.errors import InputError
from halfmap.particles.star import read_star
from halfmap.particles.table import ParticleTable
from halfmap.workflows.inspect_images import LOWPASS
from halfmap.workflows.particle_examples import LEAST, MOST, particle_examples

MAP_BOX, MAP_PIXEL = 48, 5.0  # 240 A
BOX, PIXEL, VOLTS, CS, CONTRAST = 60, 4.0, 300e3, 2.7, 0.1
BLOBS = np.array([[30.0, 0, 0], [0, 20, -10], [-25, -15, 35]])  # x, y, z in A
SPREAD = 14.0  # A, sd of a blob: nothing of it is finer than LOWPASS
DEFOCUS = np.array([9000.0, 12000, 15000])
ORIGINS = np.array([[0.0, 0], [13, -6], [-9, 20]])  # A, RELION's sign
ANGLES = np.array([[0.0, 0, 0], [40, 70, -110], [-20, 130, 75]])
HEAD = """
data_optics

loop_
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
1 300 2.7 0.1 4 60

data_particles

loop_
_rlnImageName
_rlnOpticsGroup
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_halfmapParticleProbability
_rlnLogLikeliContribution
"""


def table_of(folder: Path, probability: list[float], likelihood: list[float]) -> ParticleTable:
    """One row for each probability, images of noise; poses and defocus repeat."""
    images = np.random.default_rng(0).normal(size=(len(probability), BOX, BOX)).astype(np.float32)
    with mrcfile.new(folder / "s.mrcs", overwrite=True) as file:
        file.set_data(images)
        file.set_image_stack()
    rows = [
        " ".join(map(str, (f"{i + 1}@{folder / 's.mrcs'}", 1, DEFOCUS[i % 3], DEFOCUS[i % 3], 0, *ANGLES[i % 3],
                           *ORIGINS[i % 3], p, gain)))
        for i, (p, gain) in enumerate(zip(probability, likelihood, strict=True))
    ]  # fmt: skip
    (folder / "particles.star").write_text(HEAD + "\n".join(rows) + "\n")
    return read_star(folder / "particles.star")


def blobs() -> torch.Tensor:
    """The density [z, y, x] of the blobs, by definition."""
    axis = (np.arange(MAP_BOX) - MAP_BOX // 2) * MAP_PIXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return torch.from_numpy(sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * SPREAD**2))
                                for a, b, c in BLOBS).astype(np.float32))


def turned(angles: np.ndarray) -> np.ndarray:
    """Reference to image coordinates: rotations about z, y and z (Heymann et al. 2005), as matrices of row vectors."""
    rot, tilt, psi = np.deg2rad(angles)

    def about_z(a: float) -> np.ndarray:
        return np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])

    c, s = math.cos(tilt), math.sin(tilt)
    return about_z(psi) @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ about_z(rot)


def analytic(i: int) -> np.ndarray:
    """The projection [y, x] of the blobs at pose i under its CTF, by the formulas, in float64."""
    f = np.fft.fftfreq(BOX, PIXEL)
    fy, fx = np.meshgrid(f, f, indexing="ij")
    square = fx**2 + fy**2
    wavelength = 12.2643247 / math.sqrt(VOLTS * (1 + VOLTS * 0.978466e-6))
    gamma = (-math.pi * wavelength * DEFOCUS[i] * square + 0.5 * math.pi * CS * 1e7 * wavelength**3 * square**2
             - math.asin(CONTRAST))
    transform = np.zeros((BOX, BOX), complex)
    for x, y, _ in BLOBS @ turned(ANGLES[i]).T - np.append(ORIGINS[i], 0):
        transform += np.exp(-2 * np.pi**2 * SPREAD**2 * square - 2j * np.pi * (fx * x + fy * y))
    low = 1 / np.sqrt(1 + (np.sqrt(square) * LOWPASS) ** 16)
    return np.fft.fftshift(np.fft.ifft2(-np.sin(gamma) * low * transform).real)


def test_projections_are_those_of_the_map_at_the_pose_under_the_ctf_whatever_the_pixel_size(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0.1, 0.2, 0.3], [0, 0, 0])
    found = particle_examples(table, blobs(), MAP_PIXEL, 200.0).least
    assert [one.number for one in found] == [1, 2, 3]
    for i, one in enumerate(found):
        # The mean of an image is no part of the model: a grey level shows nothing.
        seen, expected = one.expected - one.expected.mean(), analytic(i) - analytic(i).mean()
        scale = (seen * expected).sum() / (expected**2).sum()
        assert np.abs(seen - scale * expected).max() < 0.02 * np.abs(scale * expected).max()


def test_the_least_and_the_most_probable_are_chosen_and_the_likelihood_decides_between_equals(tmp_path: Path) -> None:
    p = [0.9, 1.0, 0.4, 1.0, *np.linspace(0.001, 0.3, 20), 1.0, 0.501]
    found = particle_examples(table_of(tmp_path, p, [5, 7, 9, 8, *[3] * 20, 6, 9]), blobs(), MAP_PIXEL, 200.0)
    assert [one.number for one in found.least] == list(range(5, 5 + LEAST))
    assert [one.number for one in found.most] == [4, 2, 25, 1, 26] and len(found.most) < MOST
    assert found.least[0].probability == pytest.approx(0.001) and found.least[0].stack == "s.mrcs"


def test_images_are_those_of_the_stack_low_passed(tmp_path: Path) -> None:
    (one,) = particle_examples(table_of(tmp_path, [0.99, 0.2, 0.7], [1, 1, 1]), blobs(), MAP_PIXEL, 200.0).least
    with mrcfile.open(tmp_path / "s.mrcs") as file:
        stored = np.fft.fft2(file.data[1].astype(float))
    f = np.fft.fftfreq(BOX, PIXEL)
    low = np.fft.ifft2(stored / np.sqrt(1 + (np.hypot(f[:, None], f) * LOWPASS) ** 16)).real
    assert np.corrcoef(low.ravel(), one.image.ravel())[0, 1] > 0.98  # less the plane through its corners


def test_nothing_is_read_where_every_image_probably_holds_a_particle(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0.5, 0.9, 1.0], [1, 1, 1])
    (tmp_path / "s.mrcs").unlink()
    found = particle_examples(table, blobs(), MAP_PIXEL, 200.0)
    assert not found.least and not found.most


def test_a_stack_that_is_gone_is_named(tmp_path: Path) -> None:
    table = table_of(tmp_path, [0.1, 0.9], [1, 1])
    (tmp_path / "s.mrcs").unlink()
    with pytest.raises(InputError, match=r"s\.mrcs"):
        particle_examples(table, blobs(), MAP_PIXEL, 200.0)


@pytest.mark.parametrize("label", ["halfmapParticleProbability", "rlnLogLikeliContribution"])
def test_a_table_without_a_column_says_which(tmp_path: Path, label: str) -> None:
    table = table_of(tmp_path, [0.1, 0.9], [1, 1])
    del table.columns[label]
    with pytest.raises(InputError, match=label):
        particle_examples(table, blobs(), MAP_PIXEL, 200.0)
