"""Reconstruction from the same particles and poses against relion_reconstruct."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from halfmap.fourier.band import Band
from halfmap.fourier.transform import image_fft, image_ifft
from halfmap.geometry.rotations import euler_to_matrix, matrix_to_euler
from halfmap.geometry.symmetry import symmetry_group
from halfmap.imaging.ctf import Defocus, ctf
from halfmap.imaging.optics import OpticsGroup
from halfmap.kernels.poses import Samples
from halfmap.maps.masks import spherical_mask
from halfmap.reconstruction.inverse import reconstruct
from halfmap.reconstruction.statistics import Backprojection

pytestmark = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="relion_reconstruct is not installed"
)

BOX, PIXEL, COUNT = 40, 1.5, 400
OPTICS = OpticsGroup("o", 300.0, 2.7, 0.1, PIXEL, BOX)


def columns() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    return {
        "AngleRot": random.uniform(-180, 180, COUNT),
        "AngleTilt": np.degrees(np.arccos(random.uniform(-1, 1, COUNT))),
        "AnglePsi": random.uniform(-180, 180, COUNT),
        "OriginXAngst": random.normal(0, 3, COUNT),
        "OriginYAngst": random.normal(0, 3, COUNT),
        "DefocusU": random.uniform(5000, 20000, COUNT),
        "DefocusV": random.uniform(5000, 20000, COUNT),
        "DefocusAngle": random.uniform(0, 180, COUNT),
    }


def write_star(path: Path, table: dict[str, np.ndarray]) -> None:
    optics = {"OpticsGroup": 1, "OpticsGroupName": "o", "ImageDimensionality": 2, "Voltage": 300, "ImageSize": BOX,
              "SphericalAberration": 2.7, "AmplitudeContrast": 0.1, "ImagePixelSize": PIXEL}  # fmt: skip
    rows = [
        {"ImageName": f"{i % COUNT + 1}@x.mrcs", "OpticsGroup": 1, **{k: v[i] for k, v in table.items()}}
        for i in range(len(table["AngleRot"]))
    ]
    with path.open("w") as file:
        for name, block in (("optics", [optics]), ("particles", rows)):
            file.write(f"\n# version 30001\n\ndata_{name}\n\nloop_\n")
            file.writelines(f"_rln{label}\n" for label in block[0])
            file.writelines(" ".join(map(str, row.values())) + "\n" for row in block)
            file.write("\n")


def rotations_of(table: dict[str, np.ndarray]) -> Tensor:
    return euler_to_matrix(torch.from_numpy(np.stack([table[f"Angle{a}"] for a in ("Rot", "Tilt", "Psi")], 1)))


def expanded(table: dict[str, np.ndarray], symmetry: str) -> dict[str, np.ndarray]:
    """Every particle at all mates of its pose."""
    group = symmetry_group(symmetry)
    angles = np.concatenate([matrix_to_euler(rotations_of(table) @ g).numpy() for g in group])
    return {**{k: np.tile(v, len(group)) for k, v in table.items()},
            **dict(zip(("AngleRot", "AngleTilt", "AnglePsi"), angles.T, strict=True))}


def centres() -> np.ndarray:
    """Sixty blobs [a, 3] (x, y, z) in voxels off the centre."""
    return np.random.default_rng(8).normal(0, 0.12 * BOX, (60, 3)).clip(-0.25 * BOX, 0.25 * BOX)


def envelope(squared: Tensor) -> Tensor:
    """The transform of a blob of 0.9 voxels at |k|^2."""
    return torch.exp(-2 * (math.pi * 0.9 / BOX) ** 2 * squared)


def simulated(table: dict[str, np.ndarray], noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [b, y, x] through CTFs, their rotations and shifts (pixels), and the CTFs on the whole band [b, k]."""
    rotations = rotations_of(table)
    shifts = torch.from_numpy(np.stack([-table["OriginXAngst"], -table["OriginYAngst"]], 1) / PIXEL)
    band = Band.to_shell(BOX, BOX)
    u, v, angle = (torch.from_numpy(table[f"Defocus{a}"]) for a in ("U", "V", "Angle"))
    zero = torch.zeros_like(u)
    c = ctf(band.kxy, OPTICS, Defocus(u, v, torch.deg2rad(angle), zero, zero, zero + 1)).double()
    # a blob at x lies at the first two rows of R x, plus t, in the image
    place = torch.einsum("bij,aj->bai", rotations[:, :2], torch.from_numpy(centres())) + shifts[:, None]
    k = band.kxy.double()
    wave = torch.polar(torch.ones((), dtype=torch.float64), -2 * math.pi / BOX * place @ k.T).sum(1)
    coefficients = c * wave * envelope((k**2).sum(1))
    plane = torch.zeros(COUNT, BOX, BOX // 2 + 1, dtype=torch.complex128)
    plane[:, band.kxy[:, 1] % BOX, band.kxy[:, 0]] = coefficients
    column = band.kxy[:, 0] == 0
    plane[:, -band.kxy[column, 1] % BOX, 0] = coefficients[:, column].conj()
    images = image_ifft(plane, BOX)
    white = torch.from_numpy(np.random.default_rng(9).standard_normal(images.shape))
    return (images + noise * images.std() * white).float(), rotations, shifts, c


def reconstructed(folder: Path, symmetry: str, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The map [z, y, x] by this program and by RELION, from the same images.

    RELION is given all mates, because it interpolates symmetrised sums linearly and leaves that envelope in its map.
    """
    table = columns()
    images, rotations, shifts, c = simulated(table, noise)
    with mrcfile.new(folder / "x.mrcs") as file:
        file.set_data(images.numpy())
        file.voxel_size = PIXEL
    write_star(folder / "in.star", expanded(table, symmetry))
    command = "relion_reconstruct --i in.star --o out.mrc --ctf --pad 2 --sym C1"
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]

    band = Band.to_shell(BOX, BOX)
    y = band.gather(image_fft(images))
    statistics = Backprojection.zeros(BOX, 2, band.limit, torch.zeros(()))
    samples = Samples(torch.arange(COUNT), rotations, shifts, torch.ones(COUNT))
    statistics.insert_(c.float() * y, c.float() ** 2, band.kxy.double(), band, samples)
    ours = reconstruct(statistics.finished(symmetry_group(symmetry)))
    # RELION blanks the corners of the box
    sphere = spherical_mask(BOX, BOX / 2 - 5, 4.0).double().numpy()
    return ours.double().numpy() * sphere, mrcfile.read(folder / "out.mrc").astype(np.float64) * sphere


def shell_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Re sum conj(A) B of transforms [z, y, x] over each shell."""
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).astype(int)
    return np.bincount(shell.ravel(), weights=(a.conj() * b).real.ravel())


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return shell_products(a, b) / np.sqrt(shell_products(a, a) * shell_products(b, b))


def transform(v: np.ndarray) -> np.ndarray:
    return np.fft.fftn(np.fft.ifftshift(v))


@pytest.mark.parametrize("symmetry", ["C1", "D2", "C3", "I1"])
def test_the_reconstruction_from_the_same_particles_is_relions(tmp_path, symmetry):
    ours, theirs = (transform(v) for v in reconstructed(tmp_path, symmetry, noise=0.0))
    shells = slice(1, int(0.9 * BOX / 2) + 1)
    scale = (shell_products(theirs, ours) / shell_products(theirs, theirs))[shells]
    assert correlation(ours, theirs)[shells].min() > 0.99
    # The first shell depends on what fills the missing origin; a mean over an icosahedral group has little power in the
    # next ones, so that errors of interpolation weigh more: with all mates inserted here, too, 0.06 and
    # 0.031 are left.
    assert np.abs(scale[1:] - 1).max() < (0.11 if symmetry == "I1" else 0.03)
    assert np.abs(scale[5:-1] - 1).max() < (0.04 if symmetry == "I1" else 0.03)


def test_a_reconstruction_from_noisy_particles_is_as_near_to_the_truth_as_relions(tmp_path):
    ours, theirs = (transform(v) for v in reconstructed(tmp_path, "C1", noise=2.0))
    k = np.fft.fftfreq(BOX, 1 / BOX)
    q = np.stack(np.meshgrid(k, k, k, indexing="ij"), -1)[..., ::-1]
    truth = np.exp(-2j * np.pi / BOX * q @ centres().T).sum(-1) * envelope(torch.from_numpy((q**2).sum(-1))).numpy()
    shells = slice(1, int(0.9 * BOX / 2) + 1)
    assert (correlation(ours, truth) - correlation(theirs, truth))[shells].min() > -0.02
    assert correlation(ours, theirs)[1 : int(0.6 * BOX / 2) + 1].min() > 0.99
